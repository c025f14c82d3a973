"""Batch-norm statistics of one site: running ones, or fixed ones by the truncation of z.

Shapes: C channels, T levels of truncation.
"""

import math

import torch
from torch import Tensor, nn


class SiteStatistics(nn.Module):
    """Mean and variance of one site: running ones, (C,), or fixed ones for T truncations of z, (T, C)."""

    mean: Tensor
    var: Tensor

    def __init__(self, channels: int, levels: int = 1) -> None:
        super().__init__()
        shape = (channels,) if levels == 1 else (levels, channels)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))
        self.momentum = 0.1

    def at(self, truncation: float) -> tuple[Tensor, Tensor]:
        """Mean and variance, (C,), at a truncation in (0, 1], of which running ones know nothing.

        Between two levels the LOWER one has the weight of the fraction, as in pytorch-pretrained-BigGAN.

        Raises:
            ValueError: the truncation is out of its range.
        """
        if self.mean.dim() == 1:
            return self.mean, self.var
        if not 0 < truncation <= 1:
            raise ValueError(
                f"truncation is {truncation}, and must be above 0 and at most 1: give 1 for none"
            )
        last = len(self.mean) - 1
        # Divided as the original does, 1 comes out below or above the last of some numbers of levels.
        share, level = math.modf(last if truncation == 1 else min(truncation / (1 / last), last))
        lower = int(level)
        if not share:
            return self.mean[lower], self.var[lower]
        mean, var = (
            values[lower] * share + values[lower + 1] * (1 - share) for values in (self.mean, self.var)
        )
        return mean, var
