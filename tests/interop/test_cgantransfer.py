"""What becomes of a cGANTransfer checkpoint: banks, names, and the source's classes."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cgt.errors import UserError
from cgt.interop import biggan_pytorch
from cgt.interop.cgantransfer import convert
from tests.interop.checkpoints import GOLDEN

Tensors = dict[str, Tensor]
BOTH = pytest.mark.parametrize("tree", ["cifar32", "hier64"])
SMALL, SMALL_SOURCE = GOLDEN / "cgantransfer_cifar32", GOLDEN / "biggan_pytorch_cifar32"
OLD, NEW = [f"old_00{i}" for i in range(6)], [f"new_00{i}" for i in range(3)]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the small checkpoint."""
    return Path(shutil.copytree(SMALL, tmp_path / "checkpoint"))


def rewritten(path: Path, change: Callable[[Tensors], Tensors]) -> Path:
    torch.save(change(torch.load(path, weights_only=True)), path)
    return path


@BOTH
def test_the_source_has_the_first_bank_and_the_new_classes_have_tables(tree: str) -> None:
    generator, discriminator, provenance = convert(GOLDEN / f"cgantransfer_{tree}")
    kinds = [bank.kind for bank in generator.banks]
    assert kinds == ["tables" if tree == "cifar32" else "embedding", "tables"]
    assert [list(bank.classes) for bank in generator.banks] == [OLD, NEW]
    assert discriminator is not None
    assert discriminator.classes == NEW
    assert provenance["unused_keys"].keys() == {"sv0"} | (
        {"pretrain_embedding_w"} if tree == "hier64" else set()
    )


@BOTH
def test_without_a_source_the_old_bank_is_what_the_file_holds_and_that_is_told(tree: str) -> None:
    generator, _, provenance = convert(GOLDEN / f"cgantransfer_{tree}")
    first, new = generator.banks
    stored = torch.load(GOLDEN / f"cgantransfer_{tree}" / "G_ema.pth", weights_only=True)
    table = first.scale[0] if tree == "cifar32" else first.scale[0].weight
    assert torch.equal(table, stored["blocks.0.0.bn1.gain.weight"])
    assert torch.equal(first.statistics[0].mean, stored["blocks.0.0.bn1.stored_mean"])
    assert torch.equal(first.statistics[0].mean, new.statistics[0].mean)
    assert "not the source's" in provenance["old_classes"]
    assert "--source" in provenance["old_classes"]


@BOTH
@pytest.mark.parametrize("file", ["", "G_ema.pth"])
def test_the_source_gives_its_bank_back_to_the_bit(tree: str, file: str) -> None:
    path = GOLDEN / f"biggan_pytorch_{tree}"
    source = biggan_pytorch.convert(path)[0]
    alone = convert(GOLDEN / f"cgantransfer_{tree}")[0]
    generator, _, provenance = convert(GOLDEN / f"cgantransfer_{tree}", source=path / file)
    for name, value in source.banks[0].state_dict().items():
        assert torch.equal(generator.banks[0].state_dict()[name], value), name
    for name, value in alone.state_dict().items():
        if not name.startswith("banks.0."):
            assert torch.equal(generator.state_dict()[name], value), name
    assert provenance["source"].keys() == {str(path / "G_ema.pth")}


def off_by(checkpoint: Path, source: Path) -> float:
    """How far the old classes' pictures are said to be from the source's."""
    told = re.search(
        r"differ by up to (\S+) from the source's", convert(checkpoint, source=source)[2]["old_classes"]
    )
    assert told
    return float(told[1])


def test_how_far_old_classes_are_from_the_source_is_told(checkpoint: Path) -> None:
    """Nothing is left once the vectors are those of the source."""
    assert 1e-3 < off_by(SMALL, SMALL_SOURCE) < 0.1
    source = torch.load(SMALL_SOURCE / "G_ema.pth", weights_only=True)
    vectors = {key: value for key, value in source.items() if key.endswith(".u0")}
    rewritten(checkpoint / "G_ema.pth", lambda tensors: tensors | vectors)
    assert off_by(checkpoint, SMALL_SOURCE) == 0


def iterated(tensors: Tensors, times: int) -> Tensors:
    """The same with every frozen layer's vector `times` power iterations on, as training leaves it."""
    layers = [key.removesuffix(".u0") for key in tensors if key.endswith(".u0") and ".bn" not in key]
    after = dict(tensors)
    for layer in layers:
        weight, u = tensors[f"{layer}.weight"].flatten(1), tensors[f"{layer}.u0"]
        for _ in range(times):
            u = functional.normalize(functional.normalize(u @ weight) @ weight.T)
        after[f"{layer}.u0"] = u
    return after


@BOTH
def test_both_banks_are_as_published_where_the_power_iterations_had_converged(
    tree: str, tmp_path: Path
) -> None:
    source, extended = (
        Path(shutil.copytree(GOLDEN / f"{program}_{tree}", tmp_path / program))
        for program in ("biggan_pytorch", "cgantransfer")
    )
    rewritten(source / "G_ema.pth", lambda tensors: iterated(tensors, 2000))
    vectors = {
        key: value
        for key, value in iterated(torch.load(source / "G_ema.pth", weights_only=True), 500).items()
        if key.endswith(".u0") and ".bn" not in key
    }
    rewritten(extended / "G_ema.pth", lambda tensors: tensors | vectors)
    assert off_by(extended, source) < 1e-5


def test_frozen_weights_may_be_rounded_as_averaging_does(checkpoint: Path) -> None:
    rewritten(
        checkpoint / "G_ema.pth",
        lambda tensors: tensors | {"linear.weight": tensors["linear.weight"] * 1.0001},
    )
    convert(checkpoint, source=SMALL_SOURCE)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda t: t | {"linear.weight": t["linear.weight"] * 1.01},
            "1 of 24 frozen tensors are others .linear.weight",
        ),
        (
            lambda t: {k: v[:4] if re.search(r"(gain|bias)\.weight$", k) else v for k, v in t.items()},
            "makes 4 classes",
        ),
    ],
)
def test_another_source_is_refused(change: Callable[[Tensors], Tensors], told: str, tmp_path: Path) -> None:
    source = Path(shutil.copytree(SMALL_SOURCE, tmp_path / "source"))
    rewritten(source / "G_ema.pth", change)
    with pytest.raises(UserError, match=told) as error:
        convert(SMALL, source=source)
    assert "name the right one, or leave --source out" in str(error.value)


def test_a_source_of_another_size_or_format_is_refused() -> None:
    with pytest.raises(UserError, match=r"6 classes at 64 px, where the transfer began with 6 at 32 px"):
        convert(SMALL, source=GOLDEN / "biggan_pytorch_hier64")
    with pytest.raises(UserError, match="transfer parameters of cGANTransfer, which is another format"):
        convert(SMALL, source=SMALL)
    with pytest.raises(UserError, match="there is nothing at nowhere"):
        convert(SMALL, source=Path("nowhere"))


def test_the_formats_tell_each_other_apart(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="no transfer parameters .* is converted as biggan-pytorch"):
        convert(SMALL_SOURCE)
    with pytest.raises(UserError, match=r"which is another format \(cgantransfer\)"):
        biggan_pytorch.convert(SMALL)
    with pytest.raises(UserError, match="looks like a discriminator"):
        convert(checkpoint / "D.pth")
    shutil.copy(SMALL_SOURCE / "D.pth", checkpoint / "D.pth")
    with pytest.raises(UserError, match="has no 'new_embed.weight'.* take the discriminator of the transfer"):
        convert(checkpoint)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda t: {k: v for k, v in t.items() if k != "blocks.1.0.bn2.res_b.weight"},
            "1 missing: blocks.1.0.bn2.res_b.weight",
        ),
        (
            lambda t: t | {"blocks.0.0.bn1.prev_knowledge_g.weight": torch.ones(16, 5)},
            r"prev_knowledge_g.weight \(16, 5\) in place of \(16, 6\)",
        ),
        (
            lambda t: t | {"blocks.0.0.bn1.comb_layer_b.bias": torch.full((6,), torch.inf)},
            "1 not finite: blocks.0.0.bn1.comb_layer_b.bias",
        ),
        (
            lambda t: t | {"blocks.0.0.bn1.z_layer_g.weight": torch.ones(16, 3)},
            "1 unknown: blocks.0.0.bn1.z_layer_g.weight",
        ),
    ],
)
def test_transfer_parameters_that_do_not_fit_are_named(
    change: Callable[[Tensors], Tensors], told: str, checkpoint: Path
) -> None:
    rewritten(checkpoint / "G_ema.pth", change)
    with pytest.raises(UserError, match=told):
        convert(checkpoint)
