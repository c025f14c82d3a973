"""This process's place in a run; nothing else touches accelerate or torch.distributed."""

import contextlib
import copy
import datetime
import functools
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from cgt.errors import RunError, SaidElsewhereError, UserError, reworded

T = TypeVar("T")
Precision = Literal["fp32", "bf16", "fp16"]


class World:
    """The device, the arithmetic and the rank of this process.

    Args:
        precision: "fp32", or "bf16"/"fp16" for autocast.
        cpu: stay on the CPU where there is a GPU, as ACCELERATE_USE_CPU says too.
        timeout: seconds that a rank waits for the others before it gives up.

    Raises:
        UserError: the launcher started more processes than form one run, or fp16 is asked for on a CPU.
    """

    def __init__(self, precision: Precision = "fp32", *, cpu: bool = False, timeout: float = 600) -> None:
        self.precision = precision
        self.timeout = timeout
        self.group: torch.distributed.ProcessGroup | None = None
        limit = datetime.timedelta(seconds=timeout)
        self._state = PartialState(cpu=cpu or _cpu_wanted(), timeout=limit)
        assert not cpu or self.device.type == "cpu", "the first World of a process decides on its device"
        if (launched := int(os.environ.get("WORLD_SIZE", "1"))) != self.size:
            raise UserError(
                f"the launcher started {launched} processes, and each would train alone (`accelerate launch "
                "--cpu` does that): start them with --processes, torchrun or srun."
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
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and speaks to the person."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device = self._state.device
        assert isinstance(device, torch.device)
        return device

    @property
    def backend(self) -> str | None:
        """By what the ranks add up tensors: "nccl" or "gloo"; None for a rank alone."""
        backend: str | None = self._state.backend
        return backend

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Mixed precision for a forward pass, as `precision` says."""
        return torch.autocast(self.device.type, self._half or torch.float32, enabled=self._half is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """A loss scaler for one network; it does nothing but under fp16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def share(self, global_batch: Tensor) -> Tensor:
        """This rank's slice of something drawn for the whole global batch, on this rank's device."""
        return self.to_device(global_batch.tensor_split(self.size)[self.rank])

    def to_device(self, tensor: Tensor) -> Tensor:
        """The tensor on this process's device; a GPU gets it when it is through with what it has to do, and
        is not waited for.
        """
        if tensor.device.type == "cpu" and self.device.type == "cuda":
            tensor = tensor.pin_memory()  # only from there can it be fetched behind our back
        return tensor.to(self.device, non_blocking=True)

    @staticmethod
    def sum_(tensor: Tensor) -> Tensor:
        """Add up the ranks' tensors of one shape, in place on each of them."""
        if PartialState().num_processes > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def mean(self, own: Tensor) -> Tensor:
        """The mean of the ranks' values, for a loss: its gradient goes through this rank's own value, so that
        gradients which are averaged over the ranks become those of the mean.
        """
        if self.size == 1:
            return own
        value = own.detach()
        return self.sum_(value.clone()) / self.size + (own - value)

    def start_sum_(self, tensor: Tensor) -> Callable[[], None]:
        """Begin what `sum_` does; the tensor is whole once the function that this returns has been called.

        All ranks begin their sums in the same order.
        """
        work = torch.distributed.all_reduce(tensor, group=self.group, async_op=True)

        def wait() -> None:
            work.wait()

        return wait

    def bounds(self, length: int) -> tuple[int, int]:
        """Begin and end of this rank's part of a flat vector, by torch.chunk's rule; it may be empty."""
        chunk = -(-length // self.size)
        return min(self.rank * chunk, length), min((self.rank + 1) * chunk, length)

    def sharded(self, part: Tensor, length: int) -> Tensor:
        """The flat vector of which every rank holds its part, as torch.distributed.checkpoint takes it.

        It is made of the ranks' own memory: a DTensor, or on one process the part itself.
        """
        if self.size == 1:
            return part
        from torch.distributed.tensor import DTensor, Shard

        shape = torch.Size([length])
        return DTensor.from_local(part, self._mesh, [Shard(0)], run_check=False, shape=shape, stride=(1,))

    def part(self, vector: Tensor) -> Tensor:
        """This rank's part of a flat vector, be that `sharded` or a plain one; no copy."""
        if self.size > 1:
            from torch.distributed.tensor import DTensor

            if isinstance(vector, DTensor):
                return vector.to_local()
        begin, end = self.bounds(len(vector))
        return vector[begin:end]

    def whole(self, part: Tensor, length: int) -> Tensor:
        """The flat vector of which every rank gives its part, put together on each of them in one collective.

        On one process it is the part itself.
        """
        vector = self.sharded(part, length)
        return vector if self.size == 1 else vector.full_tensor()  # type: ignore[attr-defined]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks; values are pickled."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        torch.distributed.all_gather_object(values, value, group=self.group)
        return cast(list[T], values)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A block that fails on all ranks if it fails on one, so that none waits for what never comes.

        The first rank that failed raises its error, the others a `SaidElsewhereError`.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        codes = self.gather(0 if failure is None else 2 if isinstance(failure, UserError) else 1)
        failed = [rank for rank, code in enumerate(codes) if code]
        if not failed:
            return
        if failure is None or failed[0] != self.rank:
            raise SaidElsewhereError(failed[0], codes[failed[0]])
        if isinstance(failure, UserError | RunError) and len(failed) < self.size:
            raise reworded(failure, f"rank {self.rank} of {self.size}: {failure}") from failure
        raise failure

    def agree(self, facts: Mapping[str, str]) -> None:
        """Compare what must be the same on all ranks, such as the config or the version of the code.

        Raises:
            UserError: on the first rank that differs from rank 0, naming what does.
        """
        with self.together():
            first = self.gather(facts)[0]
            different = [name for name in facts if facts[name] != first.get(name)]
            if different:
                name = different[0]
                raise UserError(
                    f"the {name} is {facts[name]!r} here on {socket.gethostname()}, and {first.get(name)!r} "
                    "on rank 0: start all processes with the same config, code, data and source."
                )

    @functools.cached_property
    def _mesh(self) -> DeviceMesh:
        return init_device_mesh(self.device.type, (self.size,))

    def aside(self) -> "World":
        """The same ranks over connections of their own on the CPU, for what must not mix with training: what
        another thread does, or what is waited for later. All ranks call this together.
        """
        other = copy.copy(self)
        if self.size > 1:
            limit = datetime.timedelta(seconds=self.timeout)
            other.group = torch.distributed.new_group(backend="gloo", timeout=limit)
        return other

    def board(self, name: str) -> Any:
        """Where ranks leave short notes for each other: a connection of its own to the store in which they
        met, with keys of its own; None for a rank alone.
        """
        if self.size == 1:
            return None
        from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

        return PrefixStore(name, _get_default_store().clone())  # type: ignore[attr-defined]

    @property
    def _half(self) -> torch.dtype | None:
        return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]


def launched_world(precision: Precision = "fp32", *, timeout: float = 600) -> World:
    """This process's place, once all ranks that were launched are there.

    Raises:
        UserError: as `World`.
        RunError: ranks did not come within the timeout, as the first of those that did says.
        SaidElsewhereError: another one says so.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World(precision, timeout=timeout)
    with roll_call(socket.gethostname(), timeout):
        return World(precision, timeout=timeout)


@contextlib.contextmanager
def roll_call(note: str, seconds: float) -> Iterator[list[str]]:
    """Wait for all launched ranks where they are to meet, for the block to make a `World`.

    Args:
        note: what this rank says of itself.
        seconds: for all to come.

    Yields:
        The ranks' notes, by rank.

    Raises:
        RunError: ranks did not come, as the first of those that did says; or this rank can't get there.
        SaidElsewhereError: another rank says who did not come.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    holds_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not holds_store:
        _wait_for_port(address, port, seconds)
    # One that the rendezvous of torch then finds and uses, too.
    store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
        address,
        port,
        is_master=holds_store,
        timeout=datetime.timedelta(seconds=seconds),
        wait_for_workers=False,
        multi_tenant=True,
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    calls = PrefixStore(f"cgt-roll-call-{attempt}", store)
    everyone = [str(number) for number in range(size)]
    calls.set(str(rank), note)
    deadline = time.monotonic() + seconds
    try:
        while not calls.check(everyone):
            if time.monotonic() > deadline:
                raise _absence(calls, rank, everyone, f"{address}:{port} within {seconds:g} s")
            time.sleep(0.1)
        notes = [text.decode() for text in calls.multi_get(everyone)]
    except torch.distributed.DistError:  # rank 0 went, and the store with it
        raise SaidElsewhereError(0, 1) from None
    yield notes


def lost_touch(error: BaseException) -> bool:
    """Whether `error` says that another rank did not answer, or is gone."""
    # Most of gloo's messages begin with the file of gloo that they come from.
    signs = ("gloo", "Application timeout caused pair closure")
    # Ours may name a file or a class in which one of these occurs: an igloo.
    torchs = isinstance(error, RuntimeError) and not isinstance(error, RunError)
    gloo = torchs and any(sign in str(error) for sign in signs)
    return gloo or isinstance(error, torch.distributed.DistError)


def _wait_for_port(address: str, port: int, seconds: float) -> None:
    """Until something listens there.

    Raises:
        RunError: nothing has in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, port), timeout=max(0.1, deadline - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise RunError(
                f"rank {os.environ['RANK']} on {socket.gethostname()} has not reached {address}:{port}, "
                f"where the ranks meet, within {seconds:g} s ({error.strerror or error}): see that rank 0 "
                "was started, that MASTER_ADDR names its host as all hosts know it, and that no firewall "
                "closes the port MASTER_PORT."
            ) from None


def _absence(calls: Any, rank: int, everyone: list[str], place: str) -> Exception:
    """What to raise where not everyone came: an error that names them on the first rank that did."""
    there = {number: calls.get(number).decode() for number in everyone if calls.check([number])}
    if str(rank) != next(iter(there)):
        return SaidElsewhereError(int(next(iter(there))), 1)
    missing = [number for number in everyone if number not in there]
    came = ", ".join(f"rank {number} ({note})" for number, note in there.items())
    return RunError(
        f"rank{'s' * (len(missing) > 1)} {', '.join(missing)} of {len(everyone)} did not come to {place}; "
        f"those that came: {came}. See what the missing say, that they were started with the same "
        "MASTER_ADDR and MASTER_PORT, and that no firewall closes that port."
    )


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
