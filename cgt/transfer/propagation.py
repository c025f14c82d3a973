"""The knowledge propagation block (Sec. 4.1-4.3): tables of the new classes as combinations of the source's.

    scale'_l = S_scale_l^T  prior_scale_l + R_scale_l          (M x C_l) = (N x M)^T (N x C_l) + (M x C_l)
    shift'_l = S_shift_l^T  prior_shift_l + R_shift_l          (eq. 5-6, and the residuals of Sec. 4.3)

The priors are trainable copies of the source's tables (knowledge sharing, "pseudo-classes"), as offsets from
gamma = 1. The first layer of BigGAN-deep is a site with a shift alone.

Shapes: N source classes, M new classes, L sites (the first layer, where it is one, comes last), C channels of
a site, K latent chunk, G tables of one width: sites of equal width are stacked, the scales of all of them
first, then the shifts, so that one batched product serves each distinct width.
"""

from collections.abc import Sequence

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
        scores_L2NM: where the similarity scores start, for (scale, shift) of every site (of the first layer
            the shift's alone counts); given as (2, N, M), all sites start alike.
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
        self.sites = [
            [site for site, width in enumerate(widths) if width == of_group]
            for of_group in sorted(set(widths))
        ]
        """The sites of every width."""
        priors = [
            torch.stack([prior.scale[site] for site in sites] + [prior.shift[site] for site in sites])
            for sites in self.sites
        ]
        priors += [table[None] for table in prior.first]
        scores_L2NM = scores_L2NM.expand(len(widths) + len(prior.first), -1, -1, -1)
        scores = [
            scores_L2NM[sites].transpose(0, 1).flatten(0, 1)
            for sites in ([[0]] if shared_scores else self.sites)
        ]
        if prior.first and not shared_scores:
            scores.append(scores_L2NM[-1, 1:])
        self.shared_scores = shared_scores
        self.prior = nn.ParameterList(
            nn.Parameter(tables_GNC.detach().clone(), requires_grad=tunable_prior) for tables_GNC in priors
        )
        self.scores = nn.ParameterList(
            nn.Parameter(scores_GNM.clone(), requires_grad=tunable_scores) for scores_GNM in scores
        )
        self.score_bias = nn.ParameterList(
            nn.init.uniform_(torch.empty(len(scores_GNM), n_source, 1), -(n_new**-0.5), n_new**-0.5)
            for scores_GNM in scores
            if bias
        )
        self.residuals = nn.ParameterList(
            torch.zeros(len(tables_GNC), n_new, tables_GNC.shape[2]) for tables_GNC in priors if residuals
        )
        self.latent_scale, self.latent_shift, self.latent_first = (
            nn.ParameterList(projection.detach().clone() for projection in projections)
            for projections in (prior.latent_scale, prior.latent_shift, prior.latent_first)
        )

    def tables(self) -> ClassTables:
        """The propagated tables, in float32 whatever autocast says.

        One batched product per distinct width.
        """
        with full_precision(self.prior[0]):
            groups = []
            for group, prior_GNC in enumerate(self.prior):
                scores_MN = self._scores(group).mT
                if self.residuals:
                    groups.append(torch.baddbmm(self.residuals[group], scores_MN, prior_GNC))
                else:
                    groups.append(torch.bmm(scores_MN, prior_GNC))
        return self._as_tables(groups)

    def similarity(self) -> Tensor:
        """The scores as they are used, bias and all, of scale and shift at every site: (L, 2, N, M).

        The first layer is not among the sites here, since its scale has no scores.
        """
        of_sites = [self._scores(group).unflatten(0, (2, -1)).unbind(1) for group in range(len(self.sites))]
        by_site = {
            site: scores_2NM
            for sites, scores in zip(self.sites, of_sites, strict=True)
            for site, scores_2NM in zip(sites, scores, strict=True)
        }
        return torch.stack([by_site[site] for site in sorted(by_site)])

    def pseudo_classes(self) -> ClassTables:
        """The prior itself: what sharing has made of the source's classes (Sec. 4.2, Fig. 8)."""
        return self._as_tables(list(self.prior))

    def propagated(self, scores_L2NM: Tensor, *, residuals: bool = True) -> ClassTables:
        """The tables that these scores would give, with or without the residuals.

        The first layer, where it is a site, has its own scores.
        """
        scores = [scores_L2NM[sites].transpose(0, 1).flatten(0, 1) for sites in self.sites]
        scores += [self._scores(group) for group in range(len(self.sites), len(self.prior))]
        groups = [
            torch.bmm(scores_GNM.mT, prior_GNC)
            for scores_GNM, prior_GNC in zip(scores, self.prior, strict=True)
        ]
        if residuals and self.residuals:
            groups = [
                group_GMC + residual_GMC
                for group_GMC, residual_GMC in zip(groups, self.residuals, strict=True)
            ]
        return self._as_tables(groups)

    def residual_norm(self, reduction: str) -> Tensor:
        """L2 of the residuals (eq. 7).

        Squares summed over everything, or averaged within each tensor R and then summed over tensors.
        """
        return self._reduce([residual_GMC.square() for residual_GMC in self.residuals], reduction)

    def score_norm(self, reduction: str) -> Tensor:
        """L1 of the scores (eq. 7), reduced as in `residual_norm`; biases are a part of the scores."""
        return self._reduce([self._with_bias(index).abs() for index in range(len(self.scores))], reduction)

    def _scores(self, group: int) -> Tensor:
        """The scores of one width, (G, N, M), or after all of these those of the first layer, (1, N, M)."""
        if not self.shared_scores:
            return self._with_bias(group)
        shared_2NM = self._with_bias(0)
        if group < len(self.sites):
            return shared_2NM.repeat_interleave(len(self.sites[group]), 0)
        return shared_2NM[1:]

    def _as_tables(self, groups: Sequence[Tensor]) -> ClassTables:
        """What is stacked by widths (G, ...), site by site; after these stands what is of the first layer."""
        scale: dict[int, Tensor] = {}
        shift: dict[int, Tensor] = {}
        of_sites, of_first = groups[: len(self.sites)], groups[len(self.sites) :]
        for sites, stacked in zip(self.sites, of_sites, strict=True):
            of_scale, of_shift = stacked.unbind(0)[: len(sites)], stacked.unbind(0)[len(sites) :]
            scale |= dict(zip(sites, of_scale, strict=True))
            shift |= dict(zip(sites, of_shift, strict=True))
        return ClassTables(
            tuple(scale[site] for site in sorted(scale)),
            tuple(shift[site] for site in sorted(shift)),
            tuple(self.latent_scale),
            tuple(self.latent_shift),
            tuple(table[0] for table in of_first),
            tuple(self.latent_first),
        )

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
