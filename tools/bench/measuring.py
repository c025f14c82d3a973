"""What the benches share: times of calls that take turns, and calls in processes of their own.

On a GPU a call is timed by events, and its memory is what torch's allocator held at most; on the CPU by the
clock, and by what the process held at most.
"""

import contextlib
import multiprocessing
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

Call = Callable[[], object]
COPIED = 2**26
"""Numbers of float32 in `copy`: more than caches hold."""


def positive(text: str) -> int:
    """A number of the command line that is 1 or more.

    Raises:
        ValueError: it is not.
    """
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


class Times(NamedTuple):
    """Of one call."""

    seconds: float
    cpu: float
    """CPU-seconds of all threads: on a busy machine these compare where seconds do not."""

    def least(self, other: "Times") -> "Times":
        """The lesser of each."""
        return Times(min(self.seconds, other.seconds), min(self.cpu, other.cpu))


def device() -> torch.device:
    """The GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine() -> str:
    """What numbers hold for, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    can = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} CPU ({can}), threads: {torch.get_num_threads()}, torch {torch.__version__}"


def timed(call: Call) -> Times:
    """One call, waited for."""
    cpu = time.process_time()
    if torch.cuda.is_available():
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return Times(begin.elapsed_time(end) / 1000, time.process_time() - cpu)
    start = time.perf_counter()
    call()
    return Times(time.perf_counter() - start, time.process_time() - cpu)


def in_turns(calls: Mapping[str, Call], turns: int, warm_up: int = 1) -> dict[str, Times]:
    """The best of each call's turns, one after the other, so that a busy machine slows them all."""
    for call in calls.values():
        for _ in range(warm_up):
            timed(call)
    best = {name: timed(call) for name, call in calls.items()}
    for _ in range(turns - 1):
        best = {name: best[name].least(timed(call)) for name, call in calls.items()}
    return best


def copy() -> tuple[Call, int]:
    """A copy in memory, and the bytes that it reads and writes: what bounds whatever computes little."""
    source = torch.ones(COPIED, device=device())
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * source.nbytes


def held() -> int:
    """Bytes of memory that this process holds now, on Linux."""
    return _status("VmRSS")


def peak() -> int:
    """The most that this process has held since `forget_peak`, in bytes, on Linux."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let the most be what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


class Apart:
    """A call in a process of its own, which waits while others have their turns.

    `of` makes the first call, which warms up and does not count.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.times = Times(float("inf"), float("inf"))
        """The best so far."""
        self.peak = 0
        """The most memory that the call needed, in bytes, beyond what the process held before it was made."""

    @classmethod
    @contextlib.contextmanager
    def of(cls, make: Callable[..., Call], *arguments: Any, threads: int) -> Iterator["Apart"]:
        """A process that calls what `make(*arguments)` gives; it ends with the block."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, threads, make, arguments), daemon=True)
        process.start()
        theirs.close()
        try:
            ours.recv()  # EOFError: the process is gone; it has said why
            yield cls(ours)
            ours.send(False)
        finally:
            ours.close()
            process.join()

    def turn(self) -> None:
        """Call it once more."""
        self._pipe.send(True)
        times, self.peak = self._pipe.recv()
        self.times = self.times.least(times)


def _serve(pipe: Connection, threads: int, make: Callable[..., Call], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    gpu = torch.cuda.is_available()
    before = 0 if gpu else held()
    call = make(*arguments)
    timed(call)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        forget_peak()
    pipe.send(None)
    with contextlib.suppress(EOFError):
        while pipe.recv():
            times = timed(call)
            pipe.send((times, (torch.cuda.max_memory_allocated() if gpu else peak()) - before))


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
