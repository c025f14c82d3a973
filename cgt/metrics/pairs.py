"""All pairs of two feature sets, in blocks of rows, so that 50k x 50k pairs fit into memory.

Shapes: N and M samples, B rows of a block, D features.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

PAIRS_PER_BLOCK = 2**23
"""64 MiB of float64."""


def row_blocks(x_ND: Tensor, y_MD: Tensor, pairs_per_block: int = PAIRS_PER_BLOCK) -> Iterator[Tensor]:
    """The rows of x in blocks whose pairs with y number at most `pairs_per_block` (one row at least)."""
    return iter(torch.split(x_ND, max(1, pairs_per_block // max(1, len(y_MD)))))


def squared_distances(x_BD: Tensor, y_MD: Tensor) -> Tensor:
    """|x - y|^2 of every pair, (B, M), by a matrix product: it needs float64 and centred features."""
    norms = x_BD.square().sum(1, keepdim=True) + y_MD.square().sum(1)
    return torch.addmm(norms, x_BD, y_MD.T, alpha=-2).clamp_min_(0)


def centred(real_ND: Tensor, fake_MD: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets in float64, moved so that the real mean is 0: distances stay, and keep their digits."""
    real, fake = real_ND.double(), fake_MD.double()
    mean_D = real.mean(0)
    return real - mean_D, fake - mean_D
