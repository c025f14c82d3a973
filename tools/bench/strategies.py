"""Time and memory of a training step by strategy, beside what `cgt launch memory` computes of the memory.

    python tools/bench/strategies.py [--resolution R] [--batch-size N] [--precision P] [--processes N]

The networks are BigGAN's on ImageNet, with 1000 classes; where there is no GPU they are small ones of 32 px.
Each strategy trains on random pictures in processes of its own. On one process ZeRO, which cgt then refuses,
divides nothing, and shows what DeepSpeed costs by itself. `ddp` is measured again at the end: how far that is
from 1 is how much the other ratios may be off by chance.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, get_args

import torch
from ranks import in_processes
from rich.console import Console
from rich.table import Table

from cgt import rng
from cgt.config import load
from cgt.distributed import World
from cgt.training.memory import LiveTensors, needs
from cgt.training.settings import PretrainConfig
from cgt.training.step import train_step
from cgt.training.strategies.choice import Strategy
from cgt.training.trainer import Trainer, build_trainer
from cgt.transfer.base import Method, MethodConfig, Task

CLASSES = [f"class {i}" for i in range(1000)]
SMALL = [64, 48, 32, 24]
WARM_UP = 2
"""Steps before those that are measured: in the first Adam gets its state, and kernels are chosen."""


def config_of(words: argparse.Namespace, strategy: str) -> PretrainConfig:
    """Of a run as the command line says."""
    overrides = ["data=none", f"batch_size={words.batch_size}", "micro_batch=null", f"strategy={strategy}"]
    overrides += [f"precision={words.precision}", f"gradient_checkpointing={words.gradient_checkpointing}"]
    if words.resolution == 32:
        overrides += [f"generator.channels={SMALL}", f"discriminator.channels={SMALL[::-1]}"]
        overrides += ["generator.attention=[16]", "discriminator.attention=[16]"]
    name = "imagenet/biggan256" if words.resolution == 256 else "imagenet/biggan128"
    return load(PretrainConfig, name, overrides)


def method_of(config: PretrainConfig, resolution: int) -> Method[Any]:
    """Pretraining from nothing."""
    task = Task(CLASSES, resolution, config.generator, config.discriminator, seed=0)
    return Method(MethodConfig(name="pretraining"), task)


def measure(words: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of a step (median) and peak bytes, on this rank of a run."""
    config = config_of(words, words.only)
    world = World(config.precision)
    share = config.batch_size // world.size
    x = rng.integers(share * 3 * words.resolution**2, 256, 0, "bench").to(torch.uint8)
    batch = x.view(share, 3, words.resolution, words.resolution), torch.arange(share) % len(CLASSES)
    method = method_of(config, words.resolution)

    def run(trainer: Trainer, first: int, steps: int) -> list[float]:
        times = []
        for step in range(first, first + steps):
            start = time.perf_counter()
            train_step(trainer, itertools.repeat(batch), step)
            if world.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return times

    if world.device.type == "cuda":
        trainer = build_trainer(config, method, world)
        run(trainer, 0, WARM_UP)
        torch.cuda.reset_peak_memory_stats()
        times = run(trainer, WARM_UP, words.steps)
        peak = torch.cuda.max_memory_allocated()
    else:
        live = LiveTensors()
        with live:
            trainer = build_trainer(config, method, world)
            run(trainer, 0, WARM_UP)
            live.take()
            run(trainer, WARM_UP, 1)
        peak = max(moment.total for moment in live.take())
        times = run(trainer, WARM_UP + 1, words.steps)
    return {"ms": 1000 * statistics.median(times), "peak": peak}


def computed(words: argparse.Namespace, strategy: Strategy) -> int:
    """Bytes of the peak, by arithmetic."""
    config = config_of(words, strategy)
    (need,) = needs(config, lambda: method_of(config, words.resolution), [strategy], words.processes)
    return need.peak.total


def main() -> None:
    """Print the table."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--resolution", type=int, choices=[32, 128, 256], default=128 if gpu else 32)
    parser.add_argument("--batch-size", type=int, default=64 if gpu else 8, help="of all processes")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20, help="that are timed")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.only:
        words.result.write_text(json.dumps(measure(words)), encoding="utf-8")
        return
    memory = "max_memory_allocated" if gpu else "tensors alive"
    table = Table("strategy", "ms/step", "times ddp", f"GiB, {memory}", "GiB computed", "ratio")
    baseline, failures = 0.0, []
    strategies = get_args(Strategy)
    for name, strategy in [*zip(strategies, strategies, strict=True), ("ddp again", "ddp")]:
        found = in_processes(__file__, [*sys.argv[1:], "--only", strategy], words.processes)
        if isinstance(found, str):
            table.add_row(name, "failed")
            failures.append(f"{name}: {found}")
            continue
        baseline = baseline or found["ms"]
        size = computed(words, strategy)
        table.add_row(
            name,
            f"{found['ms']:.0f}",
            f"{found['ms'] / baseline:.2f}",
            f"{found['peak'] / 2**30:.3f}",
            f"{size / 2**30:.3f}",
            f"{size / found['peak']:.2f}",
        )
    device = torch.cuda.get_device_name() if gpu else "CPU"
    run = f"{words.resolution} px, batch {words.batch_size}, {words.precision}, {words.processes} on {device}"
    console = Console()
    console.print(run, highlight=False)
    console.print(table)
    for failure in failures:
        console.print(failure, highlight=False, markup=False)


if __name__ == "__main__":
    main()
