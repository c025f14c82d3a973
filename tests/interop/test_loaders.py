"""A malicious pickle in any place that a loader or an option reads is refused, and not executed."""

import pickle
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from cgt.cli import main
from cgt.errors import UserError
from cgt.models.folder import load_generator, load_model
from tests.interop.checkpoints import GOLDEN, Attack

SOURCE = GOLDEN / "biggan_pytorch_cifar32"
TRANSFER = GOLDEN / "cgantransfer_cifar32"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "model"
    assert main(["convert", "biggan-pytorch", str(SOURCE), str(out)]) == 0
    return out


@pytest.fixture
def attack(tmp_path: Path) -> Attack:
    """What is checked for after every test: it was not executed."""
    return Attack(tmp_path / "executed")


def malicious_weights(path: Path, attack: Attack) -> Path:
    torch.save(OrderedDict(torch.load(SOURCE / "G_ema.pth", weights_only=True), trojan=attack), path)
    return path


@pytest.mark.parametrize("file", ["config.json", "generator.safetensors", "discriminator.safetensors"])
@pytest.mark.parametrize("saved_by", ["torch", "pickle"])
def test_a_pickle_in_a_model_folder_is_refused(
    file: str, saved_by: str, model: Path, tmp_path: Path, attack: Attack
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    if saved_by == "torch":
        malicious_weights(folder / file, attack)
    else:
        (folder / file).write_bytes(pickle.dumps(attack))
    # For use alone, the discriminator's file is not even opened.
    for load in (load_model,) if file.startswith("discriminator") else (load_model, load_generator):
        with pytest.raises(UserError, match=file):
            load(folder)
    assert not attack.trace.exists()


def test_a_config_nested_too_deeply_is_refused(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    (folder / "config.json").write_text("[" * 200_000)
    for load in (load_model, load_generator):
        with pytest.raises(UserError, match="config.json is not valid JSON"):
            load(folder)


@pytest.mark.parametrize("option", ["--weights", "--source"])
def test_a_pickle_that_an_option_names_is_refused(
    option: str, tmp_path: Path, attack: Attack, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = malicious_weights(tmp_path / "G_other.pth", attack), tmp_path / "model"
    assert main(["convert", "cgantransfer", str(TRANSFER), str(out), option, str(path)]) == 2
    assert f"{path} holds more than tensors: it asks for posix.mkdir" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not attack.trace.exists()
    assert not out.exists()


def test_files_that_nothing_is_read_of_may_hold_anything(tmp_path: Path, attack: Attack) -> None:
    folder = Path(shutil.copytree(SOURCE, tmp_path / "checkpoint"))
    for name in ("G_optim.pth", "D_optim.pth", "G.pth"):
        malicious_weights(folder / name, attack)
    assert main(["convert", "biggan-pytorch", str(folder), str(tmp_path / "model")]) == 0
    assert not attack.trace.exists()
