"""Ranks that fail, hang or fall silent end the run on all others soon, and it is said once why."""

import functools
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from cgt.errors import RunError, UserError
from cgt.training import loop
from tests.distributed import runs
from tests.distributed.ranks import FailedRanksError, run_ranks
from tests.distributed.runs import in_call, run, stopping, timed

LIMIT = 3.0
"""Seconds without an answer."""


def errors_of(path: Path, arm: Any, world: int = 2) -> list[str]:
    """What each rank ends with when `arm` prepares a mishap."""
    with pytest.raises(FailedRanksError) as caught:
        run_ranks(functools.partial(run, arm=arm, batch_size=6), world, path)
    return [str(error) for error in caught.value.errors]


def fail(error: type[Exception]) -> None:
    raise error("the shard is damaged")


@pytest.mark.parametrize(("rank", "kind"), [(0, UserError), (1, RunError), (0, KeyError)])
def test_error_of_one_rank_ends_the_others_soon_and_is_said_once(
    tmp_path: Path, rank: int, kind: type[Exception]
) -> None:
    arm = in_call(loop, "train_step", 2, functools.partial(fail, kind), rank=rank)
    errors: list[str] = []
    assert timed(lambda: errors.extend(errors_of(tmp_path / "run", arm, world=3))) < 15
    for number, error in enumerate(errors):
        assert ("the shard is damaged" in error.splitlines()[-1]) is (number == rank)
        assert ("SaidElsewhereError" in error.splitlines()[-1]) is (number != rank)


def test_error_of_all_ranks_is_said_by_the_first(tmp_path: Path) -> None:
    def everywhere() -> None:
        in_call(loop, "train_step", 2, functools.partial(fail, RunError), rank=int(os.environ["RANK"]))()

    first, second = errors_of(tmp_path / "run", everywhere)
    assert "the shard is damaged" in first
    assert "SaidElsewhereError" in second.splitlines()[-1]


@pytest.mark.parametrize("rank", [0, 2])
def test_rank_that_falls_silent_is_named_by_the_first_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], rank: int
) -> None:
    """A stopped process holds its connections, so nothing but the time tells; with rank 0 stops the store."""
    monkeypatch.setattr(runs, "TIMEOUT", LIMIT)
    arm = stopping(loop, "train_step", 2, rank=rank, lock=tmp_path / "lock")
    errors: list[str] = []
    assert timed(lambda: errors.extend(errors_of(tmp_path / "run", arm, world=3))) < 3 * LIMIT + 5
    ends = [errors[other].splitlines()[-1] for other in range(3) if other != rank]
    said = [line for line in [*capfd.readouterr().err.splitlines(), *ends] if "has not answered" in line]
    assert len(said) == 1, said
    assert re.search(rf"rank {rank} \(.*\) has not answered since step [0-2]\b", said[0])


def test_rank_that_fails_while_the_store_does_not_answer_ends_soon(tmp_path: Path) -> None:
    def fail_later() -> None:
        time.sleep(1)  # until a call to the store waits
        fail(RunError)

    def arm() -> None:
        stopping(loop, "train_step", 1, rank=0, lock=tmp_path / "lock")()
        in_call(loop, "train_step", 1, fail_later, rank=1)()  # before a checkpoint is being written

    errors: list[str] = []
    assert timed(lambda: errors.extend(errors_of(tmp_path / "run", arm))) < runs.TIMEOUT / 2
    assert "the shard is damaged" in errors[1]


def test_rank_that_hangs_in_a_step_ends_the_run_and_is_located(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "TIMEOUT", LIMIT)
    arm = in_call(loop, "train_step", 2, functools.partial(time.sleep, 60), rank=1)
    errors: list[str] = []
    assert timed(lambda: errors.extend(errors_of(tmp_path / "run", arm))) < 3 * LIMIT + 5
    said = capfd.readouterr().err.replace("\n", " ") + errors[0]
    assert "rank 1 (" in said
    assert "loop.py" in said
