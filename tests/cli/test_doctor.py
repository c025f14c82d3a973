"""`cgt doctor` shows what there is and what is missing, and never fails for it."""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cgt import __version__
from cgt.cli import main
from cgt.doctor.installed import EXTRAS, packages
from cgt.doctor.machine import machine, slurm

REQUIRED = [
    "torch<2.14,>=2.11",
    "numpy>=2",
    "nowhere>=3",
    'half>=1; extra == "export"',
    'torch>=99; extra == "wandb"',
]


@pytest.fixture
def requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIRED)


@pytest.mark.usefixtures("requirements")
def test_versions_are_held_against_what_the_package_asks_for() -> None:
    found = {need["name"]: need for need in packages()["packages"]}
    assert list(found) == ["torch", "numpy", "nowhere"]
    assert found["torch"]["installed"] == importlib.metadata.version("torch")
    assert found["numpy"]["fits"]
    assert found["nowhere"]["installed"] is None
    assert not found["nowhere"]["fits"]


@pytest.mark.usefixtures("requirements")
def test_an_extra_lacks_what_is_not_there_and_what_is_too_old() -> None:
    missing = {extra["name"]: extra["missing"] for extra in packages()["extras"]}
    assert missing["export"] == ["half>=1"]
    assert missing["wandb"] == ["torch>=99"]
    assert missing["deepspeed"] == []


def test_every_extra_of_the_package_is_explained() -> None:
    extras = importlib.metadata.metadata("cgt").get_all("Provides-Extra")
    assert extras is not None
    assert set(EXTRAS) == set(extras)


def test_the_machine_is_described() -> None:
    found = machine()
    assert found["cpu"]["torch_threads"] == torch.get_num_threads()
    assert len(found["cuda"]["gpus"]) == torch.cuda.device_count()
    assert set(found["backends"]) <= {"gloo", "nccl", "mpi"}
    assert found["disk"]["folder"] == str(Path.cwd())
    assert found["disk"]["free_gib"] > 0


def test_the_weights_of_the_standard_extractor_are_looked_for_where_torch_keeps_its_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert machine()["torch_hub"]["inception_tf"] is False
    weights = tmp_path / "hub" / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert machine()["torch_hub"]["inception_tf"] is True


SINFO = """#!/bin/sh
case "$1" in
    --version) echo "slurm-wlm 23.11" ;;
    *) printf '4 gpu*\\n12 cpu\\n' ;;
esac
"""


@pytest.fixture
def sinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a script the only one of SLURM's commands."""
    monkeypatch.setattr("shutil.which", lambda name: name if name == "sinfo" else None)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(code: str) -> None:
        (tmp_path / "sinfo").write_text(code)
        (tmp_path / "sinfo").chmod(0o755)

    return write


def test_slurm_is_found_with_its_partitions(sinfo: Callable[[str], None]) -> None:
    sinfo(SINFO)
    assert slurm({}) == {
        "commands": ["sinfo"],
        "version": "slurm-wlm 23.11",
        "partitions": [
            {"name": "gpu", "nodes": 4, "default": True},
            {"name": "cpu", "nodes": 12, "default": False},
        ],
        "problem": None,
        "job": None,
    }


def test_a_controller_that_does_not_answer_is_not_waited_for(
    sinfo: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cgt.doctor.machine.PATIENCE", 0.2)
    sinfo("#!/bin/sh\nexec sleep 30\n")
    begin = time.monotonic()
    assert slurm({})["problem"] == "no answer within 0.2 s"
    assert time.monotonic() - begin < 5


def test_what_sinfo_complains_of_is_told(
    sinfo: Callable[[str], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    sinfo("#!/bin/sh\necho 'sinfo: error: one' >&2\necho 'sinfo: fatal: no configuration' >&2\nexit 1\n")
    assert main(["doctor"]) == 0
    assert "sinfo found, but sinfo says: fatal: no configuration" in capsys.readouterr().out


def test_the_job_that_a_process_is_part_of_is_told() -> None:
    environ = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "gpu[03-04]", "SLURM_STEP_NUM_TASKS": "8"}
    assert slurm(environ)["job"] == {"id": "7", "nodes": "gpu[03-04]", "tasks": 8}


def test_one_process_is_told_how_to_check_several(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "cgt doctor --processes N" in capsys.readouterr().out.splitlines()[-1]


def test_the_tables_show_missing_packages_as_pip_takes_them(
    requirements: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["doctor"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["cgt", __version__] in lines
    assert ["nowhere", "missing", ">=3"] in lines
    assert ["export", "ONNX", "files", "'half>=1'"] in lines


def test_a_folder_with_brackets_in_its_name_is_shown_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    odd = tmp_path / "[bold]runs"
    odd.mkdir()
    monkeypatch.chdir(odd)
    assert main(["doctor"]) == 0
    assert str(odd) in capsys.readouterr().out


def test_json_goes_to_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "-"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert findings["cgt"] == __version__
    assert findings["python"] == sys.version.split()[0]


def test_json_goes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", str(tmp_path / "here.json")]) == 0
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "here.json").read_text())["cgt"] == __version__


def test_a_checkout_that_was_not_installed_is_no_reason_to_fail(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", unknown)
    assert main(["doctor"]) == 0
    assert "make install" in capsys.readouterr().out
