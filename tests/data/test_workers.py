"""Things that other processes make ahead."""

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
import torch

from cgt.cli import main
from cgt.data.workers import default_workers, in_workers
from cgt.errors import RunError, UserError


def numbered(worker: int, workers: int) -> Iterator[int]:
    yield from range(worker, 7, workers)


def whereabouts(worker: int, workers: int) -> Iterator[int]:
    yield os.getpid()


class OddError(UserError):
    """An error that pickle can't build again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def failing(worker: int, workers: int) -> Iterator[int]:
    yield worker
    if worker == 1:
        raise OddError("this shard", "is damaged")
    yield worker


def cut_off(worker: int, workers: int) -> Iterator[int]:
    yield worker
    raise RunError("no answer")


def killed(worker: int, workers: int) -> Iterator[int]:
    yield worker
    os.kill(os.getpid(), signal.SIGKILL)
    yield worker


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_items_come_in_the_order_of_one_process(workers: int) -> None:
    assert list(in_workers(numbered, workers)) == list(range(7))


def test_work_is_done_in_other_processes_or_with_none_here() -> None:
    assert set(in_workers(whereabouts, 0)) == {os.getpid()}
    assert os.getpid() not in set(in_workers(whereabouts, 2))


@pytest.mark.parametrize("workers", [1, 2])
def test_error_of_a_worker_is_raised_here(workers: int) -> None:
    with pytest.raises(RunError, match="no answer"):
        list(in_workers(cut_off, workers))
    if workers == 2:
        with pytest.raises(UserError, match="this shard is damaged"):
            list(in_workers(failing, workers))


def test_killed_worker_is_told() -> None:
    with pytest.raises(RunError, match=r"was killed .* set data\.workers to fewer"):
        list(in_workers(killed, 2))


def test_worker_that_is_killed_while_the_program_does_something_else_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verb() -> None:
        items = in_workers(killed, 1)
        next(items)
        for _ in range(200):
            time.sleep(0.05)

    monkeypatch.setattr("cgt.cli.doctor.doctor", verb)
    assert main(["doctor"]) == 1
    assert "a process that reads pictures was killed" in capsys.readouterr().err


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    list(in_workers(numbered, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_end_with_the_iterator() -> None:
    items = in_workers(numbered, 2)
    next(items)
    assert multiprocessing.active_children()
    items.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_default_leaves_a_core_to_each_process_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    found = {}
    for processes in (1, 2, 4, 12, 24):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        found[processes] = default_workers()
    assert found == {1: 8, 2: 5, 4: 2, 12: 0, 24: 0}


def slow_and_counted(worker: int, workers: int) -> Iterator[int]:
    yield os.getpid()
    for i in range(4):
        time.sleep(0.1)
        yield i


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_workers_outlast_what_asks_the_run_to_stop(number: signal.Signals) -> None:
    items = in_workers(slow_and_counted, 1)
    # The main process may get signals of this kind, but not pass them on: so another one sends them.
    subprocess.run(["kill", f"-{number.value}", str(next(items))], check=True)
    assert list(items) == [0, 1, 2, 3]


def asleep(worker: int, workers: int) -> Iterator[int]:
    yield worker
    time.sleep(60)


def test_worker_that_is_busy_ends_with_the_iterator() -> None:
    items = in_workers(asleep, 1)
    next(items)
    start = time.monotonic()
    items.close()  # type: ignore[attr-defined]
    for process in multiprocessing.active_children():
        process.join(1)
    assert not multiprocessing.active_children()
    assert time.monotonic() - start < 8
