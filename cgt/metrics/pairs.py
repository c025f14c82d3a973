"""All pairs of two feature sets, block by block: 50k x 50k pairs, and their float64, in bounded memory.

Features stay as they come (float32, mostly); only the rows of a block are ever float64.

Shapes: N and M samples, B and C rows of a block, D features.
"""

import math
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

PAIRS_PER_BLOCK = 2**22
"""32 MiB of float64."""
ROWS = 4096
"""Samples of a block where there are no pairs; 64 MiB of float64 at 2048 dimensions."""

OnPairs: TypeAlias = Callable[[int], None]
"""Told how many more pairs are done, after every block."""
Kernel: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""x (B, D) and y (C, D), float64 -> k(x, y) of every pair (B, C)."""


def unheard(pairs: int) -> None:
    """An `OnPairs` that does nothing."""


def kernel_sum(
    kernel: Kernel,
    x_ND: Tensor,
    y_MD: Tensor | None = None,
    *,
    pairs_per_block: int = PAIRS_PER_BLOCK,
    on_pairs: OnPairs = unheard,
) -> Tensor:
    """Sum of a symmetric kernel over all N x M pairs, a float64 scalar.

    Without `y_MD` the pairs are those of x with x, each sample with itself too; half of them are computed.
    """
    side = max(1, math.isqrt(pairs_per_block))
    total = torch.zeros((), dtype=torch.float64, device=x_ND.device)
    for i, rows_BD in enumerate(x_ND.split(side)):
        x_BD = rows_BD.double()
        for j, columns_CD in enumerate((x_ND if y_MD is None else y_MD).split(side)):
            if y_MD is None and j < i:
                continue
            times = 2 if y_MD is None and j > i else 1
            total += kernel(x_BD, columns_CD.double()).sum() * times
            on_pairs(len(x_BD) * len(columns_CD) * times)
    return total


def distance_rows(
    x_ND: Tensor,
    y_MD: Tensor,
    centre_D: Tensor,
    *,
    pairs_per_block: int = PAIRS_PER_BLOCK,
    on_pairs: OnPairs = unheard,
) -> Iterator[Tensor]:
    """|x - y|^2 of some rows of x with all of y, (B, M) float64, from the first rows to the last.

    All blocks stand in the same memory: what is wanted of one must be taken before the next is asked for.

    Args:
        x_ND: samples.
        y_MD: samples.
        centre_D: a point amid both, float64: distances from it are small, so that their digits count.
        pairs_per_block: B x M at most, but for B = 1.
        on_pairs: told of every block.
    """
    rows = min(len(x_ND), max(1, pairs_per_block // max(1, len(y_MD))))
    columns = max(1, math.isqrt(pairs_per_block))
    block_BM = torch.empty(rows, len(y_MD), dtype=torch.float64, device=x_ND.device)
    for first in range(0, len(x_ND), max(1, rows)):
        x_BD = x_ND[first : first + rows] - centre_D
        distances_BM = block_BM[: len(x_BD)]
        for start in range(0, len(y_MD), columns):
            y_CD = y_MD[start : start + columns] - centre_D
            distances_BM[:, start : start + columns] = squared_distances(x_BD, y_CD)
        yield distances_BM
        on_pairs(distances_BM.numel())


def squared_distances(x_BD: Tensor, y_CD: Tensor) -> Tensor:
    """|x - y|^2 of every pair, (B, C), by a matrix product: it needs float64 and centred features."""
    norms = x_BD.square().sum(1, keepdim=True) + y_CD.square().sum(1)
    return torch.addmm(norms, x_BD, y_CD.T, alpha=-2).clamp_min_(0)


def mean(x_ND: Tensor) -> Tensor:
    """The mean sample (D,), float64."""
    total_D = torch.zeros(x_ND.shape[1], dtype=torch.float64, device=x_ND.device)
    for part in x_ND.split(ROWS):  # torch would make a float64 copy of the whole
        total_D += part.double().sum(0)
    return total_D / len(x_ND)
