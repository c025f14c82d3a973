"""Checking a conversion by what the original program made."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgt.cli import main
from cgt.errors import UserError
from cgt.interop.originals import read_originals
from tests.interop.checkpoints import FOLDERS, GOLDEN, Attack

CHECKPOINT = GOLDEN / "biggan_pytorch_cifar32"
Arrays = dict[str, Any]


def check(format_name: str, folder: Path, npz: Path, out: Path, *more: str) -> int:
    return main(["convert", format_name, str(folder), str(out), "--check", str(npz), *more])


def changed(change: Callable[[Arrays], Arrays], tmp_path: Path) -> Path:
    """A file of the small checkpoint's inputs and outputs, changed."""
    path = tmp_path / "changed.npz"
    np.savez(path, **change(dict(np.load(CHECKPOINT / "io.npz"))))
    return path


@pytest.mark.parametrize(
    ("format_name", "folder"), FOLDERS[::2], ids=[folder.name for _, folder in FOLDERS[::2]]
)
def test_what_makes_the_originals_pictures_is_written_and_the_difference_told(
    format_name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(format_name, folder, folder / "io.npz", tmp_path / "model") == 0
    told = capsys.readouterr().out
    for compared in ("pictures", "eval_logits_fake", "eval_logits_real"):
        assert f"checked: {compared} differ by at most" in told
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda a: a | {"eval_images": a["eval_images"] + np.float32(2e-4)},
            r"pictures by 0.0002 (allowed: 0.0001)",
        ),
        (lambda a: a | {"eval_logits_real": a["eval_logits_real"] + 1}, "eval_logits_real by 1"),
        (lambda a: a | {"y": np.roll(a["y"], 1)}, "pictures by"),
    ],
    ids=["pictures", "logits", "labels"],
)
def test_what_differs_is_refused_and_nothing_is_left(
    change: Callable[[Arrays], Arrays], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "models"
    assert check("biggan-pytorch", CHECKPOINT, changed(change, tmp_path), place / "model") == 2
    assert told in capsys.readouterr().err
    assert not list(place.rglob("*"))


def test_the_limits_told_are_those_of_the_largest_logits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check("biggan-pytorch", CHECKPOINT, CHECKPOINT / "io.npz", tmp_path / "model") == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("checked")]
    # The largest logits are 19.2 and 21.0.
    for line, limit in zip(told, ("1.0e-04", "1.9e-03", "2.1e-03"), strict=True):
        assert line.endswith(f"(limit: {limit})")


def test_a_model_stays_where_what_should_replace_it_differs(tmp_path: Path) -> None:
    out, other = tmp_path / "model", changed(lambda a: a | {"eval_images": -a["eval_images"]}, tmp_path)
    assert check("biggan-pytorch", CHECKPOINT, CHECKPOINT / "io.npz", out) == 0
    before = (out / "generator.safetensors").read_bytes()
    assert check("biggan-pytorch", CHECKPOINT, other, out, "--overwrite", "--classes", "a,b,c,d,e,f") == 2
    assert (out / "generator.safetensors").read_bytes() == before
    assert check("biggan-pytorch", CHECKPOINT, CHECKPOINT / "io.npz", out, "--overwrite") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"model", "changed.npz"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: a | {"y": a["y"] + 5}, "has the labels 6, 7, 8, 9, 10"),
        (lambda a: a | {"y": a["y"] - 1}, "has the labels -1, and the 6 classes"),
        (lambda a: a | {"z": a["z"][:, :7]}, "z has 7 numbers a picture, and this generator takes 32"),
        (lambda a: a | {"eval_images": a["eval_images"][..., ::2, ::2]}, "eval_images is 3 x 16 x 16"),
        (lambda a: a | {"x": a["x"][:, :1]}, "x is 1 x 32 x 32"),
    ],
    ids=["labels too large", "negative labels", "latents", "pictures", "real pictures"],
)
def test_inputs_of_another_model_are_told(
    change: Callable[[Arrays], Arrays], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check("biggan-pytorch", CHECKPOINT, changed(change, tmp_path), tmp_path / "model") == 2
    error = capsys.readouterr().err
    assert "is of another model" in error
    assert told in error
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: {k: v for k, v in a.items() if k != "z"}, r"has no z \(there is: eval_images,"),
        (lambda a: a | {"z": a["z"][:3]}, r"z has the shape \(3, 32\).* first of them 8 as y"),
        (lambda a: a | {"eval_images": a["eval_images"][0]}, "eval_images has the shape .* 4 dimensions"),
        (lambda a: a | {"y": np.int64(3)}, r"y has the shape \(\), and must have 1 dimension"),
        (lambda a: {k: v[:0] for k, v in a.items()}, "none 0"),
        (lambda a: a | {"y": a["y"].astype(np.float32)}, "y holds float32, and must hold integers"),
        (lambda a: a | {"z": a["z"].astype(np.int64)}, "z holds int64, and must hold floating-point"),
        (lambda a: a | {"z": a["z"] * np.nan}, "z holds numbers that are not finite"),
        (lambda a: a | {"eval_logits_fake": a["eval_logits_fake"][:2]}, "eval_logits_fake has the shape"),
    ],
)
def test_a_file_that_does_not_hold_together_is_told(
    change: Callable[[Arrays], Arrays], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        read_originals(changed(change, tmp_path))


def test_pictures_and_labels_are_enough(tmp_path: Path) -> None:
    path = changed(lambda a: {name: a[name] for name in ("z", "y", "eval_images")}, tmp_path)
    assert check("biggan-pytorch", CHECKPOINT / "G_ema.pth", path, tmp_path / "model") == 0


@pytest.mark.parametrize("name", ["z", "y", "more"])
def test_an_array_of_objects_is_refused_and_not_executed(name: str, tmp_path: Path) -> None:
    attack = np.array([Attack(tmp_path / "executed")], dtype=object)
    path = changed(lambda a: a | {name: attack}, tmp_path)
    with pytest.raises(UserError, match="holds Python objects.*nothing in it was executed"):
        read_originals(path)
    assert not (tmp_path / "executed").exists()
    np.load(path, allow_pickle=True)[name]
    assert (tmp_path / "executed").exists(), "without the refusal the attack works"


def test_a_file_of_another_kind_is_refused_and_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "io.npz"
    whole = (CHECKPOINT / "io.npz").read_bytes()
    attack = pickle.dumps(Attack(tmp_path / "executed"))
    for content in (b"", b"hello", whole[: len(whole) // 2], attack):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"io\.npz (is not an \.npz file|holds Python objects)"):
            read_originals(path)
    np.save(tmp_path / "one.npy", np.ones(3))
    shutil.move(tmp_path / "one.npy", path)
    with pytest.raises(UserError, match=r"is not an \.npz file"):
        read_originals(path)
    with pytest.raises(UserError, match="there is no file"):
        read_originals(tmp_path / "nowhere.npz")
    assert not (tmp_path / "executed").exists()
