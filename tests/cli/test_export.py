"""`cgt export` from the command line: what it refuses, and that nothing is half-written."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cgt import catalog
from cgt.cli import main
from cgt.export import parity
from cgt.models.folder import load_generator, save_model
from tests import tiny

FORMATS = catalog.names("cgt.export")
Damage = Callable[[Path], None]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    generator = tiny.source(tiny.PER_LAYER).generator
    generator.append(generator.new_class_bank(tiny.NEW))
    save_model(tmp_path / "model", generator.eval(), provenance={})
    return tmp_path / "model"


def command(model: Path, out: Path, *words: str, target: str = "safetensors") -> list[str]:
    return ["export", str(model), str(out), "--format", target, *words]


def everything(root: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in root.rglob("*")}


def truncated(model: Path) -> None:
    content = (model / "generator.safetensors").read_bytes()
    (model / "generator.safetensors").write_bytes(content[: len(content) // 2])


def of_other_shape(model: Path) -> None:
    tensors = load_file(model / "generator.safetensors")
    save_file({**tensors, "to_rgb.bias": torch.zeros(4)}, model / "generator.safetensors")


def with_nan(model: Path) -> None:
    tensors = load_file(model / "generator.safetensors")
    tensors["linear.bias"][0] = torch.nan
    save_file(tensors, model / "generator.safetensors")


def of_the_future(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"format_version": 2}))


def without_weights(model: Path) -> None:
    (model / "generator.safetensors").unlink()


DAMAGE: dict[str, tuple[Damage, str]] = {
    "a truncated file": (truncated, "generator.safetensors can't be read"),
    "a wrong shape": (of_other_shape, "to_rgb.bias is (4,), not (3,)"),
    "a number that is none": (with_nan, "linear.bias is not finite"),
    "a later format": (of_the_future, "has format version 2, and this cgt reads version 1"),
    "a missing file": (without_weights, "generator.safetensors is missing"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("target", ["safetensors", "torch-export"])
def test_a_damaged_model_is_named_and_nothing_written(
    damage: str, target: str, model: Path, tmp_path: Path, refusal: Callable[[int], str]
) -> None:
    harm, words = DAMAGE[damage]
    harm(model)
    before = everything(tmp_path)
    message = refusal(main(command(model, tmp_path / "out", target=target)))
    assert words in " ".join(message.split())
    assert everything(tmp_path) == before


def test_an_existing_output_stays_unless_it_may_be_overwritten(
    model: Path, tmp_path: Path, refusal: Callable[[int], str]
) -> None:
    out = tmp_path / "out"
    assert main(command(model, out, "--classes", "old")) == 0
    before = everything(out)
    assert "exists already" in refusal(main(command(model, out)))
    assert everything(out) == before
    assert main(command(model, out, "--overwrite")) == 0
    assert load_generator(out).classes == [*tiny.OLD, *tiny.NEW]


def test_a_model_that_was_trained_is_never_overwritten(
    model: Path, tmp_path: Path, refusal: Callable[[int], str]
) -> None:
    shutil.copytree(model, tmp_path / "trained")
    (tmp_path / "trained" / "discriminator.safetensors").unlink(missing_ok=True)
    before = everything(tmp_path / "trained")
    message = refusal(main(command(model, tmp_path / "trained", "--overwrite")))
    assert "was trained or converted, and no export of one" in " ".join(message.split())
    assert everything(tmp_path / "trained") == before


def test_a_discriminator_that_is_not_wanted_need_not_be_there(tmp_path: Path) -> None:
    source = tiny.source(tiny.PER_LAYER)
    save_model(tmp_path / "model", source.generator, source.discriminator, provenance={})
    (tmp_path / "model" / "discriminator.safetensors").unlink()
    assert main(command(tmp_path / "model", tmp_path / "out")) == 0
    assert load_generator(tmp_path / "out").classes == list(tiny.OLD)


@pytest.mark.parametrize("target", FORMATS)
def test_a_folder_of_something_else_is_never_overwritten(
    target: str, model: Path, tmp_path: Path, refusal: Callable[[int], str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    before = everything(tmp_path)
    message = refusal(main(command(model, tmp_path / "mine", "--overwrite", target=target)))
    assert "so --overwrite does not replace it" in " ".join(message.split())
    assert "it is" in refusal(main(command(model, model, "--overwrite")))
    assert everything(tmp_path) == before


def test_a_folder_that_may_not_be_written_to_is_named(
    model: Path, tmp_path: Path, refusal: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere, so the refusal of the system is played."""

    def refused(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    before = everything(tmp_path)
    monkeypatch.setattr(Path, "mkdir", refused)
    message = refusal(main(command(model, tmp_path / "out")))
    assert "can't be written (Permission denied): name a place where you may write" in " ".join(
        message.split()
    )
    assert everything(tmp_path) == before


def test_a_place_below_a_file_is_named(model: Path, tmp_path: Path, refusal: Callable[[int], str]) -> None:
    (tmp_path / "file").write_text("")
    message = refusal(main(command(model, tmp_path / "file" / "out")))
    assert "can't be written" in message
    assert (tmp_path / "file").read_text() == ""


def test_what_makes_other_pictures_is_not_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cgt.models import folder

    def other(path: Path) -> object:
        generator = load_generator(path)
        with torch.no_grad():
            generator.to_rgb.bias += 0.001
        return generator

    monkeypatch.setattr(folder, "load_generator", other)
    before = everything(tmp_path)
    assert main(command(model, tmp_path / "out")) == 1
    assert "makes other pictures than the model: by 0.00" in capsys.readouterr().err
    assert everything(tmp_path) == before
    assert main(command(model, tmp_path / "out", "--no-verify")) == 0
    assert "not compared with the model" in capsys.readouterr().out
    assert "Not measured" in (tmp_path / "out" / "README.md").read_text()


def test_pictures_that_are_not_finite_are_not_taken_for_equal(model: Path) -> None:
    generator = load_generator(model)
    found = parity.difference(generator, generator.classes, lambda z, y: generator(z, y) * torch.nan)
    assert found.greatest == float("inf")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--format", "onxx"], "no export format is called 'onxx' (did you mean 'onnx'?)"),
        (["--format", "onnx", "--half"], "--half has no meaning for --format onnx"),
        (["--format", "safetensors", "--mixing"], "--mixing has no meaning for --format safetensors"),
        (["--format", "safetensors", "--truncation", "0.5"], "which takes --classes, --half"),
        (["--format", "aoti", "--mixing"], "--mixing has no meaning for --format aoti"),
        (["--format", "onnx", "--truncation", "0"], "give a number above 0"),
        (["--format", "onnx", "--truncation", "nan"], "give a number above 0"),
        (["--format", "safetensors", "--classes", "elk,cow"], "cow"),
    ],
)
def test_mistakes_are_told_and_write_nothing(
    words: list[str], told: str, model: Path, tmp_path: Path, refusal: Callable[[int], str]
) -> None:
    before = everything(tmp_path)
    message = refusal(main(["export", str(model), str(tmp_path / "out"), *words]))
    assert told in " ".join(message.split())
    assert everything(tmp_path) == before


def test_no_model_is_told(tmp_path: Path, refusal: Callable[[int], str]) -> None:
    assert "there is no model at" in refusal(main(command(tmp_path / "none", tmp_path / "out")))


def test_packages_that_are_missing_are_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Callable[[int], str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = refusal(main(command(model, tmp_path / "out", target="onnx")))
    assert "needs onnx and onnxscript and onnxruntime: pip install 'cgt[export]'" in " ".join(message.split())
