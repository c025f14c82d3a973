"""Frechet distance between gaussians fitted to features (Heusel et al., 2017); FID, if they are Inception's.

    |mu_r - mu_f|^2 + tr(Sigma_r) + tr(Sigma_f) - 2 tr((Sigma_r Sigma_f)^(1/2)),   Sigma with N - 1 in the
    denominator.

The last trace is the hard part. With A such that Sigma_r = A^T A, the eigenvalues of Sigma_r Sigma_f are
those of the symmetric A Sigma_f A^T: one `eigh` for A, one `eigvalsh`, at a quarter of the time that the
general `eigvals` of the product takes, and to the same digits. With no more samples than dimensions A is the
centred samples themselves (N x D) and everything becomes a small Gram matrix. float32 is not enough for any
of it.

Shapes: N real and M generated pictures, D features, R rows of a factor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.metrics.base import FeatureMetric, Scores, rows
from cgt.metrics.features.base import FeatureExtractor, Features

SCORES: Scores = {"fid": "lower"}


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance, float64.

    The covariance stands whole or, where samples are few, as a factor A with Sigma = A^T A.
    """

    mean_D: Tensor
    covariance_DD: Tensor | None = None
    factor_RD: Tensor | None = None

    @classmethod
    def of_samples(cls, x_ND: Tensor) -> "Gaussian":
        """Fitted to two samples or more; no more of them than dimensions stay a factor."""
        x, (n, dim) = x_ND.double(), x_ND.shape
        mean = x.mean(0)
        factor = (x - mean) / (n - 1) ** 0.5
        return cls(mean, factor_RD=factor) if n <= dim else cls(mean, covariance_DD=factor.T @ factor)

    @classmethod
    def of_sums(cls, count: int, sum_D: Tensor, outer_DD: Tensor) -> "Gaussian":
        """Fitted to `count` samples of which the sum and the sum of outer products (float64) are known."""
        mean = sum_D / count
        return cls(mean, covariance_DD=(outer_DD - count * torch.outer(mean, mean)) / (count - 1))

    def to(self, device: torch.device) -> "Gaussian":
        """Itself on a device."""
        covariance, factor = (
            None if part is None else part.to(device) for part in (self.covariance_DD, self.factor_RD)
        )
        return Gaussian(self.mean_D.to(device), covariance, factor)

    def trace(self) -> Tensor:
        """tr(Sigma), ()."""
        return self.factor().square().sum() if self.covariance_DD is None else self.covariance_DD.trace()

    def factor(self) -> Tensor:
        """A (R, D) with Sigma = A^T A."""
        if self.factor_RD is not None:
            return self.factor_RD
        assert self.covariance_DD is not None, "a gaussian has one of the two"
        eigenvalues, vectors = torch.linalg.eigh(self.covariance_DD)
        scaled: Tensor = vectors * eigenvalues.clamp_min(0).sqrt()
        return scaled.T


def frechet_distance(real_ND: Tensor, fake_MD: Tensor) -> float:
    """Frechet distance between two feature sets, in float64.

    Raises:
        UserError: fewer than two rows in either.
    """
    _require_two("real", len(real_ND))
    _require_two("generated", len(fake_MD))
    return frechet_distance_of_gaussians(Gaussian.of_samples(real_ND), Gaussian.of_samples(fake_MD))


def frechet_distance_of_gaussians(real: Gaussian, fake: Gaussian) -> float:
    """Frechet distance between two gaussians over the same features."""
    means = (real.mean_D - fake.mean_D).square().sum()
    return float(means + real.trace() + fake.trace() - 2 * _trace_of_root(real, fake))


def _trace_of_root(a: Gaussian, b: Gaussian) -> Tensor:
    """tr((Sigma_a Sigma_b)^(1/2))."""
    if a.factor_RD is not None and b.factor_RD is not None:
        roots: Tensor = torch.linalg.svdvals(a.factor_RD @ b.factor_RD.T)
        return roots.sum()
    if b.factor_RD is not None:
        a, b = b, a
    assert b.covariance_DD is not None, "the one with a factor has been put first"
    factor = a.factor()
    eigenvalues: Tensor = torch.linalg.eigvalsh(factor @ b.covariance_DD @ factor.T)
    return eigenvalues.clamp_min(0).sqrt().sum()


class FrechetDistance(FeatureMetric):
    """`frechet_distance` of everything taken in.

    Each side keeps its features while there are no more of them than dimensions, then only their float64
    sums: two D x D matrices for any number of pictures, which add up across ranks.

    Args:
        dim: D.
    """

    reference = "moments"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self._given: Gaussian | None = None
        for side in ("real", "fake"):
            self.add_state(f"{side}_few", default=[], dist_reduce_fx="cat")
            self.add_state(f"{side}_count", default=torch.tensor(0), dist_reduce_fx="sum")
            self.add_state(f"{side}_sum", default=torch.zeros(dim, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(
                f"{side}_outer", default=torch.zeros(dim, dim, dtype=torch.float64), dist_reduce_fx="sum"
            )

    def update(self, features: Features, y_N: Tensor, *, real: bool) -> None:
        """Keep the pooled features, or add them to the sums."""
        side = "real" if real else "fake"
        few: list[Tensor] = getattr(self, f"{side}_few")
        few.append(features.pooled_ND)
        if getattr(self, f"{side}_count") > 0 or sum(map(len, few)) > self.dim:
            for name, value in zip(("count", "sum", "outer"), self._sums(side), strict=True):
                setattr(self, f"{side}_{name}", value)
            few[:] = [features.pooled_ND[:0]]

    def compare_with(self, real: Gaussian) -> None:
        """Take it in place of the real features."""
        self._given = real

    def compute(self) -> dict[str, float]:
        """{"fid": at least 0, up to rounding}."""
        real = self._given or self.gaussian("real")
        return {"fid": frechet_distance_of_gaussians(real, self.gaussian("fake"))}

    def gaussian(self, side: Literal["real", "fake"]) -> Gaussian:
        """Fitted to all features of one side.

        Raises:
            UserError: fewer than two.
        """
        few, count = rows(getattr(self, f"{side}_few")), int(getattr(self, f"{side}_count"))
        _require_two("real" if side == "real" else "generated", count + len(few))
        if not count:
            return Gaussian.of_samples(few)
        pictures, total, outer = self._sums(side)
        return Gaussian.of_sums(int(pictures), total, outer)

    def _sums(self, side: str) -> tuple[Tensor, Tensor, Tensor]:
        """Count, sum and sum of outer products of all of a side's features, those kept included."""
        few = rows(getattr(self, f"{side}_few")).double()
        count, total, outer = (getattr(self, f"{side}_{name}") for name in ("count", "sum", "outer"))
        return count + len(few), total + few.sum(0), outer.addmm(few.T, few)


def _require_two(kind: str, count: int) -> None:
    if count < 2:
        raise UserError(f"the Frechet distance needs 2 {kind} pictures at least, and has {count}: give more.")


def build(extractor: FeatureExtractor, classes: Sequence[str]) -> FrechetDistance:
    """Any extractor will do."""
    return FrechetDistance(extractor.dim)
