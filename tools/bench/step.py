"""Time of a training step, as ratios within one run: threads, memory layout, precision, compilation, and a
transfer's frozen generator.

    python tools/bench/step.py [--steps N] [--compile]

The networks are those of `shapes/pretrain`; every row trains on the same random pictures, and is timed in
turns with the baseline so that a busy machine slows both.
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cgt import rng
from cgt.config import load
from cgt.distributed import World
from cgt.training.settings import PretrainConfig
from cgt.training.step import train_step
from cgt.training.trainer import Trainer, build_trainer
from cgt.transfer.base import Method, MethodConfig, Source, Task
from cgt.transfer.cgantransfer import CGANTransfer, CGANTransferConfig

CLASSES = [f"class {i}" for i in range(15)]


def pictures(batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One batch of noise, again and again."""
    x = rng.integers(batch_size * 3 * 32 * 32, 256, 0, "bench").view(batch_size, 3, 32, 32).to(torch.uint8)
    y = torch.arange(batch_size) % 5
    while True:
        yield x, y


def pretraining(**changes: Any) -> Trainer:
    """A trainer of `shapes/pretrain`."""
    config = load(PretrainConfig, "shapes/pretrain", ["data=none"]).model_copy(update=changes)
    task = Task(CLASSES, 32, config.generator, config.discriminator, seed=0)
    return build_trainer(config, Method(MethodConfig(name="pretraining"), task), World(config.precision))


def transfer() -> Trainer:
    """A trainer of cGANTransfer from those networks to 5 classes."""
    source = pretraining()
    pair = Source(copy.deepcopy(source.generator).eval(), copy.deepcopy(source.discriminator).eval())
    config = source.config
    task = Task(["a", "b", "c", "d", "e"], 32, source.generator.config, source.discriminator.config, 0, pair)
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
    batches = pictures(trainer.config.batch_size)
    times = []
    for step in range(steps):
        start = time.perf_counter()
        train_step(trainer, batches, step)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10, help="steps a turn")
    parser.add_argument(
        "--compile", action="store_true", help="time compiled networks too (minutes to compile)"
    )
    words = parser.parse_args()
    rows: dict[str, tuple[Callable[[], Trainer], int]] = {
        "2 threads": (pretraining, 2),
        "default memory layout": (lambda: plain_layout(pretraining()), 1),
        "bf16": (lambda: pretraining(precision="bf16"), 1),
        "cgantransfer: G frozen and folded": (transfer, 1),
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


if __name__ == "__main__":
    main()
