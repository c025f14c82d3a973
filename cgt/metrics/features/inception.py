"""Inception-v3 as data: the convolutions that all of its published weights share, and what sets them apart.

Tensors have the names of torchvision's, which the port of TensorFlow's weights took over.

Shapes: N pictures, C channels, H rows, W columns, D features, K classes.
"""

from collections import deque
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgt.metrics.features.base import FeatureExtractor, Features

SIZE = 299
FEATURES = 2048


class Conv(NamedTuple):
    """One convolution with batch norm and ReLU."""

    name: str
    channels: int
    height: int
    width: int
    stride: int = 1
    padded: bool = True
    """Whether padding keeps the size."""


ConvPath = tuple[Conv | tuple[Conv, Conv], ...]
"""Convolutions one after the other; a pair is two side by side whose outputs are joined."""


Pool = Literal["average", "average with padding", "max", "halve"]
"""The first leaves the padding out; the second counts it as zeros."""


class Mix(NamedTuple):
    """Parallel paths whose outputs are joined, the pool's last."""

    name: str
    paths: tuple[ConvPath, ...]
    pool: Pool
    pool_channels: int = 0
    """Of the 1x1 convolution after the pool; 0 for none."""


def _halving(name: str, channels: int) -> Conv:
    return Conv(name, channels, 3, 3, stride=2, padded=False)


def _at_35(name: str, pool: Pool, pool_channels: int) -> Mix:
    paths: tuple[ConvPath, ...] = (
        (Conv("branch1x1", 64, 1, 1),),
        (Conv("branch5x5_1", 48, 1, 1), Conv("branch5x5_2", 64, 5, 5)),
        (
            Conv("branch3x3dbl_1", 64, 1, 1),
            Conv("branch3x3dbl_2", 96, 3, 3),
            Conv("branch3x3dbl_3", 96, 3, 3),
        ),
    )
    return Mix(name, paths, pool, pool_channels)


def _at_17(name: str, pool: Pool, c: int) -> Mix:
    rows = [(1, 1), (7, 1), (1, 7), (7, 1), (1, 7)]
    double = [Conv(f"branch7x7dbl_{i + 1}", 192 if i == 4 else c, *kernel) for i, kernel in enumerate(rows)]
    paths: tuple[ConvPath, ...] = (
        (Conv("branch1x1", 192, 1, 1),),
        (Conv("branch7x7_1", c, 1, 1), Conv("branch7x7_2", c, 1, 7), Conv("branch7x7_3", 192, 7, 1)),
        tuple(double),
    )
    return Mix(name, paths, pool, 192)


def _at_8(name: str, pool: Pool) -> Mix:
    def fork(prefix: str) -> tuple[Conv, Conv]:
        return Conv(f"{prefix}a", 384, 1, 3), Conv(f"{prefix}b", 384, 3, 1)

    paths: tuple[ConvPath, ...] = (
        (Conv("branch1x1", 320, 1, 1),),
        (Conv("branch3x3_1", 384, 1, 1), fork("branch3x3_2")),
        (Conv("branch3x3dbl_1", 448, 1, 1), Conv("branch3x3dbl_2", 384, 3, 3), fork("branch3x3dbl_3")),
    )
    return Mix(name, paths, pool, 192)


_TO_17: tuple[ConvPath, ...] = (
    (_halving("branch3x3", 384),),
    (Conv("branch3x3dbl_1", 64, 1, 1), Conv("branch3x3dbl_2", 96, 3, 3), _halving("branch3x3dbl_3", 96)),
)
_TO_8: tuple[ConvPath, ...] = (
    (Conv("branch3x3_1", 192, 1, 1), _halving("branch3x3_2", 320)),
    (
        Conv("branch7x7x3_1", 192, 1, 1),
        Conv("branch7x7x3_2", 192, 1, 7),
        Conv("branch7x7x3_3", 192, 7, 1),
        _halving("branch7x7x3_4", 192),
    ),
)

STEM: tuple[tuple[Conv, ...], ...] = (
    (
        _halving("Conv2d_1a_3x3", 32),
        Conv("Conv2d_2a_3x3", 32, 3, 3, padded=False),
        Conv("Conv2d_2b_3x3", 64, 3, 3),
    ),
    (Conv("Conv2d_3b_1x1", 80, 1, 1), Conv("Conv2d_4a_3x3", 192, 3, 3, padded=False)),
)
"""A halving max pool follows each group."""


def mixed(pool: Pool, last_pool: Pool) -> tuple[Mix, ...]:
    """The blocks after the stem; `pool` is that of those which keep the size, but for the last."""
    return (
        _at_35("Mixed_5b", pool, 32),
        _at_35("Mixed_5c", pool, 64),
        _at_35("Mixed_5d", pool, 64),
        Mix("Mixed_6a", _TO_17, "halve"),
        _at_17("Mixed_6b", pool, 128),
        _at_17("Mixed_6c", pool, 160),
        _at_17("Mixed_6d", pool, 160),
        _at_17("Mixed_6e", pool, 192),
        Mix("Mixed_7a", _TO_8, "halve"),
        _at_8("Mixed_7b", pool),
        _at_8("Mixed_7c", last_pool),
    )


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, plan: Conv) -> None:
        super().__init__()
        padding = (plan.height // 2, plan.width // 2) if plan.padded else 0
        kernel = (plan.height, plan.width)
        self.conv = nn.Conv2d(inputs, plan.channels, kernel, stride=plan.stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(plan.channels, eps=0.001)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The next layer's input (N, channels, H', W'), 0 or more."""
        return F.relu_(self.bn(self.conv(x_NCHW)))


class MixedBlock(nn.Module):
    """The block that a `Mix` describes."""

    def __init__(self, inputs: int, plan: Mix) -> None:
        super().__init__()
        self.plan = plan
        self.outputs = 0
        for path in plan.paths:
            channels = inputs
            for step in path:
                convs = (step,) if isinstance(step, Conv) else step
                for conv in convs:
                    self.add_module(conv.name, ConvUnit(channels, conv))
                channels = sum(conv.channels for conv in convs)
            self.outputs += channels
        if plan.pool_channels:
            self.branch_pool = ConvUnit(inputs, Conv("branch_pool", plan.pool_channels, 1, 1))
        self.outputs += plan.pool_channels or inputs

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """All paths' outputs, joined: (N, outputs, H', W')."""
        outputs = [self._along(path, x_NCHW) for path in self.plan.paths]
        return torch.cat([*outputs, self._pooled(x_NCHW)], dim=1)

    def _along(self, path: ConvPath, x_NCHW: Tensor) -> Tensor:
        for step in path:
            convs = (step,) if isinstance(step, Conv) else step
            x_NCHW = torch.cat([self.get_submodule(conv.name)(x_NCHW) for conv in convs], dim=1)
        return x_NCHW

    def _pooled(self, x_NCHW: Tensor) -> Tensor:
        if self.plan.pool == "halve":
            return F.max_pool2d(x_NCHW, 3, stride=2)
        if self.plan.pool == "max":
            pooled = F.max_pool2d(x_NCHW, 3, stride=1, padding=1)
        else:
            counted = self.plan.pool == "average with padding"
            pooled = F.avg_pool2d(x_NCHW, 3, stride=1, padding=1, count_include_pad=counted)
        output: Tensor = self.branch_pool(pooled)
        return output


class InceptionV3(FeatureExtractor):
    """The network; a subclass says how pictures come to it.

    Args:
        name: as people type it.
        resize: what `prepared` does, in words.
        blocks: those after the stem.
        logits: K.
        logit_bias: whether logits have the last layer's bias.
    """

    has_maps = True

    def __init__(
        self, name: str, resize: str, blocks: tuple[Mix, ...], logits: int, *, logit_bias: bool
    ) -> None:
        super().__init__(name, FEATURES, resize=resize, has_logits=True)
        self.blocks = blocks
        self.logit_bias = logit_bias
        channels = 3
        for conv in (conv for group in STEM for conv in group):
            self.add_module(conv.name, ConvUnit(channels, conv))
            channels = conv.channels
        for mix in blocks:
            block = MixedBlock(channels, mix)
            self.add_module(mix.name, block)
            channels = block.outputs
        self.fc = nn.Linear(channels, logits)

    def prepared(self, x_N3HW: Tensor) -> Tensor:
        """Pictures (N, 3, SIZE, SIZE) as the weights were trained on, from float32 ones in 0..255."""
        raise NotImplementedError

    def forward(self, x_N3HW: Tensor) -> Features:
        """Features of uint8 RGB pictures of any size."""
        assert x_N3HW.dtype == torch.uint8, "pictures are uint8"
        last = deque(self._stages(x_N3HW.float()), maxlen=1).pop()  # the others are let go
        pooled_ND = last.mean((2, 3))
        return Features(
            pooled_ND, F.linear(pooled_ND, self.fc.weight, self.fc.bias if self.logit_bias else None)
        )

    def maps(self, x_N3HW: Tensor) -> Iterator[Tensor]:
        """What the stem's groups and the blocks make of pictures in [-1, 1]."""
        return self._stages((x_N3HW + 1) * 127.5)

    def _stages(self, x_N3HW: Tensor) -> Iterator[Tensor]:
        """The same of pictures in 0..255."""
        h = self.prepared(x_N3HW)
        for group in STEM:
            for conv in group:
                h = self.get_submodule(conv.name)(h)
            h = F.max_pool2d(h, 3, stride=2)
            yield h
        for mix in self.blocks:
            h = self.get_submodule(mix.name)(h)
            yield h
