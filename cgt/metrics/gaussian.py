"""Gaussians fitted to features, and the Frechet distance between two of them.

    |mu_r - mu_f|^2 + tr(Sigma_r) + tr(Sigma_f) - 2 tr((Sigma_r Sigma_f)^(1/2)),   Sigma with N - 1 in the
    denominator.

The last trace is the hard part. With A such that Sigma_r = A^T A, the eigenvalues of Sigma_r Sigma_f are
those of the symmetric A Sigma_f A^T: a Cholesky factor for A (`eigh` where Sigma_r is singular) and one
`eigvalsh`, in a fraction of the time that the general `eigvals` of the product takes, and to the same digits.
With no more samples than dimensions A is the centred samples themselves (N x D) and everything becomes a
small Gram matrix. float32 is not enough for any of it.

Shapes: N samples, D features, R rows of a factor.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cgt.metrics.pairs import ROWS, mean

STRIPS = 8
"""Of a symmetric matrix of which only the upper triangle is computed."""
NOISE = 16 * torch.finfo(torch.float64).eps
"""Eigenvalues below this part of the largest are taken for 0: rounding alone makes up to a quarter of it, and
the roots of a thousand such would count."""


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
        (n, dim), mean_D = x_ND.shape, mean(x_ND)
        if n <= dim:
            return cls(mean_D, factor_RD=(x_ND.double() - mean_D) / (n - 1) ** 0.5)
        about_mean = Moments.of_nothing(dim, x_ND.device)
        for part in x_ND.split(ROWS):
            about_mean.add(part.double() - mean_D)
        return cls(mean_D, covariance_DD=about_mean.outer() / (n - 1))

    @classmethod
    def of_sums(cls, count: int, sum_D: Tensor, outer_DD: Tensor) -> "Gaussian":
        """Fitted to `count` samples of which the sum and the sum of outer products (float64) are known."""
        mean_D = sum_D / count
        return cls(mean_D, covariance_DD=(outer_DD - count * torch.outer(mean_D, mean_D)) / (count - 1))

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
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(self.covariance_DD, upper=True)
        if not failed:
            return factor
        eigenvalues, vectors = torch.linalg.eigh(self.covariance_DD)
        scaled: Tensor = vectors * eigenvalues.clamp_min(0).sqrt()
        return scaled.T


@dataclass(frozen=True)
class Moments:
    """Sums over samples, float64, which grow in place."""

    count: Tensor
    """(), int64."""
    sum_D: Tensor
    outer_DD: Tensor
    """Sum of outer products, of which only the upper triangle is right."""

    @classmethod
    def of_nothing(cls, dim: int, device: torch.device) -> "Moments":
        """The sums over no sample."""
        zeros_DD = torch.zeros(dim, dim, dtype=torch.float64, device=device)
        return cls(torch.tensor(0, device=device), zeros_DD[0].clone(), zeros_DD)

    def clone(self) -> "Moments":
        """The same, growing on its own."""
        return Moments(self.count.clone(), self.sum_D.clone(), self.outer_DD.clone())

    def add(self, x_ND: Tensor) -> None:
        """Take in samples, a block at a time.

        The outer products are added in strips, each of which begins at the diagonal: that takes little more
        than half the multiplications.
        """
        dim = len(self.sum_D)
        width = -(-dim // STRIPS)
        for part_ND in x_ND.split(ROWS):
            x = part_ND.double()
            self.count.add_(len(x))
            self.sum_D.add_(x.sum(0))
            for first in range(0, dim, width):
                strip = slice(first, first + width)
                self.outer_DD[strip, first:].addmm_(x[:, strip].T, x[:, first:])

    def outer(self) -> Tensor:
        """The sum of outer products whole, (D, D)."""
        return self.outer_DD.triu() + self.outer_DD.triu(1).T


def frechet_distance_of_gaussians(real: Gaussian, fake: Gaussian) -> float:
    """Frechet distance between two gaussians over the same features, 0 or more."""
    means = (real.mean_D - fake.mean_D).square().sum()
    distance = means + real.trace() + fake.trace() - 2 * _trace_of_root(real, fake)
    return float(distance.clamp_min(0))  # what rounding leaves of 0 may be below


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
    return eigenvalues[eigenvalues > NOISE * eigenvalues[-1]].sqrt().sum()
