"""Time of an update of the weights' average: ours, on one rank and as one of several, beside a loop.

    python tools/bench/ema.py [--model 32|128] [--ranks N ...] [--turns N]

The loop goes over the parameters, as BigGAN-PyTorch's does over its state dict. All must end in the same
average. What bounds it is memory: a rank reads its part of the average and of the weights, and writes that of
the average: 12 bytes a number. On R ranks each does 1/R of it.
"""

import argparse
from collections.abc import Sequence

import torch
from measuring import Call, copy, device, in_turns, machine
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from cgt import rng
from cgt.distributed import World
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.training.ema import EMA, EMAConfig

MODELS = {
    32: GeneratorConfig(ch=64, dim_z=128),
    128: GeneratorConfig(ch=96, dim_z=120, shared_dim=128, hierarchical=True, attention=(64,)),
}
CONFIG = EMAConfig(decay=0.999, start=0)


class FirstOf(World):
    """The first of several ranks, without the others: an update of the average asks for none of them."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        super().__init__()

    def bounds(self, length: int) -> tuple[int, int]:
        """The part of such a rank."""
        return 0, -(-length // self._ranks)


def looped(parameters: Sequence[nn.Parameter], averages: Sequence[Tensor]) -> None:
    """An update of the average, one parameter after the other."""
    with torch.no_grad():
        for average, parameter in zip(averages, parameters, strict=True):
            average.copy_(average * 0.999 + parameter.detach() * (1 - 0.999))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=int, choices=MODELS, default=128, help="whose generator's weights")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    with rng.seeded_globally(0, "bench"):
        generator = Generator(MODELS[words.model], words.model, [f"class {i}" for i in range(1000)])
    generator.to(device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = list(generator.parameters())
    averages = [parameter.detach().clone() for parameter in parameters]
    of_ranks = {ranks: EMA(parameters, CONFIG, FirstOf(ranks)) for ranks in words.ranks}
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(1)
    calls: dict[str, Call] = {"loop": lambda: looped(parameters, averages)}
    for ranks, ema in of_ranks.items():
        calls[f"ours, one of {ranks}" if ranks > 1 else "ours"] = lambda ema=ema: ema.update(1)  # type: ignore[misc]
    copying, copied = copy()
    times = in_turns({**calls, "copy": copying}, words.turns)
    ceiling = copied / times.pop("copy").seconds
    for ema in of_ranks.values():
        for average, expected in zip(ema.average, averages, strict=False):
            if average.shape == expected.shape:  # the last one of a part may be cut
                torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-6)
    numbers = sum(parameter.numel() for parameter in parameters)
    table = Table("average", "ms", "times as fast", "MB", "GB/s")
    for (name, found), ranks in zip(times.items(), (1, *words.ranks), strict=True):
        moved = 12 * numbers / ranks
        table.add_row(
            name,
            f"{found.seconds * 1000:.2f}",
            f"{times['loop'].seconds / found.seconds:.2f}",
            f"{moved / 1e6:.0f}",
            f"{moved / found.seconds / 1e9:.1f}",
        )
    console = Console()
    console.print(f"{numbers:,} numbers in {len(parameters)} tensors; {machine()}", highlight=False)
    console.print(table)
    console.print(f"a copy: {ceiling / 1e9:.1f} GB/s", highlight=False)


if __name__ == "__main__":
    main()
