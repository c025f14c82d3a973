"""Making things ahead in other processes, through torch's DataLoader."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cgt.errors import RunError, UserError, reworded
from cgt.launching import cores

T = TypeVar("T")
Parts = Callable[[int, int], Iterator[T]]
"""From a worker's number and the number of workers to what it makes; picklable where processes don't fork."""
MOST = 8
"""Workers, unless somebody asks for more."""
FOR_THE_RUN = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Signals that ask a run to stop, which SLURM or a terminal sends to each of its processes."""


def default_workers() -> int:
    """One for each core, but for those that the processes of the run on this machine need themselves."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(0, min(MOST, cores() // processes - 1))


def in_workers(parts: Parts[T], workers: int) -> Iterator[T]:
    """What `parts` makes, an item of each worker in turn until one has no more; with 0 workers, made here.

    Raises:
        UserError, RunError: what a worker raised, or a worker was killed.
    """
    if not workers:
        yield from parts(0, 1)
        return
    loader = DataLoader(
        _Dataset(parts),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        multiprocessing_context=multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn"),
        generator=torch.Generator(),  # else it would draw from the global one
        worker_init_fn=_outlast_signals,
    )
    try:
        for item in _started(loader):
            if isinstance(item, UserError | RunError):
                raise item
            yield item
    except RuntimeError as error:
        if reason := killed_worker(error):
            raise RunError(reason) from None
        raise


def killed_worker(error: Exception) -> str | None:
    """What to say of `error` if torch raised it because a worker ended; None for others.

    Torch raises it in whatever the main process is doing, from a handler of SIGCHLD.
    """
    if not isinstance(error, RuntimeError) or not str(error).startswith("DataLoader worker"):
        return None
    return (
        f"a process that reads pictures was killed ({error}): if the memory was full (or /dev/shm, through "
        "which pictures are handed over), set data.workers to fewer, or to 0."
    )


def _started(loader: "DataLoader[Any]") -> Iterator[Any]:
    """What its workers make. Signals for the run are held back from them from their fork on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_RUN)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _outlast_signals(_: int) -> None:
    """Have a worker live on when the run is asked to stop: the main process takes as long as it needs, reads
    on, and ends its workers. A worker that died would be an error there.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_RUN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, where workers end a little later
        threading.Thread(target=_end_when_the_parent_says, args=(os.getppid(),), daemon=True).start()


def _end_when_the_parent_says(parent: int) -> None:
    while True:
        found = signal.sigwaitinfo(FOR_THE_RUN)
        if found.si_signo == signal.SIGTERM and found.si_pid == parent:
            os._exit(0)


class _Dataset(IterableDataset[Any]):
    """What one worker makes; the last item is the error that stopped it, if one did."""

    def __init__(self, parts: Parts[Any]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        assert worker is not None
        gc.freeze()  # what was there before a fork stays there: looking through it again costs some percent
        try:
            yield from self._parts(worker.id, worker.num_workers)
        except (UserError, RunError) as error:
            yield reworded(error, str(error))  # the error itself may not be picklable


def _as_it_is(item: Any) -> Any:
    return item
