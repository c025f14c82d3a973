"""Files that can't be converted: told by file, key, rule and remedy, and nothing in them is executed."""

import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cgt.cli import main
from cgt.errors import UserError
from cgt.interop.biggan_pytorch import convert
from cgt.interop.pickles import read_plain_values
from tests.interop.checkpoints import GOLDEN, Attack

Tensors = dict[str, Tensor]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the small checkpoint."""
    return Path(shutil.copytree(GOLDEN / "biggan_pytorch_cifar32", tmp_path / "checkpoint"))


def without(key: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if name != key}


def replaced(key: str, value: Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, key: value}


def only(pattern: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if re.search(pattern, name)}


NAN = torch.full((16,), float("nan"))


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("G_ema.pth", without("output_layer.2.bias"), "1 missing: output_layer.2.bias"),
        ("G_ema.pth", without("linear.weight"), "has no 'linear.weight'"),
        ("G_ema.pth", without("blocks.1.0.conv1.weight"), "has no 'blocks.1.0.conv1.weight'"),
        ("G_ema.pth", replaced("blocks.0.0.extra", NAN), "1 unknown: blocks.0.0.extra"),
        (
            "G_ema.pth",
            replaced("blocks.0.0.bn1.stored_mean", NAN),
            "1 not finite: blocks.0.0.bn1.stored_mean",
        ),
        ("G_ema.pth", replaced("linear.bias", torch.ones(9)), r"linear.bias \(9,\) in place of \(256,\)"),
        (
            "G_ema.pth",
            replaced("linear.weight", torch.ones(7)),
            r"the shape \(7,\), where a .* has 2 dimensions",
        ),
        (
            "G_ema.pth",
            replaced("linear.weight", torch.ones(250, 32)),
            "has 250 rows, and they must be a square",
        ),
        ("G_ema.pth", replaced("linear.weight", torch.ones(256, 0)), "none of them 0"),
        ("G_ema.pth", replaced("shared.weight", torch.ones(6, 16)), "12 missing: blocks.0.0.bn1.gain.u0"),
        (
            "G_ema.pth",
            replaced("blocks.0.0.bn1.comb_layer_g.weight", NAN),
            "transfer parameters of cGANTransfer",
        ),
        ("G_ema.pth", only(r"^(?!.*\.u0$)"), "no spectral norm"),
        ("D.pth", replaced("embed.weight", torch.ones(5, 16)), "knows 5 classes, the generator 6"),
        ("D.pth", replaced("linear.weight", torch.full((1, 16), torch.inf)), "1 not finite: linear.weight"),
        ("D.pth", without("blocks.1.0.conv_sc.weight"), "1 missing: blocks.1.0.conv_sc.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_named_with_a_remedy(
    file: str, change: Callable[[Tensors], Tensors], told: str, checkpoint: Path
) -> None:
    path = checkpoint / file
    torch.save(change(torch.load(path, weights_only=True)), path)
    with pytest.raises(UserError, match=told) as error:
        convert(checkpoint)
    assert str(path) in str(error.value)
    assert re.search(
        r"name another file|trained with it|another format|give (its|the generator's) file", str(error.value)
    )


def test_all_faults_of_a_file_are_told_at_once(checkpoint: Path) -> None:
    path = checkpoint / "G_ema.pth"
    tensors = torch.load(path, weights_only=True)
    del tensors["linear.bias"]
    tensors["linear.u0"] = torch.ones(1, 3)
    tensors["to_rgb.weight"] = tensors["output_layer.0.gain"] = NAN
    torch.save(tensors, path)
    with pytest.raises(UserError) as error:
        convert(checkpoint)
    for told in (
        "missing: linear.bias",
        "unknown: to_rgb.weight",
        "linear.u0 (1, 3)",
        "not finite: output_layer.0.gain",
    ):
        assert told in str(error.value)


def test_a_discriminator_in_the_generators_place_is_recognised(checkpoint: Path) -> None:
    with pytest.raises(
        UserError, match="looks like a discriminator; give its folder, or the generator's file"
    ):
        convert(checkpoint / "D.pth")


@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("new_format", [True, False])
def test_a_truncated_file_is_told_as_incomplete(part: float, new_format: bool, checkpoint: Path) -> None:
    path = checkpoint / "G_ema.pth"
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=new_format)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(UserError, match=r"G_ema\.pth is not a PyTorch checkpoint, or is incomplete"):
        convert(checkpoint)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([torch.ones(2)], "holds a list, not a state dict"),
        ({}, "holds an empty dict"),
        ({"state_dict": {"linear.weight": torch.ones(2)}}, "holds a dict of dict"),
        (torch.ones(2), "holds a Tensor"),
    ],
)
def test_a_file_of_something_else_is_told_as_such(content: Any, told: str, checkpoint: Path) -> None:
    torch.save(content, checkpoint / "G_ema.pth")
    with pytest.raises(UserError, match=told):
        convert(checkpoint)


@pytest.mark.parametrize("text", [b"", b"hello", b"\x89PNG\r\n", bytes(range(256))])
def test_a_file_that_is_no_checkpoint_at_all_is_told_as_such(text: bytes, checkpoint: Path) -> None:
    (checkpoint / "G_ema.pth").write_bytes(text)
    with pytest.raises(UserError, match="is not a PyTorch checkpoint"):
        convert(checkpoint)


def test_missing_files_are_told_with_what_is_there(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "G_ema.pth").rename(checkpoint / "G_ema_best0.pth")
    with pytest.raises(
        UserError, match=r"no G_ema.pth or G.pth \(there is: D.pth, G_ema_best0.pth.*--weights FILE"
    ):
        convert(checkpoint)
    with pytest.raises(UserError, match=r"no .pth file at all"):
        (tmp_path / "empty").mkdir()
        convert(tmp_path / "empty")
    with pytest.raises(UserError, match="there is nothing at"):
        convert(tmp_path / "nowhere")
    with pytest.raises(UserError, match="means nothing: give the folder"):
        convert(checkpoint / "D.pth", weights=Path("G.pth"))


@pytest.mark.parametrize("new_format", [True, False])
def test_training_state_is_read_without_executing_it(
    new_format: bool, checkpoint: Path, tmp_path: Path
) -> None:
    config = {
        "BN_eps": 1e-3,
        "G_init": "ortho",
        "activation": nn.ReLU(),
        "deep": {"lr": 2e-4, "list": [nn.ReLU()]},
    }
    state = {
        "itr": 70,
        "best_FID": 9.5,
        "config": config,
        "shape": (1, 2),
    }
    torch.save(state, checkpoint / "state_dict.pth", _use_new_zipfile_serialization=new_format)
    read = read_plain_values(checkpoint / "state_dict.pth")
    assert read == {
        "itr": 70,
        "best_FID": 9.5,
        "config": {"BN_eps": 1e-3, "G_init": "ortho", "deep": {"lr": 2e-4}},
    }
    generator, _, provenance = convert(checkpoint)
    assert (generator.config.bn_eps, generator.config.init) == (1e-3, "orthogonal")
    assert provenance["training"] == {"itr": 70, "best_FID": 9.5}
    state["trojan"] = Attack(tmp_path / "executed")
    torch.save(state, checkpoint / "state_dict.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(UserError, match=r"state_dict.pth .*asks for posix.mkdir, .*nothing in it was exec"):
        convert(checkpoint)
    assert not (tmp_path / "executed").exists()


def test_a_generator_that_can_make_no_picture_is_refused(checkpoint: Path, tmp_path: Path, capsys) -> None:
    weights = torch.load(checkpoint / "G_ema.pth", weights_only=True)
    name = next(name for name in weights if name.endswith("stored_var"))
    torch.save({**weights, name: -torch.ones_like(weights[name])}, checkpoint / "G_ema.pth")
    assert main(["convert", "biggan-pytorch", str(checkpoint), str(tmp_path / "out")]) == 2
    assert "makes pictures with values that are not finite" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_options_of_another_type_are_as_good_as_none(checkpoint: Path) -> None:
    options = {"G_init": {"of": "nothing"}, "BN_eps": {"of": "nothing"}}
    torch.save({"config": options}, checkpoint / "state_dict.pth")
    generator, _, _ = convert(checkpoint)
    assert (generator.config.bn_eps, generator.config.init) == (1e-5, "normal")


def test_scores_that_are_not_finite_are_left_out(checkpoint: Path) -> None:
    state = {"itr": 70, "epoch": float("nan"), "best_IS": {"nested": float("nan")}, "best_FID": float("inf")}
    torch.save(state, checkpoint / "state_dict.pth")
    assert convert(checkpoint)[2]["training"] == {"itr": 70}


def test_a_generator_of_no_save_has_neither_discriminator_nor_training_state(checkpoint: Path) -> None:
    (checkpoint / "G_ema.pth").rename(checkpoint / "birds.pth")
    torch.save({"itr": 70, "config": {"BN_eps": 1e-3}}, checkpoint / "state_dict.pth")
    generator, discriminator, provenance = convert(checkpoint, weights=Path("birds.pth"))
    assert discriminator is None
    assert generator.config.bn_eps == 1e-5
    assert set(provenance["files"]) == {"birds.pth"}
    assert (provenance["left_out"], provenance["training"]) == ([], {})


def endless() -> bytes:
    content: dict[str, Any] = {}
    content["config"] = content
    return b"".join(pickle.dumps(part) for part in (0, 0, 0, content))


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps([1, 2]), endless()])
def test_damaged_training_state_is_refused_and_a_missing_one_is_done_without(
    content: bytes, checkpoint: Path
) -> None:
    (checkpoint / "state_dict.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"state_dict.pth .*move it away to convert with the published ones"):
        convert(checkpoint)
    (checkpoint / "state_dict.pth").unlink()
    generator, _, provenance = convert(checkpoint)
    assert generator.config.bn_eps == 1e-5
    assert provenance["training"] == {}
