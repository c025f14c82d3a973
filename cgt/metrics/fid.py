"""Frechet distance between gaussians fitted to features (Heusel et al., 2017); FID, if they are Inception's.

Shapes: N real and M generated pictures, D features.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.metrics.base import FeatureMetric, Fewest, Scores, not_finite, require_finite, rows
from cgt.metrics.features.base import FeatureExtractor, Features
from cgt.metrics.gaussian import Gaussian, Moments, frechet_distance_of_gaussians
from cgt.metrics.pairs import ROWS

SCORES: Scores = {"fid": "lower"}


def frechet_distance(real_ND: Tensor, fake_MD: Tensor) -> float:
    """Frechet distance between two feature sets, in float64.

    Raises:
        UserError: fewer than two rows in either.
        RunError: features that are not finite.
    """
    require_two("real", len(real_ND))
    require_two("generated", len(fake_MD))
    require_finite(real_ND, fake_MD)
    return frechet_distance_of_gaussians(Gaussian.of_samples(real_ND), Gaussian.of_samples(fake_MD))


class FrechetDistance(FeatureMetric):
    """`frechet_distance` of everything taken in.

    Each side keeps its features while they are few, then only their `Moments`: a D x D matrix for any number
    of pictures, which adds up across ranks. Even then features wait to be added until there are as many as a
    product is quick with.

    Args:
        dim: D.
        few: features that a side keeps at most; None for what is quick.
    """

    fewest = Fewest(real=2, generated=2)
    reference = "moments"

    def __init__(self, dim: int, few: int | None = None) -> None:
        super().__init__()
        self._given: Gaussian | None = None
        self.few = max(dim, ROWS) if few is None else few
        for side in ("real", "fake"):
            nothing = Moments.of_nothing(dim, torch.device("cpu"))
            self.add_state(f"{side}_few", default=[], dist_reduce_fx="cat")
            self.add_state(f"{side}_count", default=nothing.count, dist_reduce_fx="sum")
            self.add_state(f"{side}_sum", default=nothing.sum_D, dist_reduce_fx="sum")
            self.add_state(f"{side}_outer", default=nothing.outer_DD, dist_reduce_fx="sum")

    def update(self, features: Features, y_N: Tensor, *, real: bool) -> None:
        """Keep the pooled features, or add them to the sums."""
        side = "real" if real else "fake"
        few: list[Tensor] = getattr(self, f"{side}_few")
        few.append(features.pooled_ND)
        if sum(map(len, few)) > self.few:
            self._moments(side).add(rows(few))
            few[:] = [features.pooled_ND[:0]]

    def compare_with(self, real: Gaussian) -> None:
        """Take it in place of the real features."""
        self._given = real

    def compute(self) -> dict[str, float]:
        """{"fid": 0 or more}."""
        real = self._given or self.gaussian("real")
        return {"fid": frechet_distance_of_gaussians(real, self.gaussian("fake"))}

    def gaussian(self, side: Literal["real", "fake"]) -> Gaussian:
        """Fitted to all features of one side.

        Raises:
            UserError: fewer than two.
            RunError: features that are not finite.
        """
        kind = "real" if side == "real" else "generated"
        moments, few = self._moments(side), rows(getattr(self, f"{side}_few"))
        require_two(kind, int(moments.count) + len(few))
        if moments.count == 0:
            gaussian = Gaussian.of_samples(few)
        else:
            moments = moments.clone()
            moments.add(few)
            gaussian = Gaussian.of_sums(int(moments.count), moments.sum_D, moments.outer())
        if not torch.isfinite(gaussian.mean_D).all():
            raise not_finite("some", kind)
        return gaussian

    def _moments(self, side: str) -> Moments:
        return Moments(*(getattr(self, f"{side}_{name}") for name in ("count", "sum", "outer")))


def require_two(kind: str, count: int) -> None:
    """Refuse too few pictures.

    Args:
        kind: "real" or "generated".
        count: of them.

    Raises:
        UserError: fewer than two.
    """
    if count < 2:
        raise UserError(f"the Frechet distance needs 2 {kind} pictures at least, and has {count}: give more.")


def build(extractor: FeatureExtractor, classes: Sequence[str]) -> FrechetDistance:
    """Any extractor will do."""
    return FrechetDistance(extractor.dim)
