"""Time and memory of a training step, as ratios within one run.

    python tools/bench/step.py transfer [--resolution 32|128|256] [--rows NAME ...] [--turns N] [--threads N]
    python tools/bench/step.py pretrain [--compile]

`transfer` is an update of D and one of G of cGANTransfer, by default at the paper's setting on CIFAR: ours,
in float32, by bf16 autocast and compiled, beside the reference formulation (`reference.py`), which computes
the same as the published program arranges it; `naive` is that with D called twice and an idle graph of G.
Each is in a process of its own. On the CPU these take turns, so that a busy machine slows them all, and
memory is what the process needed at most beyond what it held with nothing but its modules loaded (a compiled
row's includes the compiler); on a GPU they run one after the other, and memory is what torch's allocator gave
at most. Nothing counts before the second step.

What bounds a step is its convolutions, nearly all of its operations. So these are counted, for ours, and what
each row makes of them in a second stands beside what a product of large matrices makes. bf16 gains where a
processor has instructions for it (AVX512_BF16 or AMX, or a GPU), and loses where it is emulated.

`pretrain` is a step of `shapes/pretrain`, with threads, memory layout, precision, compilation and a
transfer's frozen generator against float32 on one thread.
"""

import argparse
import contextlib
import copy
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from measuring import Apart, Call, device, in_turns, machine
from reference import Reference
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cgt import rng
from cgt.config import load
from cgt.distributed import Precision, World
from cgt.models.biggan import Generator
from cgt.training.settings import PretrainConfig
from cgt.training.step import train_step
from cgt.training.trainer import Trainer, build_trainer
from cgt.transfer.base import Method, MethodConfig, Source, Task
from cgt.transfer.cgantransfer import CGANTransfer, CGANTransferConfig

CONFIGS = {32: "recipes/pretrain", 128: "imagenet/biggan128", 256: "imagenet/biggan256"}
OURS = {
    "fp32": ["precision=fp32"],
    "bf16": ["precision=bf16"],
    "compiled": ["compile=true"],
    "compiled-bf16": ["compile=true", "precision=bf16"],
}
"""What the rows of our own add to the config."""
ROWS = ("reference", "naive", *OURS)


class Setting(NamedTuple):
    """Of a transfer."""

    resolution: int
    ch: int
    source_classes: int
    classes: int
    batch_size: int

    @classmethod
    def said(cls, words: argparse.Namespace) -> "Setting":
        """As the command line has it."""
        return cls(words.resolution, words.ch, words.source_classes, words.classes, words.batch_size)


def ask_for_setting(parser: argparse.ArgumentParser) -> None:
    """The options of `Setting`, by default the paper's on CIFAR."""
    parser.add_argument("--resolution", type=int, choices=CONFIGS, default=32)
    parser.add_argument("--ch", type=int, default=64, help="channel multiplier; the paper's at 128 px: 96")
    parser.add_argument("--source-classes", type=int, default=80, help="N")
    parser.add_argument("--classes", type=int, default=20, help="M")
    parser.add_argument("--batch-size", type=int, default=50)


def pictures(batch_size: int, resolution: int, classes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One batch of noise, again and again."""
    shape = (batch_size, 3, resolution, resolution)
    x = rng.integers(batch_size * 3 * resolution**2, 256, 0, "bench").view(shape).to(torch.uint8)
    return itertools.repeat((x, torch.arange(batch_size) % classes))


def names(count: int, of: str) -> list[str]:
    """Of classes."""
    return [f"{of} {number}" for number in range(count)]


def configured(setting: Setting, changes: Sequence[str] = ()) -> PretrainConfig:
    """Of a transfer's step."""
    overrides = [
        "data=none",
        f"batch_size={setting.batch_size}",
        "micro_batch=null",
        "optim.discriminator_steps=1",
    ]
    overrides += [f"{network}.ch={setting.ch}" for network in ("generator", "discriminator")]
    overrides += [f"{network}.init=normal" for network in ("generator", "discriminator")]  # the quickest
    return load(PretrainConfig, CONFIGS[setting.resolution], [*overrides, *changes])


def cgantransfer(setting: Setting, config: PretrainConfig) -> CGANTransfer:
    """From a source of random weights."""
    shape = (setting.resolution, config.generator, config.discriminator, 0)
    of_source = Task(names(setting.source_classes, "old"), *shape)
    source = Source(of_source.fresh_generator().eval(), of_source.fresh_discriminator().eval())
    task = Task(names(setting.classes, "new"), *shape, source)
    return CGANTransfer(CGANTransferConfig(name="cgantransfer", start="uniform"), task)


def transferring(
    setting: Setting, changes: Sequence[str] = (), world: Callable[[Precision], World] = World
) -> tuple[Trainer, Generator]:
    """A trainer of cGANTransfer, and the generator that it starts from, of random weights."""
    config = configured(setting, changes)
    method = cgantransfer(setting, config)
    source = method.task.given_source.generator
    return build_trainer(config, method, world(config.precision)), source


def arranged(row: str, setting: Setting) -> Call:
    """A step of the transfer as a row of the table has it."""
    trainer, source = transferring(setting, OURS.get(row, []))
    batches = pictures(setting.batch_size, setting.resolution, setting.classes)
    steps = itertools.count()
    if row in OURS:
        return lambda: train_step(trainer, batches, next(steps))
    reference = Reference(trainer, source, naive=row == "naive")
    return lambda: reference.step(batches, next(steps))


def run_apart(rows: Sequence[str], setting: Setting, turns: int, threads: int) -> dict[str, Apart]:
    """Every row in a process of its own, measured."""
    found = {}
    if torch.cuda.is_available():
        for row in rows:
            with Apart.of(arranged, row, setting, threads=threads) as found[row]:
                for _ in range(turns):
                    found[row].turn()
        return found
    with contextlib.ExitStack() as stack:
        for row in rows:
            found[row] = stack.enter_context(Apart.of(arranged, row, setting, threads=threads))
        for _ in range(turns):
            for apart in found.values():
                apart.turn()
    return found


def operations(setting: Setting) -> int:
    """Of the convolutions and products in a step of ours, which does them by other ways at other sizes."""
    counter = FlopCounterMode(display=False)
    step = arranged("fp32", setting)
    with counter:
        step()
    return counter.get_total_flops()


def product_rates() -> dict[str, float]:
    """Operations a second of a product of large matrices, by number type: on a GPU TF32, as convolutions
    have it there, beside float32.
    """
    gpu = torch.cuda.is_available()
    size = 8192 if gpu else 1024
    kinds = {"fp32": torch.float32, **({"TF32": torch.float32} if gpu else {}), "bf16": torch.bfloat16}

    def product(name: str, matrix: Tensor) -> Tensor:
        torch.backends.cuda.matmul.allow_tf32 = name == "TF32"
        return matrix @ matrix

    calls: dict[str, Call] = {
        name: functools.partial(product, name, torch.randn(size, size, device=device()).to(dtype))
        for name, dtype in kinds.items()
    }
    rates = {name: 2 * size**3 / times.seconds for name, times in in_turns(calls, 3).items()}
    torch.backends.cuda.matmul.allow_tf32 = False
    return rates


def transfer_table(words: argparse.Namespace) -> None:
    """Print ours against the reference."""
    torch.set_num_threads(words.threads)
    setting = Setting.said(words)
    found = run_apart(words.rows, setting, words.turns, words.threads)
    base = found[words.rows[0]]
    table = Table("arrangement", "ms/step", "times as fast", "CPU times", "MiB", "of the first's", "GFLOP/s")
    work = operations(setting)
    for row, apart in found.items():
        table.add_row(
            row if row not in OURS else f"ours, {row}",
            f"{apart.times.seconds * 1000:,.0f}",
            f"{base.times.seconds / apart.times.seconds:.2f}",
            f"{base.times.cpu / apart.times.cpu:.2f}",
            f"{apart.peak / 2**20:,.0f}",
            f"{apart.peak / base.peak:.2f}",
            f"{work / apart.times.seconds / 1e9:,.0f}",
        )
    rates = ", ".join(f"{rate / 1e9:,.0f} in {name}" for name, rate in product_rates().items())
    console = Console()
    console.print(", ".join(f"{key} {value}" for key, value in setting._asdict().items()), highlight=False)
    console.print(f"{machine()}; {work / 1e12:.2f} TFLOP a step; products: GFLOP/s {rates}", highlight=False)
    console.print(table)


def pretraining(**changes: Any) -> Trainer:
    """A trainer of `shapes/pretrain`."""
    config = load(PretrainConfig, "shapes/pretrain", ["data=none"]).model_copy(update=changes)
    task = Task(names(15, "class"), 32, config.generator, config.discriminator, seed=0)
    return build_trainer(config, Method(MethodConfig(name="pretraining"), task), World(config.precision))


def frozen() -> Trainer:
    """A trainer of cGANTransfer from those networks to 5 classes."""
    source = pretraining()
    pair = Source(copy.deepcopy(source.generator).eval(), copy.deepcopy(source.discriminator).eval())
    config = source.config
    task = Task(names(5, "new"), 32, source.generator.config, source.discriminator.config, 0, pair)
    method = CGANTransfer(CGANTransferConfig(name="cgantransfer", start="uniform"), task)
    return build_trainer(config, method, World())


def plain_layout(trainer: Trainer) -> Trainer:
    """The same in torch's default memory layout."""
    for network in (trainer.generator, trainer.discriminator):
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return trainer


def seconds(trainer: Trainer, steps: int, threads: int) -> float:
    """Time of one step, the least of `steps`."""
    torch.set_num_threads(threads)
    batches = pictures(trainer.config.batch_size, 32, 5)
    times = []
    for step in range(steps):
        start = time.perf_counter()
        train_step(trainer, batches, step)
        times.append(time.perf_counter() - start)
    return min(times)


def pretrain_table(words: argparse.Namespace) -> None:
    """Print what changes to the step of `shapes/pretrain` gain."""
    rows: dict[str, tuple[Callable[[], Trainer], int]] = {
        "2 threads": (pretraining, 2),
        "default memory layout": (lambda: plain_layout(pretraining()), 1),
        "bf16": (lambda: pretraining(precision="bf16"), 1),
        "cgantransfer: G frozen and folded": (frozen, 1),
    }
    if words.compile:
        rows["compiled"] = (lambda: pretraining(compile=True), 1)
    baseline = pretraining()
    seconds(baseline, 3, 1)
    table = Table("against pretraining in fp32 on 1 thread", "ms/step", "baseline ms", "times as fast")
    for name, (make, threads) in rows.items():
        trainer = make()
        seconds(trainer, 3, threads)
        turns = [
            (seconds(baseline, words.steps, 1), seconds(trainer, words.steps, threads)) for _ in range(3)
        ]
        base, own = (min(column) for column in zip(*turns, strict=True))
        table.add_row(name, f"{own * 1000:.0f}", f"{base * 1000:.0f}", f"{base / own:.2f}")
    Console().print(table)


def main() -> None:
    """Print a table."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(required=True)
    transfer = kinds.add_parser("transfer", help="ours beside the reference formulation")
    transfer.set_defaults(table=transfer_table)
    ask_for_setting(transfer)
    fast_bf16 = gpu or torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
    default = [row for row in ROWS if row != "naive" and (fast_bf16 or not row.endswith("bf16"))]
    transfer.add_argument(
        "--rows",
        nargs="+",
        choices=ROWS,
        default=default,
        help="the first is the base; bf16 is among them where it is not merely emulated",
    )
    transfer.add_argument("--turns", type=int, default=20 if gpu else 2, help="steps that count")
    transfer.add_argument("--threads", type=int, default=2)
    pretrain = kinds.add_parser("pretrain", help="what changes to a step of shapes/pretrain gain")
    pretrain.set_defaults(table=pretrain_table)
    pretrain.add_argument("--steps", type=int, default=10, help="steps a turn")
    pretrain.add_argument(
        "--compile", action="store_true", help="time compiled networks too (minutes to compile)"
    )
    words = parser.parse_args()
    words.table(words)


if __name__ == "__main__":
    main()
