"""Ranks that fail, hang or fall silent end the run on all others soon, and it is said once why."""

import functools
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from cgt.errors import RunError, UserError
from cgt.training import loop
from tests.distributed import runs
from tests.distributed.ranks import FailedRanksError, run_ranks
from tests.distributed.runs import in_call, run, timed

LIMIT = 3.0
"""Seconds without an answer."""


def errors_of(path: Path, arm: Any, world: int = 2) -> list[str]:
    """What each rank ends with when `arm` prepares a mishap."""
    with pytest.raises(FailedRanksError) as caught:
        run_ranks(functools.partial(run, arm=arm, batch_size=6), world, path)
    return [str(error) for error in caught.value.errors]


def fail(error: type[Exception]) -> None:
    raise error("the shard is damaged")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", [UserError, RunError, KeyError])
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


def test_rank_that_falls_silent_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A stopped process holds its connections, so nothing but the time tells."""
    monkeypatch.setattr(runs, "TIMEOUT", LIMIT)

    def stopped() -> None:
        child = os.fork()
        if child == 0:  # wakes its parent, that the test can end
            time.sleep(2 * LIMIT + 1)
            os.kill(os.getppid(), signal.SIGKILL)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGSTOP)

    arm = in_call(loop, "train_step", 2, stopped, rank=1)
    start = time.monotonic()
    errors = errors_of(tmp_path / "run", arm)
    said = capfd.readouterr().err.replace("\n", " ") + errors[0]
    assert "rank 1 (" in said
    assert "since step 2" in said or "after step 2" in said
    assert time.monotonic() - start < 4 * LIMIT


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
