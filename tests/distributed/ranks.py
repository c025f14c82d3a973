"""Functions run by several ranks at once: forked processes on the CPU that talk through gloo."""

import gc
import importlib
import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
from accelerate.state import PartialState

from cgt.launch_files import free_port

SECONDS = 60
"""That all ranks may take."""


def require(strategy: str) -> None:
    """Skip what lacks its packages; DeepSpeed is imported here once, and not by each rank."""
    if strategy != "ddp":
        os.environ["DS_ACCELERATOR"] = "cpu"
        pytest.importorskip("transformers")
        pytest.importorskip("deepspeed")
        # The first engine would import torch's compiler through it, for seconds.
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")


class FailedRanksError(AssertionError):
    """What each rank that failed said: `errors` has a traceback, or None, for each of them."""

    def __init__(self, errors: list[str | None]) -> None:
        super().__init__("\n".join(f"rank {rank}: {error}" for rank, error in enumerate(errors) if error))
        self.errors = errors


def run_ranks(
    function: Callable[..., Any], world: int, *arguments: Any, seconds: float = SECONDS
) -> list[Any]:
    """Call `function(*arguments)` on each of `world` ranks; its results, which are pickled, by rank.

    Raises:
        FailedRanksError: a rank raised, was killed, or took too long.
    """
    port = free_port()
    fork = multiprocessing.get_context("fork")
    ranks = []
    for rank in range(world):
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=_rank, args=(function, arguments, rank, world, port, theirs))
        process.start()
        theirs.close()
        ranks.append((process, ours))
    results: list[Any] = []
    errors: list[str | None] = []
    for process, pipe in ranks:
        result, error = None, f"nothing within {seconds} s"
        if pipe.poll(seconds):
            try:
                result, error = pickle.loads(pipe.recv_bytes())
            except EOFError:
                process.join()
                error = f"ended with {process.exitcode}"
        results.append(result)
        errors.append(error)
    for process, _ in ranks:
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
    if any(errors):
        raise FailedRanksError(errors)
    return results


def _rank(
    function: Callable[..., Any], arguments: Any, rank: int, world: int, port: int, pipe: Connection
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    PartialState._reset_state()
    torch.set_num_threads(1)
    gc.freeze()  # DeepSpeed collects garbage for every engine: not what was there before, for seconds
    try:
        # By value: torch would hand over tensors as files of this process, which ends.
        pipe.send_bytes(pickle.dumps((function(*arguments), None)))
    except BaseException:
        pipe.send_bytes(pickle.dumps((None, traceback.format_exc())))
    pipe.close()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    os._exit(0)
