"""A small convolutional classifier of small pictures.

Convolution, batch norm, ReLU and a halving max pool, until a few pixels are left; their mean is the feature.

Shapes: N pictures, C channels, H rows, W columns, K classes.
"""

from collections import deque
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 4
"""Stages are added while they leave this many pixels a side."""


class Classifier(nn.Module):
    """The network.

    Args:
        widths: channels of each stage; every stage but the last halves the size.
        classes: K.
    """

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            for inputs, outputs in zip((3, *widths), widths, strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.classifier = nn.Linear(widths[-1], classes)

    def maps(self, x_N3HW: Tensor) -> Iterator[Tensor]:
        """What each stage makes of pictures in [-1, 1], 0 or more."""
        h = x_N3HW.contiguous(memory_format=torch.channels_last)
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            h = norm(convolution(h))
            if i < len(self.convolutions) - 1:
                h = F.max_pool2d(h, 2)
            # ReLU and the pool commute; this order costs a quarter.
            h = F.relu_(h)
            yield h

    def features(self, x_N3HW: Tensor) -> Tensor:
        """Features (N, C) of pictures in [-1, 1]."""
        last = deque(self.maps(x_N3HW), maxlen=1).pop()  # the others are let go
        return last.mean((2, 3))

    def forward(self, x_N3HW: Tensor) -> Tensor:
        """Logits (N, K) of pictures in [-1, 1]."""
        logits_NK: Tensor = self.classifier(self.features(x_N3HW))
        return logits_NK


def widths(resolution: int) -> tuple[int, ...]:
    """Channels of the stages for a picture size: as many as leave 4 pixels a side, 64 at the end."""
    stages = 1
    while resolution >> stages >= SMALLEST:
        stages += 1
    return (*(min(64, 16 << i) for i in range(stages - 1)), 64)
