"""Precision, recall, density and coverage: who lies in whose k-nearest-neighbour balls.

A ball stands around every feature of a set and reaches its k-th nearest neighbour in the set, itself not
counted. Precision and recall are those of Kynkaanniemi et al. (2019), the others of Naeem et al. (2020):

* precision: share of generated features inside some real ball;
* recall: share of real features inside some generated ball;
* density: mean number of real balls that hold a generated feature, over k;
* coverage: share of real balls that hold a generated feature.

Shapes: N real and M generated pictures, B rows of a block, D features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.metrics.base import PooledFeatureMetric, Scores
from cgt.metrics.features.base import FeatureExtractor
from cgt.metrics.pairs import PAIRS_PER_BLOCK, centred, row_blocks, squared_distances

SCORES: Scores = {"precision": "higher", "recall": "higher", "density": "higher", "coverage": "higher"}
NEIGHBOURS = 5


def precision_recall_density_coverage(
    real_ND: Tensor, fake_MD: Tensor, *, k: int = NEIGHBOURS, pairs_per_block: int = PAIRS_PER_BLOCK
) -> dict[str, float]:
    """The four scores of two feature sets, in [0, 1] but for density, which may exceed 1.

    Raises:
        UserError: k rows or fewer in either.
    """
    real, fake = centred(real_ND, fake_MD)
    if min(len(real), len(fake)) <= k:
        raise UserError(
            f"precision, recall, density and coverage need more than {k} real and generated pictures, not "
            f"{len(real)} and {len(fake)}: give more pictures, or leave prdc out."
        )
    real_radii_N = _squared_radii(real, k, pairs_per_block)
    fake_radii_M = _squared_radii(fake, k, pairs_per_block)
    balls_M = torch.zeros(len(fake), dtype=torch.long, device=fake.device)
    recalled, covered, first = 0, 0, 0
    for block in row_blocks(real, fake, pairs_per_block):
        d2_BM = squared_distances(block, fake)
        inside_BM = d2_BM < real_radii_N[first : first + len(block), None]
        balls_M += inside_BM.sum(0)
        covered += int(inside_BM.any(1).sum())
        recalled += int((d2_BM < fake_radii_M).any(1).sum())
        first += len(block)
    return {
        "precision": float((balls_M > 0).double().mean()),
        "recall": recalled / len(real),
        "density": float(balls_M.double().mean()) / k,
        "coverage": covered / len(real),
    }


def _squared_radii(x_ND: Tensor, k: int, pairs_per_block: int) -> Tensor:
    """Squared distance (N,) to the k-th neighbour; the nearest of the k + 1 is the sample itself."""
    blocks = row_blocks(x_ND, x_ND, pairs_per_block)
    return torch.cat([squared_distances(block, x_ND).kthvalue(k + 1, dim=1).values for block in blocks])


class PrecisionRecallDensityCoverage(PooledFeatureMetric):
    """`precision_recall_density_coverage` with k = 5 of everything taken in."""

    def compute(self) -> dict[str, float]:
        """The four scores by name."""
        return precision_recall_density_coverage(*self.pooled())


def build(extractor: FeatureExtractor, classes: Sequence[str]) -> PrecisionRecallDensityCoverage:
    """Any extractor will do."""
    return PrecisionRecallDensityCoverage()
