"""Time of a step on 1, 2, ... processes, and the bytes that they exchange in it beside the least possible.

    python tools/bench/scaling.py [--processes N ...] [--steps N] [the options of step.py transfer]

The batch is that of all processes together, so that twice as many have half the pictures each; each computes
on one thread, or on a GPU of its own. Bytes are what a process gives to sums over all, counted where `World`
starts them; a ring sends 2 (n - 1) / n times that. The least is the gradients of what is trained, in float32,
once an update. Statistics of synchronised batch norm, which make the result that of one process, come on top,
and so do losses.

What bounds it is the convolutions, which divide evenly, then the sums that the backward pass does not cover:
those of batch norm are few bytes, but each is waited for.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import machine
from ranks import in_processes
from rich.console import Console
from rich.table import Table
from step import Setting, ask_for_setting, pictures, transferring
from torch import Tensor

from cgt.distributed import World
from cgt.training.step import train_step

COUNTED: Counter[str] = Counter()
"""Bytes given to sums, by what they are."""


class CountingWorld(World):
    """It counts what it sends."""

    @staticmethod
    def sum_(tensor: Tensor) -> Tensor:
        """Statistics of batch norm, which are of a forward or backward pass, and losses."""
        COUNTED["statistics and losses"] += tensor.nbytes
        return World.sum_(tensor)

    def start_sum_(self, tensor: Tensor) -> Callable[[], None]:
        """Gradients."""
        COUNTED["gradients"] += tensor.nbytes
        return super().start_sum_(tensor)


def measure(words: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step (the least) and bytes of one, on this rank of a run."""
    torch.set_num_threads(1)
    setting = Setting.said(words)
    trainer, _ = transferring(setting, world=CountingWorld)
    batches = pictures(setting.batch_size // trainer.world.size, setting.resolution, setting.classes)
    train_step(trainer, batches, 0)
    COUNTED.clear()
    times = []
    for step in range(words.steps):
        start = time.perf_counter()
        train_step(trainer, batches, 1 + step)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    parts = (trainer.of_generator, trainer.of_discriminator)
    least = sum(parameter.nbytes for part in parts for parameter in part.parameters)
    sent = {name: COUNTED[name] / words.steps for name in ("gradients", "statistics and losses")}
    return {"seconds": min(times), "least": least, **sent}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask_for_setting(parser)
    parser.set_defaults(ch=16, batch_size=48)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=10, help="that are timed")
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.result:
        words.result.write_text(json.dumps(measure(words)), encoding="utf-8")
        return
    table = Table("processes", "ms/step", "times as fast", "MB: gradients", "least", "all else")
    torch.set_num_threads(1)
    base = None
    for processes in words.processes:
        found = in_processes(__file__, sys.argv[1:], processes)
        if isinstance(found, str):
            raise SystemExit(found)
        base = base or found["seconds"]
        one = processes == 1
        table.add_row(
            str(processes),
            f"{found['seconds'] * 1000:.0f}",
            f"{base / found['seconds']:.2f}",
            f"{found['gradients'] / 1e6:.3f}",
            "0" if one else f"{found['least'] / 1e6:.3f}",
            "0" if one else f"{found['statistics and losses'] / 1e6:.3f}",
        )
    console = Console()
    console.print(
        f"transfer at ch {words.ch}, batch {words.batch_size}, one thread a process; {machine()}",
        highlight=False,
    )
    console.print(table)


if __name__ == "__main__":
    main()
