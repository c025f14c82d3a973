"""Peak memory of a transfer's step, by part.

    python tools/bench/memory.py [--resolution 32|128|256] [--rows NAME ...] [the options of step.py transfer]

Of ours it is computed (`cgt.training.memory`), so that any size can be looked at on any machine: what would
be alive at the worst moment of a step, by what it is, and the activations at the worst moment of either
update.
`reference` is the arrangement of `reference.py`, whose step is run and its tensors counted; that takes the
memory, and as long as the step takes. Work space of libraries is in no row; `step.py transfer` has it.
"""

import argparse
import functools
from typing import NamedTuple

import torch
from reference import Reference
from rich.console import Console
from rich.table import Table
from step import Setting, ask_for_setting, cgantransfer, configured, pictures, transferring

from cgt.distributed import World
from cgt.training.memory import Bytes, LiveTensors, needs

OURS = {
    "fp32": [],
    "bf16": ["precision=bf16"],
    "checkpointing": ["gradient_checkpointing=true"],
    "bf16 and checkpointing": ["precision=bf16", "gradient_checkpointing=true"],
    "micro-batches of 10": ["micro_batch=10"],
}
"""What the rows of our own add to the config."""


class Found(NamedTuple):
    """In bytes."""

    peak: Bytes
    activations: tuple[int, int] | None
    """Of D's update and of G's; None where they are not told apart."""


def computed(setting: Setting, changes: list[str]) -> Found:
    """Of ours."""
    config = configured(setting, changes)
    (need,) = needs(config, lambda: cgantransfer(setting, config), ["ddp"], 1)
    return Found(need.peak, (need.discriminator_activations, need.generator_activations))


def counted(setting: Setting) -> Found:
    """Of the reference, in its second step."""
    live = LiveTensors()
    with live:
        trainer, source = transferring(setting, world=functools.partial(World, cpu=True))
        reference = Reference(trainer, source)
        del trainer, source
        batches = pictures(setting.batch_size, setting.resolution, setting.classes)
        for kind in ("generator", "discriminator"):
            network = getattr(reference, kind)
            for tensor in (*network.parameters(), *network.buffers()):
                live.mark(tensor, "weights")
        reference.step(batches, 0)
        live.take()
        reference.step(batches, 1)
    return Found(max(live.take(), key=lambda moment: moment.total), None)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask_for_setting(parser)
    rows = ("reference", *OURS)
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows)
    words = parser.parse_args()
    setting = Setting.said(words)
    kinds = [kind for kind in Bytes._fields if kind != "buffers"]
    table = Table("MiB", "peak", *kinds, "of D's update", "of G's update")
    for row in words.rows:
        found = counted(setting) if row == "reference" else computed(setting, OURS[row])
        parts = [found.peak.total, *(getattr(found.peak, kind) for kind in kinds), *(found.activations or ())]
        table.add_row(row if row not in OURS else f"ours, {row}", *(f"{part / 2**20:,.1f}" for part in parts))
    console = Console()
    console.print(", ".join(f"{key} {value}" for key, value in setting._asdict().items()), highlight=False)
    console.print(f"torch {torch.__version__}; the last three columns are activations", highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
