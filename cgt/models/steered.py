"""A bank whose classes are looked for at sampling time, with a classifier: PPGN's (Nguyen et al., CVPR 2017).

The joint PPGN-h without noise, with a class-conditional generator as its prior: h = (z, class vector) starts
at z and at a class of the source, and goes up the probability that the classifier gives the picture of h,

    h += step * delta / mean |delta|        delta = prior * (-h) + d log p(y | G(h)) / dh

with h in units of its prior's standard deviation, whose score is then -h, and clipped to the range of the
source.

Shapes: N samples, Z latent size, Q size of the class vector, S classes of the source, H = Z + Q, K outputs of
the classifier.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgt.models.class_space import ClassSpace, LatentBank
from cgt.models.classifier import Classifier
from cgt.models.layers import full_precision
from cgt.models.norm import Bank, ClassTables, Trunk

LATENT_RANGE = 3.0
"""z is clipped to plus and minus this."""


class SteeredBank(LatentBank):
    """A classifier, and how it is followed.

    Args:
        classes: M names.
        widths: channels of every site.
        output_width: channels of the output norm.
        latent: width of the latent chunk that reaches the sites; 0 for none.
        first: outputs of the first layer, where it is a site too; 0 where it is not.
        space: Q.
        source_classes: S.
        stages: widths of the classifier.
        outputs: K of the classifier.
        targets: which of them is each class's.
        iterations: of h.
        step: mean change of a number of h in one of them.
        prior: weight of the prior's score beside the classifier's gradient.
    """

    kind = "steered"

    def __init__(
        self,
        classes: Sequence[str],
        widths: Sequence[int],
        output_width: int,
        *,
        latent: int,
        first: int,
        space: int,
        source_classes: int,
        stages: Sequence[int],
        outputs: int,
        targets: Sequence[int],
        iterations: int,
        step: float,
        prior: float,
    ) -> None:
        super().__init__(classes, widths, output_width, latent=latent, first=first, space=space)
        if len(targets) != len(self.classes) or not all(0 <= target < outputs for target in targets):
            raise ValueError(
                f"the classifier's outputs {list(targets)} are not one of {outputs} for each of "
                f"{len(self.classes)} classes"
            )
        self.targets = tuple(targets)
        self.stages, self.iterations, self.step, self.prior = tuple(stages), iterations, step, prior
        self.classifier = Classifier(stages, outputs)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        """Logits are divided by its exponential."""
        self.vectors_SQ: Tensor
        self.register_buffer("vectors_SQ", torch.zeros(source_classes, space))

    def options(self) -> dict[str, Any]:
        """Sizes of the class space and of the classifier, and how h moves."""
        source_classes, space = self.vectors_SQ.shape
        return {
            "space": space,
            "source_classes": source_classes,
            "stages": list(self.stages),
            "outputs": self.classifier.classifier.out_features,
            "targets": list(self.targets),
            "iterations": self.iterations,
            "step": self.step,
            "prior": self.prior,
        }

    def keep(self, rows: list[int]) -> None:
        """Those targets; the classifier goes on knowing all it knew."""
        self.targets = tuple(self.targets[row] for row in rows)

    @property
    def class_outputs(self) -> Tensor:
        """The classifier's output of each class, int64."""
        return torch.tensor(self.targets, device=self.mean_Q.device)

    @torch.no_grad()
    def take(self, space: ClassSpace, tables: ClassTables, first: Bank) -> None:
        """Take the source's projections, and its classes as points where h may start."""
        super().take(space, tables, first)
        self.vectors_SQ.copy_((space.vectors_SQ - self.mean_Q) / self.spread_Q)

    def log_probability(self, x_N3RR: Tensor, output_N: Tensor) -> Tensor:
        """What the classifier gives to its outputs for pictures in [-1, 1], (N,)."""
        logits_NK: Tensor = self.classifier(x_N3RR) / self.log_temperature.exp()
        loss_N: Tensor = F.cross_entropy(logits_NK, output_N, reduction="none")
        return loss_N.neg()

    def points(self, z_NZ: Tensor, y_N: Tensor, trunk: Trunk) -> tuple[Tensor, Tensor]:
        """Where h ends up; samples of other banks stay where they are."""
        h_NH = torch.cat([z_NZ, self.vectors_SQ[self._first_classes(z_NZ)]], 1)
        own_N = y_N >= 0
        if own_N.any():
            h_NH = h_NH.index_put((own_N,), self._steered(h_NH[own_N], z_NZ.shape[1], y_N[own_N], trunk))
        return h_NH[:, : z_NZ.shape[1]], h_NH[:, z_NZ.shape[1] :]

    def _steered(self, h_NH: Tensor, dim_z: int, y_N: Tensor, trunk: Trunk) -> Tensor:
        low_Q, high_Q = self.vectors_SQ.amin(0), self.vectors_SQ.amax(0)
        limit_Z = low_Q.new_full((dim_z,), LATENT_RANGE)
        low_H, high_H = torch.cat([-limit_Z, low_Q]), torch.cat([limit_Z, high_Q])
        output_N = self.class_outputs[y_N]
        with torch.enable_grad(), full_precision(h_NH):
            for _ in range(self.iterations):
                h_NH = h_NH.detach().requires_grad_()
                latents = self.joined(h_NH[:, :dim_z], h_NH[:, dim_z:], trunk)
                x_N3RR = trunk.draw(self, latents, y_N)
                total = self.log_probability(x_N3RR, output_N).sum()
                (slope_NH,) = torch.autograd.grad(total, h_NH)
                delta_NH = slope_NH - self.prior * h_NH
                length_N1 = delta_NH.abs().mean(1, keepdim=True).clamp_min(1e-12)
                h_NH = (h_NH + self.step * delta_NH / length_N1).clamp(low_H, high_H)
        return h_NH.detach()

    def baked(self) -> Bank:
        """Itself: every picture is looked for anew."""
        return self

    def _first_classes(self, z_NZ: Tensor) -> Tensor:
        """A class of the source for each sample, all equally likely, chosen by the first number of z."""
        n = len(self.vectors_SQ)
        share_N: Tensor = torch.special.ndtr(z_NZ[:, 0])
        return (share_N * n).long().clamp_max(n - 1)
