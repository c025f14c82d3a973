"""Whether the ranks of a launch reach each other, how fast, and whether they are alike."""

import contextlib
import itertools
import os
import platform
import re
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgt import __version__
from cgt.distributed import World, device, lost_touch, roll_call
from cgt.doctor.machine import free_gib
from cgt.errors import RunError, SaidElsewhereError
from cgt.launching import say
from cgt.runs import versions
from cgt.training.watchdog import Watch

SECONDS = 60.0
"""For the ranks to meet; an all-reduce may take half of it."""
VISIBLE_AFTER = 10.0
"""Seconds for a new file to be seen by all machines that share its folder."""

LARGE_MIB = {"cpu": 16, "cuda": 256}
"""Enough for the bandwidth not to depend on it, and for a slow network not to take minutes."""
LARGE_TIMES, SMALL_TIMES, WARM_UP = 5, 20, 3

SAME_EVERYWHERE = ("cgt", "commit", "torch", "python", "nccl")
ADVICE = {
    "gloo": "See that no firewall stands between the hosts, and that GLOO_SOCKET_IFNAME names a network "
    "interface by which they reach each other",
    "nccl": "See that no firewall stands between the hosts, and that NCCL_SOCKET_IFNAME names a network "
    "interface by which they reach each other; NCCL_DEBUG=INFO tells more",
}


def check(seconds: float = SECONDS) -> dict[str, Any]:
    """Have the launched ranks meet, compare themselves and try an all-reduce; all of them call this.

    Returns:
        On every rank: `ranks` (what each says of itself), `connection`, `shared_folder` and `warnings`.

    Raises:
        RunError: ranks did not come, were lost or do not fit together, and this rank says so.
        SaidElsewhereError: another one does.
    """
    with roll_call(f"{socket.gethostname()}, {device().type}", seconds) as notes:
        _refuse_a_mixture(notes)
        with _connecting(seconds):
            world = World(timeout=seconds)
            talk = world.aside()
    assert world.backend is not None
    talk.timeout = seconds / 2  # before that of the all-reduce, which could say less
    with Watch(talk, advice=_advice(world.backend)) as watch:
        ranks = talk.gather(_facts(world))
        folder = {"folder": ranks[0]["disk"]["folder"], "missing_on": _without_the_folder(talk, ranks)}
        with talk.together():
            _refuse_a_full_gpu(world.device)
        connection = {"backend": world.backend, **_all_reduce(world, talk, watch)}
    return {
        "ranks": ranks,
        "connection": connection,
        "shared_folder": folder,
        "warnings": [*_differences(ranks), *_folder_warnings(folder, ranks)],
    }


def raise_if_wrong(found: dict[str, Any], rank: int) -> None:
    """Fail on all ranks if the sum was wrong on any.

    Raises:
        RunError: on rank 0, naming them.
        SaidElsewhereError: on the others.
    """
    wrong = found["connection"]["wrong_on"]
    if not wrong:
        return
    if rank:
        raise SaidElsewhereError(0, 1)
    backend = found["connection"]["backend"]
    raise RunError(
        f"the all-reduce by {backend} gave a wrong sum on {_named(found['ranks'], wrong)}: nothing that is "
        "trained here can be trusted. Try other machines, other GPUs or another version of torch, and "
        "NCCL_P2P_DISABLE=1 or NCCL_IB_DISABLE=1 to find what is at fault."
    )


def _refuse_a_mixture(notes: Sequence[str]) -> None:
    """Ranks with and without a GPU can't form one run.

    Raises:
        RunError: on rank 0, naming those without.
        SaidElsewhereError: on the others.
    """
    without = [rank for rank, note in enumerate(notes) if note.endswith("cpu")]
    if len(without) in (0, len(notes)):
        return
    if int(os.environ["RANK"]):
        raise SaidElsewhereError(0, 1)
    names = ", ".join(f"rank {rank} ({notes[rank].partition(',')[0]})" for rank in without)
    raise RunError(
        f"{names} found no GPU, and the other ranks did: see what nvidia-smi says there and whether the job "
        "asks for GPUs on every machine, or set ACCELERATE_USE_CPU=1 everywhere to run on the CPU."
    )


@contextlib.contextmanager
def _connecting(seconds: float) -> Iterator[None]:
    """Turn what a failed connection raises into a message with a remedy, and end the process if none comes:
    gloo waits five times as long as it is told.
    """

    def message(reason: str) -> str:
        return (
            f"rank {os.environ['RANK']} on {socket.gethostname()} has found the other ranks, and can't "
            f"connect to them ({reason}). {_advice('gloo')}."
        )

    def give_up() -> None:
        say(f"error: {message(f'nothing within {seconds:g} s')}")
        os._exit(1)

    limit = threading.Timer(seconds, give_up)
    limit.daemon = True
    limit.start()
    try:
        yield
    except Exception as error:
        if not lost_touch(error):
            raise
        reason = re.sub(r"\[/[^]]*] ", "", " ".join(str(error).split()))  # without lines of torch's sources
        raise RunError(message(reason[:200])) from error
    finally:
        limit.cancel()


def _advice(backend: str) -> str:
    interfaces = ", ".join(name for _, name in socket.if_nameindex())
    return f"{ADVICE[backend]} (on {socket.gethostname()} there are {interfaces})"


def _facts(world: World) -> dict[str, Any]:
    """What this rank says of itself."""
    gpu = torch.cuda.get_device_properties(world.device) if world.device.type == "cuda" else None
    temporary = Path(tempfile.gettempdir())
    return {
        "host": socket.gethostname(),
        "device": str(world.device) if gpu else world.device.type,
        "gpu": gpu and {"name": gpu.name, "free_gib": _free_gpu_gib(world.device)},
        "cgt": __version__,
        "commit": versions()["commit"],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "nccl": gpu and ".".join(map(str, torch.cuda.nccl.version())),
        "disk": {"folder": str(Path.cwd()), "free_gib": free_gib(Path.cwd())},
        "temporary": {"folder": str(temporary), "free_gib": free_gib(temporary)},
    }


def _free_gpu_gib(gpu: torch.device) -> float:
    return round(torch.cuda.mem_get_info(gpu)[0] / 2**30, 1)


def _refuse_a_full_gpu(where: torch.device) -> None:
    """Check that there is room for the all-reduce.

    Raises:
        RunError: there is not.
    """
    if where.type == "cuda" and (free := _free_gpu_gib(where)) < 1:
        raise RunError(
            f"{where} of {socket.gethostname()} has {free} GiB free, and the check takes 1: end what else "
            "runs there (nvidia-smi shows it)."
        )


def _without_the_folder(talk: World, ranks: Sequence[dict[str, Any]]) -> list[int]:
    """The ranks whose working folder lacks a file that rank 0 makes in its own."""
    with contextlib.ExitStack() as made:
        name = ""
        if talk.is_main:
            with contextlib.suppress(OSError):
                file = made.enter_context(tempfile.NamedTemporaryFile(prefix=".cgt-doctor-", dir="."))
                name = Path(file.name).name
        name = talk.gather(name)[0]
        seen = talk.gather(bool(name) and _appears(Path(name)))
    return [rank for rank in range(len(ranks)) if not seen[rank]]


def _appears(path: Path) -> bool:
    """Whether a file is there; file systems over a network may say for a while that it is not."""
    deadline = time.monotonic() + VISIBLE_AFTER
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _all_reduce(world: World, talk: World, watch: Watch) -> dict[str, Any]:
    """Whether a sum over the ranks is right, and how long it takes; as nccl-tests counts bandwidth.

    (https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md)
    """
    steps = itertools.count()
    mib = LARGE_MIB[world.device.type]
    # Whole numbers, whose sums float32 holds exactly for up to 2000 ranks.
    pattern = torch.arange(8.0, device=world.device).repeat(mib * 2**20 // 32)
    large = pattern * (world.rank + 1)
    with watch.step(next(steps)):
        world.sum_(large)
        right = torch.equal(large, pattern * (world.size * (world.size + 1) // 2))
    right_on = talk.gather(right)
    large_seconds = _slowest(world, talk, watch, large.zero_(), LARGE_TIMES, steps)
    small = torch.zeros(1, device=world.device)
    small_seconds = _slowest(world, talk, watch, small, SMALL_TIMES, steps)
    algorithm = large.nbytes / large_seconds / 1e9
    return {
        "wrong_on": [rank for rank, is_right in enumerate(right_on) if not is_right],
        "large": {
            "bytes": large.nbytes,
            "seconds": large_seconds,
            "algorithm_gb_per_s": algorithm,
            "bus_gb_per_s": algorithm * 2 * (world.size - 1) / world.size,
        },
        "small": {"bytes": small.nbytes, "seconds": small_seconds},
    }


def _slowest(
    world: World, talk: World, watch: Watch, tensor: Tensor, times: int, steps: Iterator[int]
) -> float:
    """Seconds that adding up a tensor takes: of each rank's median, the longest."""
    took = []
    for _ in range(WARM_UP + times):
        with watch.step(next(steps)):
            _finish(world.device)
            begin = time.perf_counter()
            world.sum_(tensor)
            _finish(world.device)
            took.append(time.perf_counter() - begin)
    return max(talk.gather(statistics.median(took[WARM_UP:])))


def _finish(where: torch.device) -> None:
    """Wait for what the GPU has been asked to do; on the CPU it is done."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)


def _differences(ranks: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What should be the same on all ranks, and is not."""
    for name in SAME_EVERYWHERE:
        having: dict[str, list[int]] = {}
        for rank, facts in enumerate(ranks):
            having.setdefault(str(facts[name]), []).append(rank)
        if len(having) > 1:
            parts = [f"{value} on {_named(ranks, those)}" for value, those in having.items()]
            yield f"{name} differs: {'; '.join(parts)}. Use one environment on all hosts."


def _folder_warnings(folder: dict[str, Any], ranks: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What is amiss with the working folder, where checkpoints and run folders go."""
    missing = folder["missing_on"]
    if 0 in missing:
        yield f"{folder['folder']} takes no new files: start runs where you may write."
    elif missing:
        yield (
            f"{folder['folder']} is not the working folder of {_named(ranks, missing)}: ranks of a run need "
            "one folder, shared by all hosts."
        )


def _named(ranks: Sequence[dict[str, Any]], those: Sequence[int]) -> str:
    """Ranks, with their hosts."""
    return ", ".join(f"rank {rank} ({ranks[rank]['host']})" for rank in those)
