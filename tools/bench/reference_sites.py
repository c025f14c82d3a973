"""The propagation block in a literal arrangement, to compare ours with: each site by itself, for each sample.

So does the published program (github.com/mshahbazi72/cGANTransfer). A sample's class as one-hot times the
scores gives its row of N scores, this times the prior its row of C numbers, anew at every forward. Of B
samples of M classes most rows are alike. The biases that the program also has there, which are residuals once
more, are left out, and so is that of the scores.

Shapes: B samples, C channels, H rows, W columns, N source classes, M new classes, K latent chunk.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgt.transfer.propagation import PropagatedBank


class Kind(nn.Module):
    """The scales, or the shifts, of one site."""

    def __init__(
        self, scores_NM: Tensor, prior_NC: Tensor, residual_MC: Tensor, latent_CK: Tensor | None
    ) -> None:
        super().__init__()
        self.scores_NM = nn.Parameter(scores_NM.detach().clone())
        self.prior_CN = nn.Parameter(prior_NC.detach().t().clone(memory_format=torch.contiguous_format))
        self.residual_CM = nn.Parameter(residual_MC.detach().t().clone(memory_format=torch.contiguous_format))
        self.latent_CK = None if latent_CK is None else nn.Parameter(latent_CK.detach().clone())

    def forward(self, one_hot_BM: Tensor, z_BK: Tensor | None) -> Tensor:
        """What every sample gets, (B, C)."""
        scores_BN = F.linear(one_hot_BM, self.scores_NM)
        made_BC = F.linear(scores_BN, self.prior_CN) + F.linear(one_hot_BM, self.residual_CM)
        if self.latent_CK is not None:
            assert z_BK is not None
            made_BC = made_BC + F.linear(z_BK, self.latent_CK)
        return made_BC


class Site(nn.Module):
    """A class-conditional batch norm that knows the source's classes itself."""

    def __init__(self, scale: Kind, shift: Kind, eps: float) -> None:
        super().__init__()
        self.scale, self.shift, self.eps = scale, shift, eps
        self.register_buffer("mean_C", torch.zeros_like(scale.prior_CN[:, 0]))
        self.register_buffer("var_C", torch.ones_like(scale.prior_CN[:, 0]))

    def conditions(self, one_hot_BM: Tensor, z_BK: Tensor | None) -> tuple[Tensor, Tensor]:
        """gamma and beta of every sample, (B, C)."""
        return 1 + self.scale(one_hot_BM, z_BK), self.shift(one_hot_BM, z_BK)

    def forward(self, x_BCHW: Tensor, one_hot_BM: Tensor, z_BK: Tensor | None) -> Tensor:
        """The map, normalised and moved."""
        gamma_BC, beta_BC = self.conditions(one_hot_BM, z_BK)
        mean_C, var_C = cast(Tensor, self.mean_C), cast(Tensor, self.var_C)
        x_BCHW = F.batch_norm(x_BCHW, mean_C, var_C, training=True, eps=self.eps)
        return x_BCHW * gamma_BC[:, :, None, None] + beta_BC[:, :, None, None]


def sites_of(bank: PropagatedBank, eps: float) -> list[Site]:
    """The propagation block of a bank in parts, one for every site."""
    assert bank.residuals, "a block without them has no place here"
    assert not bank.score_bias, "nor has one with these"
    assert not bank.shared_scores, "every site has its own"
    sites = {}
    for group, numbers in enumerate(bank.sites):
        for slot, number in enumerate(numbers):
            scale, shift = (
                Kind(
                    bank.scores[group][place],
                    bank.prior[group][place],
                    bank.residuals[group][place],
                    latents[number] if latents else None,
                )
                for place, latents in (
                    (slot, bank.latent_scale),
                    (len(numbers) + slot, bank.latent_shift),
                )
            )
            sites[number] = Site(scale, shift, eps)
    return [sites[number] for number in sorted(sites)]


def gradients_by_bank(bank: PropagatedBank, sites: Sequence[Site]) -> dict[str, Tensor]:
    """The gradients of those parts, by the names and in the shapes of the bank's parameters."""
    found = {}
    for group, numbers in enumerate(bank.sites):
        kinds = [sites[n].scale for n in numbers] + [sites[n].shift for n in numbers]
        found[f"scores.{group}"] = torch.stack([_gradient(kind.scores_NM) for kind in kinds])
        found[f"prior.{group}"] = torch.stack([_gradient(kind.prior_CN).t() for kind in kinds])
        found[f"residuals.{group}"] = torch.stack([_gradient(kind.residual_CM).t() for kind in kinds])
    for number, site in enumerate(sites):
        for name, kind in (("latent_scale", site.scale), ("latent_shift", site.shift)):
            if kind.latent_CK is not None:
                found[f"{name}.{number}"] = _gradient(kind.latent_CK)
    return found


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
