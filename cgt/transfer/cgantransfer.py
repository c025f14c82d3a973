"""cGANTransfer: knowledge propagation across classes (Shahbazi et al., "Efficient Conditional GAN Transfer
with Knowledge Propagation across Classes", CVPR 2021).

The generator is frozen. New classes combine trainable copies of the source's class tables by learned
similarity scores, separately for scale and shift and at every site, and add a residual. Where we depart from
the official code (github.com/mshahbazi72/cGANTransfer):

* Scores have no bias and start near a source class. `start: official` gives the original's scores back: drawn
  anew for every site and kind as the generator's weights are, plus a bias shared by all new classes, uniform
  within +-1/sqrt(M).
* The tables and latent projections start at the source's, and are copies. The original takes both from
  weights without spectral norm, and in its ImageNet tree normalises scores, tables and latent projections,
  each on its own, at every use. The CIFAR tree's tables and all latent projections are views of the source's
  weights, which training overwrites.
* Residuals start at zero; the original draws them as the generator's weights. Nor do we have the biases of
  its table layers (CIFAR tree) and latent projections (ImageNet tree), one number a channel for all new
  classes, which start uniform within +-1/sqrt(N) and +-1/sqrt(K): to training they are residuals.
* L1 is of the scores as they are used, bias and all; the original takes it of the raw scores and, as one more
  tensor, of their bias.

Shapes: L sites (the first layer, where it is one, is the last), N source classes, M new classes, K latent
chunk.
"""

import functools
from collections.abc import Mapping
from typing import Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from cgt import rng
from cgt.errors import UserError
from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.models.layers import draw_weight
from cgt.models.norm import Bank
from cgt.transfer.extension import StagedConfig, StagedExtension
from cgt.transfer.nearest import class_distances
from cgt.transfer.propagation import PropagatedBank, PropagatedEmbedding
from cgt.transfer.starting import source_tables

Start = Literal["nearest", "nearest-soft", "orthogonal", "normal", "uniform", "official"]


class CGANTransferConfig(StagedConfig):
    """Options of cGANTransfer; the ablations of Table 2 are combinations of these."""

    prior: Literal["tunable", "frozen"] = "tunable"
    """Train the copies of the source's tables (knowledge sharing, Sec. 4.2), or leave them as they are."""
    residuals: bool = True
    """Residuals on top of the combination (Sec. 4.3)."""
    scores: Literal["per-site", "shared"] = "per-site"
    """A pair of score matrices for every site, or one pair for all of them."""
    lambda_r: float = Field(0.01, ge=0)
    """Weight of the residuals' L2 (the official code: 0.1 on ImageNet, 0.01 on CIFAR)."""
    lambda_s: float = Field(0.01, ge=0)
    """Weight of the scores' L1."""
    reduction: Literal["mean", "sum"] = "mean"
    """Of the penalties: "sum" is eq. 7 as written; "mean" averages within each tensor and sums over tensors,
    as the official code does."""
    start: Start = "nearest-soft"
    """Where the scores start. nearest: 1 for the nearest source class by D's features; nearest-soft: half
    that, half uniform; orthogonal; normal: N(0, 0.02); uniform: 1/N; official: the generator's own
    initialisation, plus a trained bias shared by all new classes. Random ones are drawn for each site."""
    discriminator: Literal["fresh", "nearest", "propagated"] = "fresh"
    """Where D's class embedding comes from: drawn anew; the nearest source class's; or propagated, as the
    tables of G are, from those of the source's D (the paper's future work, Sec. 6)."""

    @model_validator(mode="after")
    def _residuals_are_what_is_tuned(self) -> "CGANTransferConfig":
        if self.stage == "finetune" and not self.residuals:
            raise ValueError(
                "stage finetune trains the residuals, with scores and prior fixed: set residuals to true"
            )
        # The run's own config, which names all options, must stay readable: defaults say nothing.
        of_start = ("prior", "scores", "lambda_s", "start", "discriminator")
        said = [name for name in of_start if getattr(self, name) != type(self).model_fields[name].default]
        if self.stage == "finetune" and said:
            raise ValueError(
                f"stage finetune goes on with finished tables and their discriminator, so that "
                f"{' and '.join(said)} would mean nothing: leave {'them' if len(said) > 1 else 'it'} out"
            )
        return self


class CGANTransfer(StagedExtension[CGANTransferConfig]):
    """Propagated tables on a frozen generator. The prior is every class of every bank that the source has.

    The stage "finetune" (Sec. 5.4) goes on from a finished transfer with scores and prior fixed: what they
    made of the classes stands, and residuals to it, beginning at zero, are trained with all of G and D.
    """

    Config = CGANTransferConfig

    @torch.no_grad()
    def networks(self) -> tuple[Generator, Discriminator]:
        """G with the propagation block; D with the class embedding of this config."""
        generator, discriminator = super().networks()
        start = self.config.discriminator
        if self.config.stage == "finetune" or start == "fresh":
            return generator, discriminator
        of_source, embedding = self.task.given_source.discriminator, discriminator.embedding
        assert embedding is not None
        if of_source.embedding is None:
            raise UserError(
                f"method.discriminator is {start}, and the source's discriminator has no class embedding to "
                "start from: set it to fresh."
            )
        known = self.task.given_source.generator.classes
        places = [known.index(name) for name in of_source.classes]
        nearest_M = self._distances[:, places].argmin(1)
        source_NC = of_source.embedding.normalised_weight()
        if start == "nearest":
            embedding.weight.copy_(source_NC[nearest_M])
        else:
            embedding.weight.zero_()
            scores_NM = _near_and_far(nearest_M, len(source_NC))
            embedding.reparametrisation = PropagatedEmbedding(source_NC, scores_NM)
        return generator, discriminator

    def new_bank(self, generator: Generator) -> Bank:
        """The propagation block of this config."""
        with rng.seeded_globally(self.task.seed, "scores"):
            return PropagatedBank(
                self.task.classes,
                source_tables(generator),
                generator.output_affine.gain.numel(),
                self._start(generator),
                bias=self.config.start == "official",
                tunable_prior=self.config.prior == "tunable",
                residuals=self.config.residuals,
                shared_scores=self.config.scores == "shared",
            )

    def tuned_bank(self, generator: Generator) -> Bank:
        """The finished tables under fixed scores of one, with residuals."""
        finished = generator.last_bank
        bank = PropagatedBank(
            self.task.classes,
            finished.tables(),
            generator.output_affine.gain.numel(),
            torch.eye(len(self.task.classes)).expand(2, -1, -1),
            tunable_prior=False,
            tunable_scores=False,
        )
        bank.take_statistics(finished)
        return bank

    def penalties(self, generator: Generator) -> Mapping[str, Tensor]:
        """lambda_r L_r and lambda_s L_s of eq. 7; a term without weight or without parameters is left out."""
        bank = cast(PropagatedBank, generator.last_bank)
        terms = {}
        if self.config.residuals and self.config.lambda_r:
            terms["residual_l2"] = self.config.lambda_r * bank.residual_norm(self.config.reduction)
        if self.config.lambda_s and self.config.stage == "transfer":
            terms["score_l1"] = self.config.lambda_s * bank.score_norm(self.config.reduction)
        return terms

    @functools.cached_property
    def _distances(self) -> Tensor:
        """`class_distances` (M, N), which G and D may both start from."""
        return class_distances(self.task)

    def _start(self, generator: Generator) -> Tensor:
        """The scores at the start, (L, 2, N, M); random ones are drawn from torch's global generator."""
        n_source, n_new = len(generator.classes), len(self.task.classes)
        sites = len(generator.site_widths) + bool(generator.first_width)
        scores_L2NM = torch.zeros(sites, 2, n_source, n_new)
        start: str = self.config.start
        if start == "official":
            start = generator.config.init
        if start == "nearest":
            scores_L2NM[:, :, self._distances.argmin(1), torch.arange(n_new)] = 1
        if start == "nearest-soft":
            scores_L2NM += _near_and_far(self._distances.argmin(1), n_source)
        if start == "uniform":
            scores_L2NM += 1 / n_source
        if start in ("orthogonal", "normal"):
            for scores_NM in scores_L2NM.flatten(0, 1):
                draw_weight(scores_NM, start)
        return scores_L2NM


def _near_and_far(nearest_M: Tensor, n_source: int) -> Tensor:
    """Scores (N, M) that are half of the nearest class and half of all alike."""
    return nn.functional.one_hot(nearest_M, n_source).T / 2 + 0.5 / n_source


METHOD = CGANTransfer
