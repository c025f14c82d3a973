"""`cgt convert` from the command line: what it writes, prints and refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cgt.cli import main
from cgt.models.folder import load_generator

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture
def checkpoint() -> str:
    return str(GOLDEN / "biggan_pytorch_cifar32")


def test_writes_a_model_folder_and_shows_what_it_found(checkpoint: str, tmp_path: Path, capsys) -> None:
    assert main(["convert", "biggan-pytorch", checkpoint, str(tmp_path / "model")]) == 0
    shown = capsys.readouterr().out
    for fact in (
        "32 px",
        "16, 16, 16, 16",
        "6: class_000",
        "per layer",
        "24,803 parameters",
        "17,137 parameters",
        "23 sv0",
    ):
        assert fact in shown
    provenance = json.loads((tmp_path / "model" / "config.json").read_text())["provenance"]
    assert provenance["format"] == "biggan-pytorch"
    assert set(provenance["files"]) == {"G_ema.pth", "D.pth"}
    assert (tmp_path / "model" / "discriminator.safetensors").is_file()


def test_hierarchical_conditioning_is_named(tmp_path: Path, capsys) -> None:
    assert (
        main(["convert", "biggan-pytorch", str(GOLDEN / "biggan_pytorch_hier64"), str(tmp_path / "model")])
        == 0
    )
    shown = capsys.readouterr().out
    assert "a shared embedding of 16, hierarchical z in chunks of 10" in shown
    assert "attention" in shown
    assert "32 px" in shown


@pytest.mark.parametrize(
    ("format_name", "folder", "facts"),
    [
        ("biggan-pytorch", "biggan_pytorch_hier64", ["architecture BigGAN resolution"]),
        (
            "hf-biggan",
            "hf_biggan_deep32",
            ["architecture BigGAN-deep", "a shared embedding of 16, and all of z at every layer"],
        ),
    ],
)
def test_the_architecture_is_named(
    format_name: str, folder: str, facts: list[str], tmp_path: Path, capsys
) -> None:
    assert main(["convert", format_name, str(GOLDEN / folder), str(tmp_path / "model")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert [fact for fact in facts if fact not in shown] == []


def test_the_default_weights_of_every_format_are_in_the_help(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["convert", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "G_ema.pth, else G.pth; for hf-biggan, pytorch_model.bin]" in shown


def test_class_names_come_from_a_file(checkpoint: str, tmp_path: Path) -> None:
    names = ["bear", "café", "[red]fox", "a b", "owl", "yak"]
    (tmp_path / "names.txt").write_text("# animals\n" + "\n".join(names) + "\n\n", encoding="utf-8")
    out = tmp_path / "model"
    assert (
        main(["convert", "biggan-pytorch", checkpoint, str(out), "--classes", str(tmp_path / "names.txt")])
        == 0
    )
    assert load_generator(out).classes == names


def test_an_existing_output_is_left_alone_unless_told_to_overwrite(
    checkpoint: str, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert main(["convert", "biggan-pytorch", checkpoint, str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert [file.name for file in out.iterdir()] == ["mine.txt"]
    assert main(["convert", "biggan-pytorch", checkpoint, str(out), "--overwrite"]) == 2
    assert [file.name for file in out.iterdir()] == ["mine.txt"]


def test_a_model_is_overwritten_when_told_to(checkpoint: str, tmp_path: Path) -> None:
    words = ["convert", "biggan-pytorch", checkpoint, str(tmp_path / "model")]
    assert main(words) == 0
    assert main([*words, "--overwrite", "--classes", "a,b,c,d,e,f"]) == 0
    assert load_generator(tmp_path / "model").classes == list("abcdef")


def test_names_that_could_not_be_listed_later_are_refused(checkpoint: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "names.txt").write_text("tench, Tinca tinca\nb\nc\nd\ne\nf\n")
    words = ["convert", "biggan-pytorch", checkpoint, str(tmp_path / "model")]
    assert main([*words, "--classes", str(tmp_path / "names.txt")]) == 2
    assert "'tench, Tinca tinca' won't do" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["biggan-torch", "CHECKPOINT", "OUT"], "did you mean 'biggan-pytorch'"),
        (["biggan-pytorch", "nowhere", "OUT"], "there is nothing at nowhere"),
        (
            ["biggan-pytorch", "CHECKPOINT", "OUT", "--weights", "G_best.pth"],
            "there is: D.pth, G_ema.pth, state_dict.pth",
        ),
        (
            ["biggan-pytorch", "CHECKPOINT", "OUT", "--classes", "nowhere.txt"],
            "there is no file nowhere.txt",
        ),
    ],
)
def test_mistakes_are_told_in_one_message_and_write_nothing(
    words: list[str], told: str, checkpoint: str, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "model"
    stand_ins = {"CHECKPOINT": checkpoint, "OUT": str(out)}
    assert main(["convert", *(stand_ins.get(word, word) for word in words)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
    assert not out.exists()


def test_an_unreadable_checkpoint_leaves_the_old_output_even_with_overwrite(
    tmp_path: Path, checkpoint: str
) -> None:
    out = tmp_path / "model"
    assert main(["convert", "biggan-pytorch", checkpoint, str(out)]) == 0
    before = (out / "generator.safetensors").read_bytes()
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    assert main(["convert", "biggan-pytorch", str(tmp_path / "broken.pth"), str(out), "--overwrite"]) == 2
    assert (out / "generator.safetensors").read_bytes() == before


def test_a_transfer_is_shown_with_what_became_of_the_old_classes(tmp_path: Path, capsys) -> None:
    source = str(GOLDEN / "biggan_pytorch_cifar32")
    words = ["convert", "cgantransfer", str(GOLDEN / "cgantransfer_cifar32"), str(tmp_path / "model")]
    assert main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "9: old_000, old_001, old_002, ..." in shown
    assert "old classes what this checkpoint holds of them, not the source's" in shown
    assert main([*words, "--source", source, "--overwrite", "--classes", "a,b,c,d,e,f,x,y,z"]) == 0
    assert "old classes the source's own bank. Its pictures differ by up to" in " ".join(
        capsys.readouterr().out.split()
    )
    assert load_generator(tmp_path / "model").classes == list("abcdefxyz")
    assert "source's own bank" in (tmp_path / "model" / "README.md").read_text()


def test_an_input_is_not_overwritten(tmp_path: Path, capsys) -> None:
    model = tmp_path / "model"
    assert main(["convert", "biggan-pytorch", str(GOLDEN / "biggan_pytorch_cifar32"), str(model)]) == 0
    words = ["convert", "cgantransfer", str(GOLDEN / "cgantransfer_cifar32"), str(model), "--overwrite"]
    assert main([*words, "--source", str(model / "config.json")]) == 2
    assert "which the command reads" in capsys.readouterr().err


def test_the_script_of_the_checkout_converts_where_cgt_is_not_installed(
    checkpoint: str, tmp_path: Path
) -> None:
    script = str(ROOT / "tools" / "convert_checkpoint.py")
    # Without their .pth files, and so without cgt.
    packages = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    result = subprocess.run(
        [sys.executable, "-S", script, "biggan-pytorch", checkpoint, str(tmp_path / "out")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": packages},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "24,803 parameters" in result.stdout
    assert (tmp_path / "out" / "generator.safetensors").is_file()
