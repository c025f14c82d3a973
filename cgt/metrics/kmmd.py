"""Kernel maximum mean discrepancy with a gaussian kernel, as papers on few-shot transfer report it.

    KMMD = sqrt(mean k(real, real) + mean k(fake, fake) - 2 mean k(real, fake))
    k = exp(-d^2 / (2 sigma^2 m)), m = mean squared distance real to real, sigma = 1

Biased: each feature is also paired with itself. The program behind the published numbers holds all pairs at
once and runs out of memory at 50k pictures; here they pass in blocks.

Shapes: N real and M generated pictures, B and C rows of a block, D features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.metrics.base import Fewest, PooledFeatureMetric, Scores, require_finite
from cgt.metrics.features.base import FeatureExtractor
from cgt.metrics.pairs import (
    PAIRS_PER_BLOCK,
    ROWS,
    OnPairs,
    kernel_sum,
    mean,
    squared_distances,
    unheard,
)

SCORES: Scores = {"kmmd": "lower"}


def kernel_mmd(
    real_ND: Tensor,
    fake_MD: Tensor,
    *,
    sigma: float = 1.0,
    pairs_per_block: int = PAIRS_PER_BLOCK,
    on_pairs: OnPairs = unheard,
) -> float:
    """KMMD of two feature sets, computed in float64.

    Args:
        real_ND: at least two different rows, for they set the kernel's width.
        fake_MD: at least one row.
        sigma: kernel width in units of the root mean squared real-real distance.
        pairs_per_block: how many pairs are held at once.
        on_pairs: told of N^2 + M^2 + N M pairs in all.

    Raises:
        UserError: too few rows, or all real rows equal.
        RunError: features that are not finite.
    """
    if len(real_ND) < 2 or len(fake_MD) < 1:
        raise UserError(
            f"KMMD needs 2 real and 1 generated picture at least, not {len(real_ND)} and {len(fake_MD)}: "
            "give more pictures."
        )
    require_finite(real_ND, fake_MD)
    centre_D = mean(real_ND)
    # The mean over all pairs, each with itself too, is twice the mean squared distance from the centre.
    from_centre = sum(
        ((part.double() - centre_D).square().sum() for part in real_ND.split(ROWS)), torch.zeros(())
    )
    mean_squared_distance = 2 * from_centre / len(real_ND)
    if mean_squared_distance == 0:
        raise UserError(
            "all real pictures have the same features, so KMMD has no kernel width: give pictures that "
            "differ."
        )
    scale = -1 / (2 * sigma**2 * mean_squared_distance)

    def gaussian(x_BD: Tensor, y_CD: Tensor) -> Tensor:
        return squared_distances(x_BD - centre_D, y_CD - centre_D).mul_(scale).exp_()

    def total(*sets: Tensor) -> Tensor:
        return kernel_sum(gaussian, *sets, pairs_per_block=pairs_per_block, on_pairs=on_pairs)

    within_real = total(real_ND) / len(real_ND) ** 2
    within_fake = total(fake_MD) / len(fake_MD) ** 2
    between = total(real_ND, fake_MD) / (len(real_ND) * len(fake_MD))
    return float((within_real + within_fake - 2 * between).clamp_min(0).sqrt())


class KernelMMD(PooledFeatureMetric):
    """`kernel_mmd` with sigma 1 of everything taken in."""

    fewest = Fewest(real=2, generated=1)

    def pairs(self, real: int, fake: int) -> int:
        """Within each set and between them."""
        return real**2 + fake**2 + real * fake

    def compute(self) -> dict[str, float]:
        """{"kmmd": in [0, sqrt(2))}."""
        return {"kmmd": kernel_mmd(*self.pooled(), on_pairs=self.on_pairs)}


def build(extractor: FeatureExtractor, classes: Sequence[str]) -> KernelMMD:
    """Any extractor will do."""
    return KernelMMD()
