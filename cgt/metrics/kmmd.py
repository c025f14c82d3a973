"""Kernel maximum mean discrepancy with a gaussian kernel, as papers on few-shot transfer report it.

    KMMD = sqrt(mean k(real, real) + mean k(fake, fake) - 2 mean k(real, fake))
    k = exp(-d^2 / (2 sigma^2 m)), m = mean squared distance real to real, sigma = 1

Biased: each feature is also paired with itself. The program behind the published numbers holds all pairs at
once and runs out of memory at 50k pictures; here they pass in blocks.

Shapes: N real and M generated pictures, D features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.metrics.base import PooledFeatureMetric, Scores
from cgt.metrics.features.base import FeatureExtractor
from cgt.metrics.pairs import PAIRS_PER_BLOCK, centred, row_blocks, squared_distances

SCORES: Scores = {"kmmd": "lower"}


def kernel_mmd(
    real_ND: Tensor, fake_MD: Tensor, *, sigma: float = 1.0, pairs_per_block: int = PAIRS_PER_BLOCK
) -> float:
    """KMMD of two feature sets, computed in float64.

    Args:
        real_ND: at least two different rows, for they set the kernel's width.
        fake_MD: at least one row.
        sigma: kernel width in units of the root mean squared real-real distance.
        pairs_per_block: how many pairs are held at once.

    Raises:
        UserError: too few rows, or all real rows equal.
    """
    real, fake = centred(real_ND, fake_MD)
    if len(real) < 2 or len(fake) < 1:
        raise UserError(
            f"KMMD needs 2 real and 1 generated picture at least, not {len(real)} and {len(fake)}: give "
            "more pictures."
        )
    # The mean over all pairs, each with itself too, is twice the mean squared distance from the centre.
    mean_squared_distance = 2 * real.square().sum(1).mean()
    if mean_squared_distance == 0:
        raise UserError(
            "all real pictures have the same features, so KMMD has no kernel width: give pictures that "
            "differ."
        )
    scale = -1 / (2 * sigma**2 * mean_squared_distance)

    def mean_kernel(x: Tensor, y: Tensor) -> Tensor:
        blocks = row_blocks(x, y, pairs_per_block)
        total = sum(
            (squared_distances(block, y).mul_(scale).exp_().sum() for block in blocks),
            torch.zeros_like(scale),
        )
        return total / (len(x) * len(y))

    squared = mean_kernel(real, real) + mean_kernel(fake, fake) - 2 * mean_kernel(real, fake)
    return float(squared.clamp_min(0).sqrt())


class KernelMMD(PooledFeatureMetric):
    """`kernel_mmd` with sigma 1 of everything taken in."""

    def compute(self) -> dict[str, float]:
        """{"kmmd": in [0, sqrt(2))}."""
        return {"kmmd": kernel_mmd(*self.pooled())}


def build(extractor: FeatureExtractor, classes: Sequence[str]) -> KernelMMD:
    """Any extractor will do."""
    return KernelMMD()
