"""BigGAN's discriminator; BigGAN-deep's is this one with other blocks.

Brock et al., "Large Scale GAN Training for High Fidelity Natural Image Synthesis", 2019.

Shapes: N samples, R resolution, C channels, H rows, W columns.
"""

from collections import deque
from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from cgt.models import biggan_deep
from cgt.models.layers import Conv2d, Embedding, Linear, attention_by_block, initialise
from cgt.models.layouts import DiscriminatorConfig
from cgt.models.naming import distinct
from cgt.models.recompute import called, recomputed

__all__ = ["Discriminator", "DiscriminatorConfig"]


class DiscriminatorBlock(nn.Module):
    """Residual block, pre-activated but for the first, that may halve the size."""

    def __init__(self, inputs: int, outputs: int, *, first: bool, halve: bool) -> None:
        super().__init__()
        self.first = first
        self.halve = halve
        self.conv1 = Conv2d(inputs, outputs, 3)
        self.conv2 = Conv2d(outputs, outputs, 3)
        self.shortcut = Conv2d(inputs, outputs, 1) if halve or inputs != outputs else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """A map of the same or half the size, (N, outputs, H', W')."""
        h: Tensor = self.conv1(x_NCHW if self.first else F.relu(x_NCHW))
        h = self.conv2.halved(F.relu(h)) if self.halve else self.conv2(F.relu(h))
        # Averaging and a 1x1 convolution commute; this order costs a quarter.
        shortcut = F.avg_pool2d(x_NCHW, 2) if self.halve else x_NCHW
        return h + (self.shortcut(shortcut) if self.shortcut is not None else shortcut)


class Discriminator(nn.Module):
    """D(x, y): the projection discriminator (Miyato & Koyama, 2018) as BigGAN has it.

    Args:
        config: its shape.
        resolution: R in pixels.
        classes: names; y counts along them.

    Raises:
        ValueError: a shape that the resolution does not allow, or a class name given twice.
    """

    def __init__(self, config: DiscriminatorConfig, resolution: int, classes: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.resolution = resolution
        self.classes = list(distinct(classes))
        widths, halvings = config.layout(resolution)
        if resolution >> halvings < 1:
            raise ValueError(f"{halvings} halvings of {resolution} px leave nothing: give fewer channels")
        self.stem = Conv2d(3, widths[0], 3) if config.deep else None
        if config.deep:
            self.blocks = nn.ModuleList(biggan_deep.discriminator_blocks(widths, halvings))
            # Of a pair of blocks attention follows the second one, so that the first one is told of no size.
            sizes = [resolution >> min(i // 2 + 1, halvings) if i % 2 else 0 for i in range(len(self.blocks))]
            self.attention = attention_by_block(config.attention, sizes, widths[1:])
        else:
            self.blocks = nn.ModuleList(
                DiscriminatorBlock(inputs, outputs, first=i == 0, halve=i < halvings)
                for i, (inputs, outputs) in enumerate(zip((3, *widths), widths, strict=False))
            )
            sizes = [resolution >> min(i + 1, halvings) for i in range(len(self.blocks))]
            self.attention = attention_by_block(config.attention, sizes, widths)
        self.linear = Linear(widths[-1], 1)
        self.embedding = Embedding(len(self.classes), widths[-1]) if config.projection else None
        initialise(self, config.init)

    def maps(self, x_N3RR: Tensor) -> Iterator[Tensor]:
        """What the blocks, with their attention, make of pictures in [-1, 1]."""
        call = recomputed if self.gradient_checkpointing and self.training else called
        h = x_N3RR if self.stem is None else call(self.stem, x_N3RR)
        for i, block in enumerate(self.blocks):
            h = call(block, h)
            if str(i) in self.attention:
                h = call(self.attention[str(i)], h)
            yield h

    def features(self, x_N3RR: Tensor) -> Tensor:
        """Pooled features (N, C) of pictures in [-1, 1]: what the logit is a function of, classes aside."""
        last = deque(self.maps(x_N3RR), maxlen=1).pop()  # the others are let go
        return F.relu(last).sum((2, 3))

    def first_blocks(self, count: int) -> list[nn.Module]:
        """The blocks next to the picture, with the convolution before and the attention after any of them."""
        attention = [self.attention[str(i)] for i in range(count) if str(i) in self.attention]
        stem = [self.stem] if self.stem is not None else []
        return [*stem, *self.blocks[:count], *attention]

    def forward(self, x_N3RR: Tensor, y_N: Tensor) -> Tensor:
        """Logits (N,) of pictures in [-1, 1] and class ids in [0, classes)."""
        h_NC = self.features(x_N3RR)
        logit_N: Tensor = self.linear(h_NC).squeeze(1)
        if self.embedding is not None:
            logit_N = logit_N + (self.embedding(y_N) * h_NC).sum(1)
        return logit_N
