"""A machine that is wanted for something else: signals that ask a run to save and stop."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import torch

from cgt.distributed import World

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
ONE_REQUEST = 5.0
"""Seconds within which signals count as one: launchers pass on what SLURM sends to every process anyway."""


class Preemption:
    """Listens to SIGTERM and SIGUSR1 for a block; a second signal ends the process at once.

    Args:
        world: on the CPU (`World.aside`); all ranks make one together.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._asked: float | None = None
        self._before: dict[int, Any] = {}
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._wait: Callable[[], None] | None = None

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether a rank was asked to stop; all ranks call this after each step, and hear the same.

        They hear it one step late: so none ever waits for the answer.
        """
        if self._world.size == 1:
            return self._asked is not None
        if self._wait:
            self._wait()
        answer = bool(self._flag.item())
        self._flag = torch.tensor([self._asked is not None], dtype=torch.int32)
        self._wait = self._world.start_sum_(self._flag)
        return answer

    def _handle(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
        elif now - self._asked > ONE_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
