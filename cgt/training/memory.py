"""The memory that a run needs on each process, computed without its pictures, a GPU or the memory.

A step is run as it is, on tensors that have shapes and no content, and what would be alive is added up. So
gradient checkpointing, micro-batches and autocast count as they are. The stand-in for a GPU is a CPU, whose
autocast picks nearly the same operations. What comes on top of the sum on a GPU is not counted: the CUDA
context (about half a GiB), the work space of convolutions, collectives' own memory and what the allocator
loses between tensors.

`ddp` is run as it trains. DeepSpeed can't be run on such tensors: what it keeps is in `_Zero`, by formulas.
"""

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cgt.distributed import Precision, World
from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.training.settings import RunConfig
from cgt.training.step import discriminator_gradients, generator_gradients
from cgt.training.strategies.base import Trainable
from cgt.training.strategies.choice import Strategy, StrategyConfig
from cgt.training.strategies.zero import PERSISTENT, bucket_size
from cgt.training.trainer import Trainer, trainer_of
from cgt.transfer.base import Method

N = TypeVar("N", bound=nn.Module)

MICRO_BATCHES = 2
"""That are run of an update: the first finds no gradients and the last sends them; others need no more."""

Kind = Literal["weights", "adam", "ema", "gradients", "buffers", "activations"]


class Bytes(NamedTuple):
    """What is alive at one time."""

    weights: int = 0
    """Parameters, and buffers of modules."""
    adam: int = 0
    ema: int = 0
    gradients: int = 0
    buffers: int = 0
    """What strategies keep beside these: copies of weights, messages."""
    activations: int = 0
    """All else, the optimiser's intermediate results too."""

    @property
    def total(self) -> int:
        """The sum."""
        return sum(self)


@dataclass(frozen=True)
class Need:
    """What one process needs at the worst moment of a step."""

    strategy: Strategy
    processes: int
    standing: int
    """What is there between updates."""
    peak: Bytes
    discriminator_activations: int
    """At the worst moment of D's update."""
    generator_activations: int
    """At the worst moment of G's update, with that of the average."""


class LiveTensors(TorchDispatchMode):
    """Within this block every tensor that an operation makes is counted for as long as it lives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = dict.fromkeys(get_args(Kind), 0)
        self.moments: list[Bytes] = []
        """After each tensor that came, since `take`."""
        self._kinds: dict[int, Kind] = {}

    def mark(self, tensor: Tensor, kind: Kind) -> None:
        """Count `tensor` as one of that kind, whatever it was counted as."""
        storage = tensor.untyped_storage()
        number, size = storage._cdata, storage.nbytes()
        if not size or tensor.device.type == "meta":
            return
        if (known := self._kinds.get(number)) is None:
            weakref.finalize(storage, self._forget, number, size)
        else:
            self.now[known] -= size
        self._kinds[number] = kind
        self.now[kind] += size
        self.moments.append(Bytes(**self.now))

    def take(self) -> list[Bytes]:
        """The moments since the last call."""
        taken, self.moments = self.moments, []
        return taken

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run `operation`, and count what it makes."""
        if operation is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return 1.0  # Adam's own count of its steps
        outputs = operation(*args, **(kwargs or {}))
        for output in outputs if isinstance(outputs, tuple | list) else (outputs,):
            if isinstance(output, Tensor) and output.untyped_storage()._cdata not in self._kinds:
                self.mark(output, "activations")
        return outputs

    def _forget(self, number: int, size: int) -> None:
        self.now[self._kinds.pop(number)] -= size


class OneOfMany(World):
    """Rank 0 among `size` processes of which there are no others: what is sent stays as it is."""

    def __init__(self, size: int, precision: Precision, live: LiveTensors) -> None:
        # A CPU refuses fp16; bf16 takes the same room.
        self.precision = "bf16" if precision == "fp16" else precision
        self._size = size
        self._live = live

    rank = 0
    device = torch.device("cpu")

    @property
    def size(self) -> int:
        """The number of processes."""
        return self._size

    @staticmethod
    def sum_(tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def start_sum_(self, tensor: Tensor) -> Callable[[], None]:
        """Count the message."""
        self._live.mark(tensor, "buffers")
        return lambda: None


def needs(
    config: RunConfig, method: Callable[[], Method[Any]], strategies: Iterable[Strategy], processes: int
) -> list[Need]:
    """What each of `processes` needs by each strategy.

    Args:
        config: of the run, whose own strategy does not matter.
        method: makes the method anew; called where tensors are of the meta device.
        strategies: to compute for.
        processes: that share the batch.

    Raises:
        UserError: they can't share the batch.
    """
    config.check_share(processes)
    live = LiveTensors()
    # On the meta device first: of what methods do with modules, not all is possible with fake tensors.
    with torch.device("meta"):
        made = method()
        networks = made.networks()
    with FakeTensorMode(allow_non_fake_inputs=True):
        step = _Step(config, made, networks, live, processes)
    return [step.need(strategy) for strategy in strategies]


def watch(trainer: Trainer, live: LiveTensors) -> None:
    """Have `live`, which is active, know the kinds of what `trainer` holds, now and as gradients come."""
    for part in (trainer.of_generator, trainer.of_discriminator):
        for tensor in (*part.network.parameters(), *part.network.buffers()):
            live.mark(tensor, "weights")
        for parameter in part.parameters:
            parameter.register_post_accumulate_grad_hook(lambda own: live.mark(_given(own.grad), "gradients"))
        for state in part.optimiser.state.values():
            for tensor in state.values():
                live.mark(tensor, "adam")
    for tensor in trainer.ema.average:
        live.mark(tensor, "ema")


class Timeline(NamedTuple):
    """All moments of an update."""

    backward: list[Bytes]
    """Until the gradients are there."""
    update: list[Bytes]


def updates(
    trainer: Trainer, live: LiveTensors, pictures: Callable[[], tuple[Tensor, Tensor]]
) -> tuple[Timeline, Timeline]:
    """One update of D, and one of G and of the average, as `train_step` makes them, while `live` looks.

    Args:
        trainer: changed in place.
        live: active.
        pictures: makes x uint8 (n, 3, R, R) and y int64 (n,), this process's share of the batch.
    """
    live.take()
    trainer.of_generator.hold(trainer.bank)
    with torch.no_grad():
        tables = trainer.bank.tables()
    discriminator_gradients(trainer, *pictures(), tables, 0, 0)
    backward = live.take()
    trainer.of_discriminator.update()
    of_discriminator = Timeline(backward, live.take())
    generator_gradients(trainer, 0)
    backward = live.take()
    trainer.of_generator.update()
    with trainer.of_generator.whole():
        trainer.ema.update(0)
    return of_discriminator, Timeline(backward, live.take())


class _Step:
    """A step of one of several processes, run once on tensors without content."""

    def __init__(
        self,
        config: RunConfig,
        method: Method[Any],
        networks: tuple[Generator, Discriminator],
        live: LiveTensors,
        processes: int,
    ) -> None:
        share = config.batch_size // processes
        micro_batch = config.micro_batch or share
        run = min(share, MICRO_BATCHES * micro_batch)
        config = config.model_copy(
            update={
                "batch_size": run * processes,
                "micro_batch": micro_batch,
                "compile": False,
                "strategy": StrategyConfig(),
            }
        )
        self._processes = processes
        generator, discriminator = _without_content(networks[0]), _without_content(networks[1])
        world = OneOfMany(processes, config.precision, live)
        trainer = trainer_of(generator, discriminator, config, method, world)

        def pictures() -> tuple[Tensor, Tensor]:
            # Of the whole share, as they come.
            x = torch.zeros(share, 3, generator.resolution, generator.resolution, dtype=torch.uint8)
            return x[:run], torch.zeros(run, dtype=torch.int64)

        with live:
            for part in (trainer.of_generator, trainer.of_discriminator):
                for parameter in part.parameters:
                    parameter.grad = torch.zeros_like(parameter)
                part.update()  # so that Adam has its state
            watch(trainer, live)
            self._standing = Bytes(**live.now)
            of_both = updates(trainer, live, pictures)
        self._of_discriminator, self._of_generator = of_both
        self._generator = _Size.of(trainer.of_generator)
        self._discriminator = _Size.of(trainer.of_discriminator)

    def need(self, strategy: Strategy) -> Need:
        """By that strategy."""
        standing = self._standing.total
        if strategy == "ddp":
            updates = [
                [*update.backward, *update.update] for update in (self._of_discriminator, self._of_generator)
            ]
        else:
            zero = _Zero(
                int(strategy[-1]), self._processes, self._generator, self._discriminator, self._standing.ema
            )
            standing = zero.standing.total
            updates = [
                zero.moments(self._of_discriminator.backward, self._discriminator),
                zero.moments(self._of_generator.backward, self._generator),
            ]
        worst = [max(moments, key=lambda moment: moment.total) for moments in updates]
        peak = max(worst, key=lambda moment: moment.total)
        return Need(strategy, self._processes, standing, peak, *(moment.activations for moment in worst))


class _Size(NamedTuple):
    """Of a network, in bytes."""

    all: int
    """Parameters and buffers."""
    parameters: int
    trained: int
    small: int
    """Parameters that stage 3 leaves whole."""
    bucket: int

    @classmethod
    def of(cls, part: Trainable) -> "_Size":
        """The network's that `part` trains."""
        parameters = list(part.network.parameters())
        return cls(
            all=_bytes([*parameters, *part.network.buffers()]),
            parameters=_bytes(parameters),
            trained=_bytes(part.parameters),
            small=_bytes(parameter for parameter in parameters if parameter.numel() <= PERSISTENT),
            bucket=4 * bucket_size(part.parameters),
        )


class _Zero:
    """What DeepSpeed 0.19 keeps on each process, all of it in float32 whatever autocast says.

    Beside tiny networks' real training, the sums are from 4 % below to 15 % above (stage 3). Parts are taken
    to be equal, which they are but for a few numbers. Names in comments are of deepspeed/runtime/zero:
    `stage_1_and_2.py` and `stage3.py`.
    """

    def __init__(self, stage: int, processes: int, generator: _Size, discriminator: _Size, ema: int) -> None:
        self._stage = stage
        self._processes = processes
        self._networks = (generator, discriminator)
        self._generator = generator
        self._discriminator = discriminator
        self.standing = self._between_updates(ema)

    def moments(self, backward: Sequence[Bytes], updated: _Size) -> list[Bytes]:
        """An update of a network, whose backward passes were `backward` without a strategy."""
        standing, part = self.standing, updated.trained // self._processes
        buffers = standing.buffers
        found = []
        for moment in backward:
            begun = moment.gradients > 0
            if self._stage == 1:
                # Whole gradients until the update; the bucket is there from the first on (`setup_buckets`).
                now = standing._replace(gradients=moment.gradients, buffers=buffers + begun * updated.bucket)
            elif self._stage == 2:
                # A gradient goes into the bucket at once, and of it into this micro-batch's part
                # (`grads_in_partition`), which is added to that of those before (`all_grad_tensors`).
                now = standing._replace(gradients=begun * 2 * part, buffers=buffers + begun * updated.bucket)
            else:
                now = standing._replace(buffers=buffers + self._gathered(updated))
            found.append(now._replace(activations=moment.activations))
        # `step`: the part's gradients are copied to a flat tensor; Adam takes as much for its square roots.
        if self._stage == 1:
            held, bucket = updated.trained + part, updated.bucket
        else:
            held, bucket = (2 * part if self._stage == 2 else standing.gradients + part), 0
        found.append(standing._replace(gradients=held, buffers=buffers + bucket, activations=part))
        if updated is self._generator and self._stage == 3:
            # The average looks at whole weights, of which it copies its part (`EMA._live`).
            found.append(standing._replace(buffers=buffers + updated.parameters, activations=part))
        return found

    def _between_updates(self, ema: int) -> Bytes:
        trained = sum(size.trained for size in self._networks) // self._processes
        weights = sum(size.all for size in self._networks)
        if self._stage < 3:
            # Copies of the parts that Adam works on: `single_partition_of_fp32_groups`.
            return Bytes(weights=weights, adam=2 * trained, ema=ema, buffers=trained)
        whole = sum(size.parameters for size in self._networks)
        small = sum(size.small for size in self._networks)
        return Bytes(
            # `lp_param_buffer`, and what is not divided.
            weights=weights - whole + whole // self._processes + small,
            adam=2 * trained,
            ema=ema,
            # `grad_partitions_flat_buffer`.
            gradients=trained,
            # `fp32_partitioned_groups_flat`, and the buckets, which stay.
            buffers=trained + sum(size.bucket for size in self._networks),
        )

    def _gathered(self, updated: _Size) -> int:
        """Weights that stage 3 has put together beside its parts.

        What forward gathered lives on in the graph until backward, which gathers G's again.
        """
        large = [size.parameters - size.small for size in (self._discriminator, self._generator)]
        return large[0] if updated is self._discriminator else large[0] + 2 * large[1]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _without_content(network: N) -> N:
    """A network of the meta device on the CPU, in the memory format of training."""
    network.to_empty(device="cpu")
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def _given(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient
