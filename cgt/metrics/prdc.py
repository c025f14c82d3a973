"""Precision, recall, density and coverage: who lies in whose k-nearest-neighbour balls.

A ball stands around every feature of a set and reaches its k-th nearest neighbour in the set, itself not
counted. Precision and recall are those of Kynkaanniemi et al. (2019), the others of Naeem et al. (2020):

* precision: share of generated features inside some real ball;
* recall: share of real features inside some generated ball;
* density: mean number of real balls that hold a generated feature, over k;
* coverage: share of real balls that hold a generated feature.

Shapes: N real and M generated pictures, B rows of a block, D features.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.metrics.base import Fewest, PooledFeatureMetric, Scores, require_finite
from cgt.metrics.features.base import FeatureExtractor
from cgt.metrics.pairs import PAIRS_PER_BLOCK, OnPairs, distance_rows, mean, unheard

SCORES: Scores = {"precision": "higher", "recall": "higher", "density": "higher", "coverage": "higher"}
NEIGHBOURS = 5


def precision_recall_density_coverage(
    real_ND: Tensor,
    fake_MD: Tensor,
    *,
    k: int = NEIGHBOURS,
    pairs_per_block: int = PAIRS_PER_BLOCK,
    on_pairs: OnPairs = unheard,
) -> dict[str, float]:
    """The four scores of two feature sets, in [0, 1] but for density, which may exceed 1.

    Args:
        real_ND: more than k rows.
        fake_MD: more than k rows.
        k: which neighbour a ball reaches.
        pairs_per_block: how many pairs are held at once.
        on_pairs: told of N^2 + M^2 + N M pairs in all.

    Raises:
        UserError: k rows or fewer in either.
        RunError: features that are not finite.
    """
    if min(len(real_ND), len(fake_MD)) <= k:
        raise UserError(
            f"precision, recall, density and coverage need more than {k} real and generated pictures, not "
            f"{len(real_ND)} and {len(fake_MD)}: give more pictures, or leave prdc out."
        )
    require_finite(real_ND, fake_MD)
    centre_D = mean(real_ND)

    def distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
        return distance_rows(x, y, centre_D, pairs_per_block=pairs_per_block, on_pairs=on_pairs)

    def squared_radii(x: Tensor) -> Tensor:
        """The nearest of the k + 1 is the sample itself."""
        return torch.cat([d2_BN.kthvalue(k + 1, dim=1).values for d2_BN in distances(x, x)])

    real_radii_N, fake_radii_M = squared_radii(real_ND), squared_radii(fake_MD)
    balls_M = torch.zeros(len(fake_MD), dtype=torch.long, device=fake_MD.device)
    recalled, covered, first = 0, 0, 0
    for d2_BM in distances(real_ND, fake_MD):
        inside_BM = d2_BM < real_radii_N[first : first + len(d2_BM), None]
        balls_M += inside_BM.sum(0)
        covered += int(inside_BM.any(1).sum())
        recalled += int((d2_BM < fake_radii_M).any(1).sum())
        first += len(d2_BM)
    return {
        "precision": float((balls_M > 0).double().mean()),
        "recall": recalled / len(real_ND),
        "density": float(balls_M.double().mean()) / k,
        "coverage": covered / len(real_ND),
    }


class PrecisionRecallDensityCoverage(PooledFeatureMetric):
    """`precision_recall_density_coverage` with k = 5 of everything taken in."""

    fewest = Fewest(real=NEIGHBOURS + 1, generated=NEIGHBOURS + 1)

    def pairs(self, real: int, fake: int) -> int:
        """Within each set and between them."""
        return real**2 + fake**2 + real * fake

    def compute(self) -> dict[str, float]:
        """The four scores by name."""
        return precision_recall_density_coverage(*self.pooled(), on_pairs=self.on_pairs)


def build(extractor: FeatureExtractor, classes: Sequence[str]) -> PrecisionRecallDensityCoverage:
    """Any extractor will do."""
    return PrecisionRecallDensityCoverage()
