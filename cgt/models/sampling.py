"""Pictures of chosen classes, and of mixes of them, from a generator.

A picture is a function of (seed, its class, its number): neither the batch size nor what else is drawn with
it changes more than the rounding of its last bits.

Shapes: N pictures, J classes that are mixed, K pictures of a class, Z latent size, R resolution.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from cgt import rng
from cgt.errors import RunError, UserError
from cgt.images import save_grid, to_uint8
from cgt.models.mixes import Mix

PICTURES_AT_ONCE = 64
LEVELLED_CUT = 2.0
"""Where z is cut off before truncation multiplies it, in the published BigGAN-deep."""
GRID_CELL = 64
"""Pixels that a picture of a grid has at least, so that small ones can be seen."""


class Levelled(Protocol):
    """What says which truncations of z there are statistics for."""

    @property
    def levelled(self) -> bool:
        """Whether statistics go by the truncation of z."""

    def level(self, truncation: float | None) -> float:
        """The truncation to call it with."""


class Sampled(Levelled, Protocol):
    """What pictures ask of the `Generator` that they are drawn from, which offers them itself."""

    resolution: int

    @property
    def classes(self) -> list[str]:
        """Names, along which ids count."""

    @property
    def dim_z(self) -> int:
        """Z."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of which any tells the device."""

    def __call__(self, z_NZ: Tensor, y_N: Tensor, /, *, truncation: float = 1.0) -> Any:
        """Pictures (N, 3, R, R) in [-1, 1]."""

    def interpolate(
        self, z_NZ: Tensor, y_NJ: Tensor, weight_NJ: Tensor, *, truncation: float = 1.0
    ) -> Tensor:
        """Pictures (N, 3, R, R) in [-1, 1] between J classes."""


class Drawn(NamedTuple):
    """What a picture is made of."""

    z_Z: Tensor
    mix: Mix


class LatentRange(NamedTuple):
    """How the numbers of z are drawn: from N(0, 1) between plus and minus `cut`, then multiplied."""

    cut: float | None
    """None for all of N(0, 1)."""
    factor: float

    @property
    def largest(self) -> float | None:
        """What no number is beyond; None where there is no bound."""
        return None if self.cut is None else self.cut * self.factor

    def drawn(self, shape: tuple[int, ...], seed: int, stream: str, *position: int) -> Tensor:
        """Latents of this shape, a function of seed, stream and position."""
        if self.cut is None:
            return rng.normal(shape, seed, stream, *position)
        return rng.truncated_normal(shape, self.cut, seed, stream, *position) * self.factor


def latent_range(generator: Levelled, truncation: float | None) -> LatentRange:
    """What truncation means to a generator.

    Args:
        generator: whose z it is.
        truncation: cut N(0, 1) off at plus and minus this; None for all of it. Where statistics go by
            truncation: cut it off at 2 and multiply by this, as they were taken; None for 1.

    Raises:
        UserError: there are no statistics for it.
    """
    if not generator.levelled:
        return LatentRange(truncation, 1.0)
    factor = generator.level(truncation)
    if not 0 < factor <= 1:
        raise UserError(
            f"truncation {truncation}: the statistics of this model are for 0 to 1: give a number in that "
            "range, or none for 1."
        )
    return LatentRange(LEVELLED_CUT, factor)


def latent(
    generator: Sampled, number: int, *, seed: int, truncation: float | None = None, stream: str = "sample"
) -> Tensor:
    """The latent (Z,) of picture `number`.

    Args:
        generator: whose Z it is.
        number: from 0.
        seed: of all pictures.
        truncation: as in `latent_range`.
        stream: others get other latents of the same numbers.
    """
    return latent_range(generator, truncation).drawn((generator.dim_z,), seed, stream, number)


def own_latents(
    generator: Sampled, wanted: Iterable[tuple[Mix, int]], *, seed: int, truncation: float | None = None
) -> Iterator[Drawn]:
    """Pictures by what they are of and their numbers, whose latents no other class has: for data sets."""
    for mix, number in wanted:
        stream = f"sample {mix.name}"
        yield Drawn(latent(generator, number, seed=seed, truncation=truncation, stream=stream), mix)


def shared_latents(
    generator: Sampled, mixes: Sequence[Mix], count: int, *, seed: int, truncation: float | None = None
) -> Iterator[Drawn]:
    """`count` pictures of each, of the same latents: so the columns of a grid compare."""
    z_KZ = [latent(generator, number, seed=seed, truncation=truncation) for number in range(count)]
    return (Drawn(z_Z, mix) for mix in mixes for z_Z in z_KZ)


@torch.no_grad()
def pictures_of(
    generator: Sampled,
    drawn: Iterable[Drawn],
    batch_size: int = PICTURES_AT_ONCE,
    *,
    truncation: float | None = None,
) -> Iterator[Tensor]:
    """The pictures, uint8 (3, R, R) each, on the CPU, a batch of them made when the first is asked for.

    Args:
        generator: in eval mode.
        drawn: in order.
        batch_size: pictures at once.
        truncation: that their latents were drawn with.

    Raises:
        RunError: the generator makes values that are not finite.
    """
    device = next(generator.parameters()).device
    number = {name: y for y, name in enumerate(generator.classes)}
    level = generator.level(truncation)
    drawn = iter(drawn)
    while batch := list(itertools.islice(drawn, batch_size)):
        z_NZ = torch.stack([z_Z for z_Z, _ in batch]).to(device)
        most = max(len(mix.parts) for _, mix in batch)
        # What has fewer parts than others is filled up with a class that weighs nothing.
        parts = [(*mix.parts, *((generator.classes[0], 0.0),) * (most - len(mix.parts))) for _, mix in batch]
        y_NJ = torch.tensor([[number[name] for name, _ in row] for row in parts], device=device)
        if most == 1:
            x_N3RR = generator(z_NZ, y_NJ[:, 0], truncation=level)
        else:
            weight_NJ = torch.tensor([[weight for _, weight in row] for row in parts], device=device)
            x_N3RR = generator.interpolate(z_NZ, y_NJ, weight_NJ, truncation=level)
        if not x_N3RR.isfinite().all():
            raise RunError(
                "the generator makes pictures with values that are not finite (NaN or infinity): its "
                "training has diverged. Take an earlier checkpoint, or train again with a lower learning "
                "rate."
            )
        yield from to_uint8(x_N3RR).cpu()


@torch.no_grad()
def write_class_grid(path: Path, generator: Sampled, classes: Sequence[int], z_KZ: Tensor) -> None:
    """A PNG grid with one row a class, of the same latents in every row.

    Args:
        path: where to.
        generator: in eval mode.
        classes: ids, row by row.
        z_KZ: latents, column by column.
    """
    device = next(generator.parameters()).device
    z_KZ = z_KZ.to(device)
    rows = [to_uint8(generator(z_KZ, torch.full((len(z_KZ),), y, device=device))).cpu() for y in classes]
    labels = [generator.classes[y] for y in classes]
    save_grid(path, torch.cat(rows), len(z_KZ), labels=labels, zoom=grid_zoom(generator))


def grid_zoom(generator: Sampled) -> int:
    """How many times a grid enlarges the generator's pictures."""
    return max(1, GRID_CELL // generator.resolution)
