"""Whole runs with DeepSpeed's ZeRO: what `ddp` makes, through saves, other numbers of ranks and kills."""

import functools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cgt.cli import main
from cgt.training import checkpoint
from cgt.training.state_files import read_state
from cgt.training.strategies import zero
from tests.distributed.ranks import FailedRanksError, require, run_ranks
from tests.distributed.runs import (
    assert_same,
    kill_and_resume,
    run,
    signal_and_resume,
    stop_early,
)
from tests.tiny import SHORT_RUN, SMALL_NETWORKS

ROOT = Path(__file__).parents[2]
FOR_THREE = {"batch_size": 12}


@pytest.fixture(autouse=True)
def _weights_of_any_size_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero, "PERSISTENT", 0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Uninterrupted runs on two ranks, by strategy."""

    @functools.cache
    def uninterrupted(strategy: str) -> Path:
        path = tmp_path_factory.mktemp(strategy) / "run"
        run_ranks(functools.partial(run, strategy=strategy), 2, path)
        return path

    return uninterrupted


def end_early(ranks: int, path: Path, **changes: Any) -> None:
    """A run that ends when its checkpoint after step 4 is whole."""
    with pytest.raises(FailedRanksError, match="far enough"):
        run_ranks(functools.partial(run, arm=stop_early, **changes), ranks, path)


@pytest.mark.parametrize("strategy", ["zero1", pytest.param("zero2", marks=pytest.mark.slow), "zero3"])
def test_run_makes_what_ddp_makes(strategy: str, runs: Any) -> None:
    require(strategy)
    assert_same(runs(strategy), runs("ddp"), 1e-5)


def test_run_goes_on_to_the_same_bits(runs: Any, tmp_path: Path) -> None:
    require("zero1")
    end_early(2, tmp_path / "run", strategy="zero1")
    run_ranks(functools.partial(run, resume=True, strategy="zero1"), 2, tmp_path / "run")
    assert_same(tmp_path / "run", runs("zero1"), 0)


def test_signal_stops_all_ranks_with_a_checkpoint_from_which_the_run_goes_on(
    runs: Any, tmp_path: Path
) -> None:
    require("zero2")
    signal_and_resume(runs("zero2"), tmp_path / "run", signal.SIGUSR1, strategy="zero2")


def test_kill_while_a_checkpoint_is_written_ends_the_run_and_costs_no_checkpoint(
    runs: Any, tmp_path: Path
) -> None:
    require("zero3")
    path = tmp_path / "run"
    kill_and_resume(runs("zero3"), path, 1, checkpoint, "write_state", 1, False, strategy="zero3")


@pytest.fixture(scope="module")
def for_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of batches that three can share."""
    path = tmp_path_factory.mktemp("for_three") / "run"
    run(path, **FOR_THREE)
    return path


@pytest.mark.parametrize(
    ("strategy", "ranks", "others"),
    [
        pytest.param("zero1", 3, (2, 1), marks=pytest.mark.slow),
        pytest.param("zero2", 3, (2, 1), marks=pytest.mark.slow),
        pytest.param("zero2", 2, (3, 1), marks=pytest.mark.slow),
        ("zero3", 3, (2, 1)),
        pytest.param("zero3", 2, (3,), marks=pytest.mark.slow),
    ],
)
def test_run_goes_on_with_other_numbers_of_ranks(
    strategy: str, ranks: int, others: tuple[int, ...], for_three: Path, tmp_path: Path
) -> None:
    """Of three ranks some have less than the others, and the parts are padded."""
    require(strategy)
    end_early(ranks, tmp_path / "begun", strategy=strategy, **FOR_THREE)
    for other in others:
        path = Path(shutil.copytree(tmp_path / "begun", tmp_path / str(other), symlinks=True))
        now = strategy if other > 1 else "ddp"
        run_ranks(functools.partial(run, resume=True, strategy=now, **FOR_THREE), other, path)
        assert_same(path, for_three, 1e-5)


@pytest.mark.parametrize("strategy", [pytest.param("zero2", marks=pytest.mark.slow), "zero3+zero1"])
def test_transfer_from_a_frozen_generator_makes_what_one_process_makes(strategy: str, tmp_path: Path) -> None:
    require("zero2")
    run(tmp_path / "one", kind="cgantransfer")
    end_early(2, tmp_path / "two", kind="cgantransfer", strategy=strategy)
    resumed = functools.partial(run, kind="cgantransfer", resume=True, strategy=strategy)
    run_ranks(resumed, 2, tmp_path / "two")
    assert_same(tmp_path / "two", tmp_path / "one", 1e-5)


def cgt(*words: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "cgt", *words, "--processes", "2"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr


def test_commands_pretrain_and_transfer(tmp_path: Path) -> None:
    require("zero2")
    for name, classes in {"old": "red-disk,gold-plus", "new": "red-plus,gold-disk"}.items():
        build = ["shards", "build", "shapes", "-", str(tmp_path / name), "--classes", classes]
        assert main([*build, "--size", "16", "--per-class", "4"]) == 0
    source, run_folder = str(tmp_path / "source"), tmp_path / "run"
    words = [f"data={tmp_path / 'old'}", *SHORT_RUN, *SMALL_NETWORKS, "strategy=zero2", "--run", source]
    cgt("pretrain", "shapes/pretrain", *words)
    words = [f"data={tmp_path / 'new'}", *SHORT_RUN, "strategy=zero3", "--run", str(run_folder)]
    cgt("transfer", "shapes/cgantransfer", "--source", source, *words)
    assert "zero3" in (run_folder / "config.yaml").read_text()
    assert read_state(run_folder / "latest" / "state")["step"] == 3
    grid = str(tmp_path / "grid.png")
    assert main(["sample", str(run_folder), "--out", grid, "--per-class", "2"]) == 0
