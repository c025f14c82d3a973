"""Pictures of chosen classes from a generator.

Shapes: K pictures of a class, Z latent size, R resolution.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cgt import rng
from cgt.images import save_grid, to_uint8
from cgt.models.biggan import Generator

PICTURES_AT_ONCE = 64
GRID_CELL = 64
"""Pixels that a picture of a grid has at least, so that small ones can be seen."""


@torch.no_grad()
def sample_class(
    generator: Generator, name: str, count: int, *, seed: int, truncation: float | None = None
) -> Tensor:
    """`count` pictures of the class `name`, uint8 (K, 3, R, R), on the CPU.

    All classes are drawn from the same latents, so that the columns of a grid compare. More pictures of one
    seed begin with the fewer ones.

    Args:
        generator: in eval mode.
        name: one of `generator.classes`.
        count: K.
        seed: of the latents.
        truncation: cut the latents' N(0, 1) off at plus and minus this; None for all of it.
    """
    device = next(generator.parameters()).device
    y = generator.classes.index(name)
    parts = []
    for start in range(0, count, PICTURES_AT_ONCE):
        shape = (PICTURES_AT_ONCE, generator.dim_z)
        if truncation is None:
            z_KZ = rng.normal(shape, seed, "sample", start)
        else:
            z_KZ = rng.truncated_normal(shape, truncation, seed, "sample", start)
        z_KZ = z_KZ[: count - start].to(device)
        parts.append(to_uint8(generator(z_KZ, torch.full((len(z_KZ),), y, device=device))).cpu())
    return torch.cat(parts)


@torch.no_grad()
def write_class_grid(path: Path, generator: Generator, classes: Sequence[int], z_KZ: Tensor) -> None:
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


def grid_zoom(generator: Generator) -> int:
    """How many times a grid enlarges the generator's pictures."""
    return max(1, GRID_CELL // generator.resolution)
