"""The blocks of BigGAN-deep (Brock et al., 2019, App. B), which have a bottleneck.

Shortcuts drop channels in the generator, and in the discriminator keep them all and add some.

Shapes: N samples, C channels, H rows, W columns.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgt.models.layers import Conv2d, as_computed
from cgt.models.layouts import BOTTLENECK
from cgt.models.norm import Condition, ConditionalBatchNormReLU


class DeepGeneratorBlock(nn.Module):
    """Residual block with four conditional norms, that may double the size."""

    def __init__(self, inputs: int, outputs: int, eps: float, *, enlarge: bool) -> None:
        super().__init__()
        inner = inputs // BOTTLENECK
        self.site_widths = (inputs, inner, inner, inner)
        self.outputs = outputs
        self.enlarge = enlarge
        self.norm1 = ConditionalBatchNormReLU(eps)
        self.conv1 = Conv2d(inputs, inner, 1)
        self.norm2 = ConditionalBatchNormReLU(eps)
        self.conv2 = Conv2d(inner, inner, 3)
        self.norm3 = ConditionalBatchNormReLU(eps)
        self.conv3 = Conv2d(inner, inner, 3)
        self.norm4 = ConditionalBatchNormReLU(eps)
        self.conv4 = Conv2d(inner, outputs, 1)

    @property
    def doubling(self) -> Conv2d | None:
        """The convolution that the size doubles at, if it does."""
        return self.conv2 if self.enlarge else None

    def forward(
        self, x_NCHW: Tensor, first: Condition, second: Condition, third: Condition, fourth: Condition
    ) -> Tensor:
        """A map of the same or twice the size, (N, outputs, H', W'), under the conditions of the norms."""
        h: Tensor = self.conv1(self.norm1(x_NCHW, first))
        h = self.norm2(h, second)
        h = self.conv2.of_doubled(h) if self.enlarge else self.conv2(h)
        h = self.conv3(self.norm3(h, third))
        h = self.conv4(self.norm4(h, fourth))
        shortcut = x_NCHW[:, : self.outputs]
        return h + (F.interpolate(shortcut, scale_factor=2) if self.enlarge else shortcut)


class FirstBias(nn.Module):
    """All that the classes of a generator share of a first layer that is a site: the bias, (F,).

    The weight is in the banks, since z and the class reach the layer as they do the other sites.
    """

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        # As torch draws the bias of a linear layer.
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-(inputs**-0.5), inputs**-0.5))

    def forward(self, shift_NF: Tensor) -> Tensor:
        """The layer's outputs, (N, F), given what the bank makes of z and the class."""
        return as_computed(self.bias + shift_NF)


class DeepDiscriminatorBlock(nn.Module):
    """Residual block, pre-activated, that may halve the size."""

    def __init__(self, inputs: int, outputs: int, *, halve: bool) -> None:
        super().__init__()
        inner = outputs // BOTTLENECK
        self.halve = halve
        self.conv1 = Conv2d(inputs, inner, 1)
        self.conv2 = Conv2d(inner, inner, 3)
        self.conv3 = Conv2d(inner, inner, 3)
        self.conv4 = Conv2d(inner, outputs, 1)
        self.shortcut = Conv2d(inputs, outputs - inputs, 1) if outputs > inputs else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """A map of the same or half the size, (N, outputs, H', W')."""
        h: Tensor = self.conv1(F.relu(x_NCHW))
        h = F.relu(self.conv3(F.relu(self.conv2(F.relu(h)))))
        shortcut = x_NCHW
        if self.halve:
            h, shortcut = F.avg_pool2d(h, 2), F.avg_pool2d(shortcut, 2)
        if self.shortcut is not None:
            shortcut = torch.cat([shortcut, self.shortcut(shortcut)], 1)
        h = self.conv4(h)
        return h + shortcut


def generator_blocks(widths: Sequence[int], eps: float) -> list[DeepGeneratorBlock]:
    """Blocks between these widths, of which every second one doubles the size."""
    return [
        DeepGeneratorBlock(inputs, outputs, eps, enlarge=i % 2 == 1)
        for i, (inputs, outputs) in enumerate(itertools.pairwise(widths))
    ]


def discriminator_blocks(widths: Sequence[int], halvings: int) -> list[DeepDiscriminatorBlock]:
    """Blocks between these widths; of each pair the first one halves the size, of the first `halvings`."""
    return [
        DeepDiscriminatorBlock(inputs, outputs, halve=i % 2 == 0 and i // 2 < halvings)
        for i, (inputs, outputs) in enumerate(itertools.pairwise(widths))
    ]
