"""Whether generated pictures are copies of real ones: how near their nearest real neighbours are.

* `memorised`: share of generated pictures that are nearer to a real one than any other real one is to that
  (1 - authenticity of Alaa et al., "How Faithful is your Synthetic Data?", 2022). Copies give 1, pictures
  unlike all real ones 0. What fresh pictures of the same kind give lies between and depends on the features:
  of gaussian ones 0.66 in one dimension, 0.1 in 512. Neither end is the better one.
* `nearest_ratio`: mean distance from a generated picture to its nearest real one, over the mean from a real
  one to its nearest other. Copies give 0, fresh pictures about 1.

Distances are Euclidean. `nearest_neighbours` tells which pictures to look at.

Shapes: N real and M generated pictures, D features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.metrics.base import Fewest, PooledFeatureMetric, Scores, require_finite
from cgt.metrics.features.base import FeatureExtractor
from cgt.metrics.pairs import PAIRS_PER_BLOCK, OnPairs, distance_rows, mean, unheard

SCORES: Scores = {"memorised": "neither", "nearest_ratio": "neither"}


class Neighbours(NamedTuple):
    """The nearest neighbour of each of N samples."""

    index_N: Tensor
    """Where it stands among those it was looked for in, int64; of two as near, either."""
    distance_N: Tensor
    """Float64."""


def nearest_neighbours(
    x_ND: Tensor,
    among_MD: Tensor | None = None,
    *,
    pairs_per_block: int = PAIRS_PER_BLOCK,
    on_pairs: OnPairs = unheard,
) -> Neighbours:
    """The nearest of the samples `among_MD` to each of x; None for the other samples of x itself.

    With x the features of generated pictures and the others of real ones, `distance_N.argsort()` begins
    with the pairs to look at.

    Raises:
        UserError: no sample to look in.
        RunError: features that are not finite.
    """
    others = x_ND if among_MD is None else among_MD
    if len(others) < (2 if among_MD is None else 1):
        raise UserError("there are no pictures to look for the nearest in: give more.")
    require_finite(others, x_ND)
    index, distance, first = [], [], 0
    blocks = distance_rows(x_ND, others, mean(others), pairs_per_block=pairs_per_block, on_pairs=on_pairs)
    for d2_BM in blocks:
        if among_MD is None:
            d2_BM.diagonal(first).fill_(torch.inf)
        index_B = d2_BM.argmin(1)
        index.append(index_B)
        # By itself, for that of equal samples is exactly 0, and by the product it is but small.
        x_BD = x_ND[first : first + len(d2_BM)].double()
        distance.append((x_BD - others[index_B]).norm(dim=1))
        first += len(d2_BM)
    if not index:
        return Neighbours(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.float64))
    return Neighbours(torch.cat(index), torch.cat(distance))


def memorisation(
    real_ND: Tensor,
    fake_MD: Tensor,
    *,
    pairs_per_block: int = PAIRS_PER_BLOCK,
    on_pairs: OnPairs = unheard,
) -> dict[str, float]:
    """Both scores of two feature sets: {"memorised": in [0, 1], "nearest_ratio": 0 or more}.

    Raises:
        UserError: fewer than two real or no generated row, or every real row stands there twice.
        RunError: features that are not finite.
    """
    if len(real_ND) < 2 or len(fake_MD) < 1:
        raise UserError(
            f"memorisation needs 2 real and 1 generated picture at least, not {len(real_ND)} and "
            f"{len(fake_MD)}: give more pictures."
        )
    of_real = nearest_neighbours(real_ND, pairs_per_block=pairs_per_block, on_pairs=on_pairs)
    typical = of_real.distance_N.mean()
    if typical == 0:
        raise UserError(
            "every real picture stands at least twice among the real ones, so nothing says how near is near: "
            "remove the copies, or leave memorisation out."
        )
    of_fake = nearest_neighbours(fake_MD, real_ND, pairs_per_block=pairs_per_block, on_pairs=on_pairs)
    nearer_M = of_fake.distance_N < of_real.distance_N[of_fake.index_N]
    return {
        "memorised": float(nearer_M.double().mean()),
        "nearest_ratio": float(of_fake.distance_N.mean() / typical),
    }


class Memorisation(PooledFeatureMetric):
    """`memorisation` of everything taken in."""

    fewest = Fewest(real=2, generated=1)

    def pairs(self, real: int, fake: int) -> int:
        """Within the real set, and between the two."""
        return real**2 + real * fake

    def compute(self) -> dict[str, float]:
        """Both scores by name."""
        return memorisation(*self.pooled(), on_pairs=self.on_pairs)


def build(extractor: FeatureExtractor, classes: Sequence[str]) -> Memorisation:
    """Any extractor will do."""
    return Memorisation()
