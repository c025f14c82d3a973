"""This process's place in a run; nothing else touches accelerate or torch.distributed."""

import contextlib
from typing import Literal

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor

from cgt.errors import UserError

Precision = Literal["fp32", "bf16", "fp16"]


class World:
    """The device, the arithmetic and the rank of this process.

    Args:
        precision: "fp32", or "bf16"/"fp16" for autocast.
        cpu: stay on the CPU where there is a GPU, as ACCELERATE_USE_CPU says too.

    Raises:
        UserError: the process was started as one of several (training runs in one process so far), or fp16 is
            asked for on a CPU.
    """

    def __init__(self, precision: Precision = "fp32", *, cpu: bool = False) -> None:
        self.precision = precision
        self._state = PartialState(cpu=cpu or _cpu_wanted())
        if self.size > 1:
            raise UserError(
                f"started as one of {self.size} processes, but training runs in one: start the verb "
                "without a launcher."
            )
        if precision == "fp16" and self.device.type == "cpu":
            raise UserError("precision: fp16 needs a GPU, and there is none here: use bf16 or fp32.")

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return int(self._state.process_index)

    @property
    def size(self) -> int:
        """The number of processes."""
        return int(self._state.num_processes)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device = self._state.device
        assert isinstance(device, torch.device)
        return device

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Mixed precision for a forward pass, as `precision` says."""
        return torch.autocast(self.device.type, self._half or torch.float32, enabled=self._half is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """A loss scaler for one network; it does nothing but under fp16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def share(self, global_batch: Tensor) -> Tensor:
        """This rank's slice of something drawn for the whole global batch, on this rank's device."""
        return global_batch.tensor_split(self.size)[self.rank].to(self.device, non_blocking=True)

    @property
    def _half(self) -> torch.dtype | None:
        return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]


def device() -> torch.device:
    """Where verbs without a `World` compute: on the GPU if there is one, unless ACCELERATE_USE_CPU is set."""
    return torch.device("cuda" if torch.cuda.is_available() and not _cpu_wanted() else "cpu")


def backends() -> list[str]:
    """The ways for processes to talk to each other that this torch was built with."""
    there = torch.distributed
    if not there.is_available():
        return []
    built = {
        "gloo": there.is_gloo_available(),
        "nccl": there.is_nccl_available(),
        "mpi": there.is_mpi_available(),
    }
    return [name for name, is_built in built.items() if is_built]


def _cpu_wanted() -> bool:
    """Whether the environment says so, as `accelerate launch --cpu` sets it."""
    return bool(parse_flag_from_env("ACCELERATE_USE_CPU"))
