"""Processes that work for this one, and end with it."""

import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import torch


def worker_pool(
    workers: int, prepare: Callable[..., None], arguments: Sequence[object], locks: Sequence[int] = ()
) -> ProcessPoolExecutor:
    """A pool of processes that are started by the first piece of work.

    Args:
        workers: their number.
        prepare: called in each with `arguments`: work is then handed over without what it always needs.
        arguments: must be picklable, elsewhere than on Linux.
        locks: file descriptors whose locks no worker may hold on to, should it outlive this process.
    """
    # A forked process has everything imported. Elsewhere than on Linux, system libraries don't allow it.
    forks = sys.platform == "linux"
    return ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("fork" if forks else "spawn"),
        _start,
        (prepare, tuple(arguments), tuple(locks) if forks else ()),
    )


def _start(prepare: Callable[..., None], arguments: Sequence[object], locks: Sequence[int]) -> None:
    """Make a new process a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the first ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Of the parent's threads only one came along: locks that others held stay locked, such as a progress
    # bar's of stderr, and OpenMP waits for threads that are not there.
    sys.stdout = sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    torch.set_num_threads(1)
    gc.freeze()  # a collection that looked through what the parent holds would copy all of it
    for descriptor in locks:
        os.close(descriptor)
    prepare(*arguments)


def _end_with_parent() -> None:
    """A killed parent can't end its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
