"""The knowledge propagation block (Sec. 4.1-4.3): tables of the new classes as combinations of the source's.

    scale'_l = S_scale_l^T  prior_scale_l + R_scale_l          (M x C_l) = (N x M)^T (N x C_l) + (M x C_l)
    shift'_l = S_shift_l^T  prior_shift_l + R_shift_l          (eq. 5-6, and the residuals of Sec. 4.3)

The priors are trainable copies of the source's tables (knowledge sharing, "pseudo-classes"), as offsets from
gamma = 1.

Shapes: N source classes, M new classes, L sites, C channels of a site, K latent chunk, G tables of one width:
sites of equal width are stacked, the scales of all of them first, then the shifts, so that one batched
product serves each distinct width.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from cgt.models.layers import full_precision
from cgt.models.norm import Bank, ClassTables


class PropagatedBank(Bank):
    """A bank whose tables are propagated from a prior.

    Args:
        classes: names of the M new classes.
        prior: tables of the N source classes; copied. Its latent projections are copied too, and trained.
        output_width: channels of the output norm.
        scores_L2NM: where the similarity scores start, for (scale, shift) of every site; given as (2, N, M),
            all sites start alike.
        bias: give every score a trained bias that all new classes share, starting within +-1/sqrt(M) (the
            official code).
        tunable_prior: train the copies of the source's tables.
        tunable_scores: train the scores.
        residuals: add trained residuals, starting at zero.
        shared_scores: one pair of score matrices for all sites, the first one's, instead of a pair for each.
    """

    def __init__(
        self,
        classes: Sequence[str],
        prior: ClassTables,
        output_width: int,
        scores_L2NM: Tensor,
        *,
        bias: bool = False,
        tunable_prior: bool = True,
        tunable_scores: bool = True,
        residuals: bool = True,
        shared_scores: bool = False,
    ) -> None:
        widths = [table.shape[1] for table in prior.scale]
        super().__init__(classes, widths, output_width)
        n_source, n_new = scores_L2NM.shape[-2:]
        self.widths = sorted(set(widths))
        self.sites = {width: [site for site, w in enumerate(widths) if w == width] for width in self.widths}
        self.prior = nn.ParameterList(
            nn.Parameter(
                torch.stack([prior.scale[site] for site in sites] + [prior.shift[site] for site in sites])
                .detach()
                .clone(),
                requires_grad=tunable_prior,
            )
            for sites in self.sites.values()
        )
        scored = [[0]] if shared_scores else list(self.sites.values())
        self.shared_scores = shared_scores
        scores_L2NM = scores_L2NM.expand(len(widths), -1, -1, -1)
        self.scores = nn.ParameterList(
            nn.Parameter(scores_L2NM[sites].transpose(0, 1).flatten(0, 1), requires_grad=tunable_scores)
            for sites in scored
        )
        self.score_bias = nn.ParameterList(
            nn.init.uniform_(torch.empty(2 * len(sites), n_source, 1), -(n_new**-0.5), n_new**-0.5)
            for sites in scored
            if bias
        )
        self.residuals = nn.ParameterList(
            torch.zeros(2 * len(sites), n_new, width) for width, sites in self.sites.items() if residuals
        )
        self.latent_scale = nn.ParameterList(projection.detach().clone() for projection in prior.latent_scale)
        self.latent_shift = nn.ParameterList(projection.detach().clone() for projection in prior.latent_shift)

    def tables(self) -> ClassTables:
        """The propagated tables, in float32 whatever autocast says.

        One batched product per distinct width.
        """
        scale: dict[int, Tensor] = {}
        shift: dict[int, Tensor] = {}
        with torch.autocast(self.prior[0].device.type, enabled=False):
            for group, (width, sites) in enumerate(self.sites.items()):
                scores_GNM = self._scores(group, len(sites))
                prior_GNC = self.prior[group]
                if self.residuals:
                    table_GMC = torch.baddbmm(self.residuals[group], scores_GNM.mT, prior_GNC)
                else:
                    table_GMC = torch.bmm(scores_GNM.mT, prior_GNC)
                assert table_GMC.shape[2] == width
                of_scale, of_shift = table_GMC.unbind(0)[: len(sites)], table_GMC.unbind(0)[len(sites) :]
                scale |= dict(zip(sites, of_scale, strict=True))
                shift |= dict(zip(sites, of_shift, strict=True))
        in_order = range(len(scale))
        return ClassTables(
            tuple(scale[site] for site in in_order),
            tuple(shift[site] for site in in_order),
            tuple(self.latent_scale),
            tuple(self.latent_shift),
        )

    def similarity(self) -> Tensor:
        """The scores as they are used, bias and all, of scale and shift at every site: (L, 2, N, M)."""
        groups = [self._scores(group, len(sites)) for group, sites in enumerate(self.sites.values())]
        return torch.stack(self._by_site(groups))

    def pseudo_classes(self) -> ClassTables:
        """The prior itself: what sharing has made of the source's classes (Sec. 4.2, Fig. 8)."""
        scale, shift = zip(*(site.unbind(0) for site in self._by_site(self.prior)), strict=True)
        return ClassTables(scale, shift, tuple(self.latent_scale), tuple(self.latent_shift))

    def propagated(self, scores_L2NM: Tensor, *, residuals: bool = True) -> ClassTables:
        """The tables that these scores would give, with or without the residuals."""
        priors = self._by_site(self.prior)
        sites = [scores_2NM.mT @ prior_2NC for scores_2NM, prior_2NC in zip(scores_L2NM, priors, strict=True)]
        if residuals and self.residuals:
            parts = self._by_site(self.residuals)
            sites = [site + residual for site, residual in zip(sites, parts, strict=True)]
        scale, shift = zip(*(site.unbind(0) for site in sites), strict=True)
        return ClassTables(scale, shift, tuple(self.latent_scale), tuple(self.latent_shift))

    def residual_norm(self, reduction: str) -> Tensor:
        """L2 of the residuals (eq. 7).

        Squares summed over everything, or averaged within each tensor R and then summed over tensors.
        """
        return self._reduce([residual_GMC.square() for residual_GMC in self.residuals], reduction)

    def score_norm(self, reduction: str) -> Tensor:
        """L1 of the scores (eq. 7), reduced as in `residual_norm`; biases are a part of the scores."""
        return self._reduce([self._with_bias(index).abs() for index in range(len(self.scores))], reduction)

    def _scores(self, group: int, sites: int) -> Tensor:
        """The scores of one width, (G, N, M)."""
        if self.shared_scores:
            return self._with_bias(0).repeat_interleave(sites, 0)
        return self._with_bias(group)

    def _by_site(self, groups: Iterable[Tensor]) -> list[Tensor]:
        """Of each site (2, ...), of scale and shift, what is stacked by widths (G, ...)."""
        by_site = {
            site: torch.stack((stacked[i], stacked[len(sites) + i]))
            for sites, stacked in zip(self.sites.values(), groups, strict=True)
            for i, site in enumerate(sites)
        }
        return [by_site[site] for site in sorted(by_site)]

    def _with_bias(self, index: int) -> Tensor:
        scores: Tensor = self.scores[index]
        return scores + self.score_bias[index] if self.score_bias else scores

    def _reduce(self, tensors: Sequence[Tensor], reduction: str) -> Tensor:
        if reduction == "sum":
            return torch.stack([tensor.sum() for tensor in tensors]).sum()
        return torch.stack([tensor.mean((1, 2)).sum() for tensor in tensors]).sum()


class PropagatedEmbedding(nn.Module):
    """D's class embedding as propagated from its source's: S^T E + R, of which R is the layer's own weight.

    Args:
        prior_NC: E, the source's class vectors; copied and trained.
        scores_NM: where S starts.
    """

    def __init__(self, prior_NC: Tensor, scores_NM: Tensor) -> None:
        super().__init__()
        self.prior_NC = nn.Parameter(prior_NC.detach().clone())
        self.scores_NM = nn.Parameter(scores_NM.clone())

    def forward(self, residual_MC: Tensor) -> Tensor:
        """The new classes' vectors (M, C), in float32 whatever autocast says."""
        with full_precision(residual_MC):
            return torch.addmm(residual_MC, self.scores_NM.mT, self.prior_NC)
