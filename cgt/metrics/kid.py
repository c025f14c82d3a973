"""Kernel inception distance (Binkowski et al., "Demystifying MMD GANs", 2018), in its two forms.

It is the squared maximum mean discrepancy with the kernel (x . y / D + 1)^3, unbiased.

* `kid`: of all samples at once; nothing is drawn.
* `kid_subsets`, `kid_subsets_std`: mean and standard deviation over random subsets, as published results
  give them: 100 of 1000 real and 1000 generated samples each, or of half of the smaller set where that is
  fewer. They estimate what `kid` is.

Shapes: N real and M generated pictures, B and C rows of a block, D features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cgt import rng
from cgt.errors import UserError
from cgt.metrics.base import Fewest, PooledFeatureMetric, Scores, require_finite
from cgt.metrics.features.base import FeatureExtractor
from cgt.metrics.pairs import PAIRS_PER_BLOCK, ROWS, OnPairs, kernel_sum, unheard

SCORES: Scores = {"kid": "lower", "kid_subsets": "lower", "kid_subsets_std": "neither"}
SUBSETS = 100
SUBSET_SIZE = 1000


def kernel_inception_distance(
    real_ND: Tensor,
    fake_MD: Tensor,
    *,
    pairs_per_block: int = PAIRS_PER_BLOCK,
    on_pairs: OnPairs = unheard,
) -> float:
    """KID of two feature sets, computed in float64; may be slightly negative, being unbiased.

    Raises:
        UserError: fewer than two rows in either.
        RunError: features that are not finite.
    """
    _require_two(len(real_ND), len(fake_MD))
    require_finite(real_ND, fake_MD)

    def total(*sets: Tensor) -> Tensor:
        return kernel_sum(_cubic, *sets, pairs_per_block=pairs_per_block, on_pairs=on_pairs)

    def mean_within(x: Tensor) -> Tensor:
        others = total(x)
        for part in x.split(ROWS):
            others -= ((part.double().square().mean(1) + 1) ** 3).sum()  # each with itself
        return others / (len(x) * (len(x) - 1))

    between = total(real_ND, fake_MD) / (len(real_ND) * len(fake_MD))
    return float(mean_within(real_ND) + mean_within(fake_MD) - 2 * between)


def _cubic(x_BD: Tensor, y_CD: Tensor) -> Tensor:
    kernel_BC: Tensor = (x_BD @ y_CD.T).div_(x_BD.shape[1]).add_(1).pow_(3)
    return kernel_BC


def kernel_inception_distance_of_subsets(
    real_ND: Tensor,
    fake_MD: Tensor,
    *,
    seed: int = 0,
    subsets: int = SUBSETS,
    size: int = SUBSET_SIZE,
    on_pairs: OnPairs = unheard,
) -> tuple[float, float]:
    """Mean and population standard deviation of KID over random subsets of both sets.

    Args:
        real_ND: real features; which of them a subset has depends on their order.
        fake_MD: generated features.
        seed: of the draws, without replacement within a subset.
        subsets: their number.
        size: samples of each set in a subset, or half of the smaller set where that is fewer.
        on_pairs: told of 3 size^2 pairs for each subset.

    Raises:
        UserError: fewer than two rows in either.
        RunError: features that are not finite.
    """
    _require_two(len(real_ND), len(fake_MD))
    size = subset_size(len(real_ND), len(fake_MD), size)
    values = []
    for i in range(subsets):
        chosen = [
            x[rng.permutation(len(x), seed, f"KID {side}", i)[:size].to(x.device)]
            for side, x in (("real", real_ND), ("generated", fake_MD))
        ]
        values.append(kernel_inception_distance(*chosen, on_pairs=on_pairs))
    scores = torch.tensor(values, dtype=torch.float64)
    return float(scores.mean()), float(scores.std(correction=0))


def subset_size(real: int, fake: int, size: int = SUBSET_SIZE) -> int:
    """Samples of each of so many real and generated ones in a subset."""
    return min(size, max(2, min(real, fake) // 2))


class KernelInceptionDistance(PooledFeatureMetric):
    """Both forms of everything taken in.

    Args:
        seed: of the subsets.
    """

    fewest = Fewest(real=2, generated=2)

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def pairs(self, real: int, fake: int) -> int:
        """Within each set and between them, of all samples and of the subsets."""
        return real**2 + fake**2 + real * fake + SUBSETS * 3 * subset_size(real, fake) ** 2

    def compute(self) -> dict[str, float]:
        """{"kid": about 0 where the sets agree, "kid_subsets": likewise, "kid_subsets_std": 0 or more}."""
        real, fake = self.pooled()
        whole = kernel_inception_distance(real, fake, on_pairs=self.on_pairs)
        mean, std = kernel_inception_distance_of_subsets(real, fake, seed=self.seed, on_pairs=self.on_pairs)
        return {"kid": whole, "kid_subsets": mean, "kid_subsets_std": std}


def _require_two(real: int, fake: int) -> None:
    if min(real, fake) < 2:
        raise UserError(
            f"KID needs 2 real and 2 generated pictures at least, not {real} and {fake}: give more pictures."
        )


def build(extractor: FeatureExtractor, classes: Sequence[str]) -> KernelInceptionDistance:
    """Any extractor will do."""
    return KernelInceptionDistance()
