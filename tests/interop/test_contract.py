"""What every checkpoint format must do: a new one is tested on arrival, once `checkpoints` lists it."""

import errno
import pickle
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cgt import catalog
from cgt.cli import main
from cgt.errors import UserError
from tests.interop.checkpoints import FOLDERS, FORMATS, GOLDEN, WEIGHT_FILES, Attack

Tensors = dict[str, Tensor]
PROVENANCE = {"format", "files", "left_out", "training", "unused_keys"}
EVERY_FILE = pytest.mark.parametrize(
    ("format_name", "folder", "file"), WEIGHT_FILES, ids=[f"{row[0]} {row[2]}" for row in WEIGHT_FILES]
)
SMALLEST = pytest.mark.parametrize(
    ("format_name", "folder"), [(name, GOLDEN / folders[0]) for name, folders in FORMATS.items()]
)


def program(format_name: str) -> ModuleType:
    return catalog.load("cgt.interop", format_name, kind="checkpoint format")


def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "checkpoint"))


def rewrite(path: Path, change: Callable[[Tensors], Any]) -> None:
    torch.save(change(torch.load(path, weights_only=True)), path)


def test_every_format_has_small_checkpoints() -> None:
    assert set(FORMATS) == set(catalog.names("cgt.interop"))


@pytest.mark.parametrize(("format_name", "folder"), FOLDERS, ids=[folder.name for _, folder in FOLDERS])
def test_a_format_gives_what_a_model_folder_is_written_from(format_name: str, folder: Path) -> None:
    generator, discriminator, provenance = program(format_name).convert(folder, weights=None, classes=None)
    assert not generator.training
    assert provenance["format"] == format_name
    assert provenance.keys() >= PROVENANCE
    assert set(provenance["files"]) <= {path.name for path in folder.iterdir()}
    assert all(tensor.dtype == torch.float32 for tensor in generator.state_dict().values())
    assert (discriminator is not None) == (folder / "D.pth").is_file()
    assert ("old_classes" in provenance) == (len(generator.banks) > 1)
    if discriminator is not None:
        assert discriminator.classes == list(generator.last_bank.classes)


@SMALLEST
def test_class_names_are_given_in_the_order_of_the_generator(format_name: str, folder: Path) -> None:
    count = len(program(format_name).convert(folder, weights=None, classes=None)[0].classes)
    names = [f"name {i}" for i in range(count)]
    assert program(format_name).convert(folder, weights=None, classes=names)[0].classes == names
    with pytest.raises(UserError, match=f"has {count} classes: give one name for each"):
        program(format_name).convert(folder, weights=None, classes=names[1:])
    with pytest.raises(UserError, match="stands twice|already"):
        program(format_name).convert(folder, weights=None, classes=[*names[1:], names[1]])


@EVERY_FILE
@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "before torch 1.6"])
def test_a_malicious_file_is_refused_and_not_executed(
    format_name: str, folder: Path, file: str, new_format: bool, tmp_path: Path
) -> None:
    path = copied(folder, tmp_path) / file
    attack = OrderedDict(torch.load(path, weights_only=True), trojan=Attack(tmp_path / "executed"))
    torch.save(attack, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(UserError, match=r"asks for posix\.mkdir.*nothing in it was executed"):
        program(format_name).convert(path.parent, weights=None, classes=None)
    assert not (tmp_path / "executed").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "executed").exists(), "without the refusal the attack works"


@EVERY_FILE
def test_a_plain_pickle_in_a_files_place_is_refused_and_not_executed(
    format_name: str, folder: Path, file: str, tmp_path: Path
) -> None:
    path = copied(folder, tmp_path) / file
    path.write_bytes(pickle.dumps(Attack(tmp_path / "executed")))
    with pytest.raises(UserError, match=path.name):
        program(format_name).convert(path.parent, weights=None, classes=None)
    assert not (tmp_path / "executed").exists()


@SMALLEST
def test_a_malicious_config_is_not_executed(format_name: str, folder: Path, tmp_path: Path) -> None:
    """Whether it is refused, read around or never read."""
    checkpoint = copied(folder, tmp_path)
    attack = Attack(tmp_path / "executed")
    for path in checkpoint.iterdir():
        if path.name in ("config.json", "io.npz"):
            path.write_bytes(pickle.dumps(attack))
        elif path.name == "state_dict.pth":
            torch.save(
                {"itr": 7, "config": {"BN_eps": 1e-3, "activation": nn.ReLU(), "trojan": attack}}, path
            )
    try:
        generator, _, provenance = program(format_name).convert(checkpoint, weights=None, classes=None)
    except UserError as error:
        assert str(checkpoint) in str(error)  # noqa: PT017 - either way will do
    else:
        assert (generator.config.bn_eps, provenance["training"]) == (1e-3, {"itr": 7})
    assert not (tmp_path / "executed").exists()


def first(change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    """A change of a file's first tensor."""

    def changed(tensors: Tensors) -> Tensors:
        key = next(iter(tensors))
        return {**tensors, key: change(tensors[key])}

    return changed


def without_first(tensors: Tensors) -> Tensors:
    return dict(list(tensors.items())[1:])


@EVERY_FILE
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (first(lambda value: torch.full_like(value, torch.nan)), "not finite|NaN"),
        (first(lambda value: value[:-1]), "shape|rows|columns|classes"),
        (first(lambda value: value[None]), "shape|dimensions"),
        (without_first, "missing|has no"),
        (lambda tensors: {**tensors, "what.is.this": torch.ones(1)}, "what.is.this"),
        (lambda tensors: {"model": tensors}, "not a state dict"),
    ],
    ids=["NaN", "fewer rows", "more dimensions", "missing", "unknown", "nested"],
)
def test_tensors_that_do_not_fit_are_refused(
    format_name: str,
    folder: Path,
    file: str,
    change: Callable[[Tensors], Any],
    told: str,
    tmp_path: Path,
) -> None:
    path = copied(folder, tmp_path) / file
    rewrite(path, change)
    with pytest.raises(UserError, match=told) as error:
        program(format_name).convert(path.parent, weights=None, classes=None)
    assert str(path) in str(error.value)


@EVERY_FILE
@pytest.mark.parametrize("part", [0.0, 0.1, 0.99])
def test_a_truncated_file_is_told_as_incomplete(
    format_name: str, folder: Path, file: str, part: float, tmp_path: Path
) -> None:
    path = copied(folder, tmp_path) / file
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(UserError, match=rf"{path.name} is not a PyTorch checkpoint, or is incomplete"):
        program(format_name).convert(path.parent, weights=None, classes=None)


@SMALLEST
def test_an_output_that_exists_stays_without_overwrite(
    format_name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert main(["convert", format_name, str(folder), str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "mine.txt"]


@SMALLEST
def test_a_place_without_permission_is_told(
    format_name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Root may write anywhere, so the refusal of the system is played."""

    def refused(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refused)
    assert main(["convert", format_name, str(folder), str(tmp_path / "model")]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "can't be written (Permission denied): name a place where you may write" in told
    assert not list(tmp_path.iterdir())


@SMALLEST
def test_a_place_in_a_file_is_told(format_name: str, folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(["convert", format_name, str(folder), str(tmp_path / "file" / "model")]) == 2
    assert "name a place where you may write" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("format_name", "option"),
    [(name, option) for name in FORMATS for option in {"source"} - program(name).OPTIONS],
)
def test_options_that_a_format_has_not_are_refused(
    format_name: str, option: str, tmp_path: Path, capsys
) -> None:
    folder = GOLDEN / FORMATS[format_name][0]
    assert main(["convert", format_name, str(folder), str(tmp_path / "model"), f"--{option}", "x"]) == 2
    assert f"--{option} means nothing for {format_name}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
