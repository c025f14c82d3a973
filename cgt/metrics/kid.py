"""Kernel inception distance (Binkowski et al., "Demystifying MMD GANs", 2018).

It is the squared maximum mean discrepancy with the kernel (x . y / D + 1)^3.
Unbiased, over all samples at once: no random subsets, hence no standard deviation.

Shapes: N real and M generated pictures, D features.
"""

from collections.abc import Sequence

from torch import Tensor

from cgt.errors import UserError
from cgt.metrics.base import PooledFeatureMetric, Scores
from cgt.metrics.features.base import FeatureExtractor
from cgt.metrics.pairs import PAIRS_PER_BLOCK, row_blocks

SCORES: Scores = {"kid": "lower"}


def kernel_inception_distance(
    real_ND: Tensor, fake_MD: Tensor, *, pairs_per_block: int = PAIRS_PER_BLOCK
) -> float:
    """KID of two feature sets, computed in float64; may be slightly negative, being unbiased.

    Raises:
        UserError: fewer than two rows in either.
    """
    real, fake = real_ND.double(), fake_MD.double()
    if min(len(real), len(fake)) < 2:
        raise UserError(
            f"KID needs 2 real and 2 generated pictures at least, not {len(real)} and {len(fake)}: give "
            "more pictures."
        )

    def kernel_sum(x: Tensor, y: Tensor) -> Tensor:
        blocks = row_blocks(x, y, pairs_per_block)
        return sum(((block @ y.T / y.shape[1] + 1).pow_(3).sum() for block in blocks), x.new_zeros(()))

    def mean_within(x: Tensor) -> Tensor:
        with_itself = (x.square().sum(1) / x.shape[1] + 1).pow_(3).sum()
        return (kernel_sum(x, x) - with_itself) / (len(x) * (len(x) - 1))

    between = kernel_sum(real, fake) / (len(real) * len(fake))
    return float(mean_within(real) + mean_within(fake) - 2 * between)


class KernelInceptionDistance(PooledFeatureMetric):
    """`kernel_inception_distance` of everything taken in."""

    def compute(self) -> dict[str, float]:
        """{"kid": about 0 where the sets agree}."""
        return {"kid": kernel_inception_distance(*self.pooled())}


def build(extractor: FeatureExtractor, classes: Sequence[str]) -> KernelInceptionDistance:
    """Any extractor will do."""
    return KernelInceptionDistance()
