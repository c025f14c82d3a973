"""The standard extractor: Inception-v3 of December 2015 as TensorFlow ran it.

Reproduces the PyTorch port that torch-fidelity calls "inception-v3-compat", and keeps its names of tensors:
the published weights file fits. What sets it apart from other Inceptions: a TF 1.x resize to 299 px, average
pools that leave the padding out, a max pool in the last block. The logits leave the bias out, as those behind
published Inception scores do.

The network is data: `STEM` and `MIXED` below list its convolutions.

Shapes: N pictures, C channels, H rows, W columns.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgt import files
from cgt.errors import UserError
from cgt.metrics.features.base import FeatureExtractor, Features

NAME = "inception-tf"
WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
SAME_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
"""The name under which torch-fidelity publishes the same file."""
SIZE = 299
FEATURES = 2048
LOGITS = 1008


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


class Mix(NamedTuple):
    """Parallel paths whose outputs are joined, the pool's last."""

    name: str
    paths: tuple[ConvPath, ...]
    pool: Literal["average", "max", "halve"]
    pool_channels: int = 0
    """Of the 1x1 convolution after the pool; 0 for none."""


def _halving(name: str, channels: int) -> Conv:
    return Conv(name, channels, 3, 3, stride=2, padded=False)


def _at_35(name: str, pool_channels: int) -> Mix:
    paths: tuple[ConvPath, ...] = (
        (Conv("branch1x1", 64, 1, 1),),
        (Conv("branch5x5_1", 48, 1, 1), Conv("branch5x5_2", 64, 5, 5)),
        (
            Conv("branch3x3dbl_1", 64, 1, 1),
            Conv("branch3x3dbl_2", 96, 3, 3),
            Conv("branch3x3dbl_3", 96, 3, 3),
        ),
    )
    return Mix(name, paths, "average", pool_channels)


def _at_17(name: str, c: int) -> Mix:
    rows = [(1, 1), (7, 1), (1, 7), (7, 1), (1, 7)]
    double = [Conv(f"branch7x7dbl_{i + 1}", 192 if i == 4 else c, *kernel) for i, kernel in enumerate(rows)]
    paths: tuple[ConvPath, ...] = (
        (Conv("branch1x1", 192, 1, 1),),
        (Conv("branch7x7_1", c, 1, 1), Conv("branch7x7_2", c, 1, 7), Conv("branch7x7_3", 192, 7, 1)),
        tuple(double),
    )
    return Mix(name, paths, "average", 192)


def _at_8(name: str, pool: Literal["average", "max"]) -> Mix:
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

MIXED: tuple[Mix, ...] = (
    _at_35("Mixed_5b", 32),
    _at_35("Mixed_5c", 64),
    _at_35("Mixed_5d", 64),
    Mix("Mixed_6a", _TO_17, "halve"),
    _at_17("Mixed_6b", 128),
    _at_17("Mixed_6c", 160),
    _at_17("Mixed_6d", 160),
    _at_17("Mixed_6e", 192),
    Mix("Mixed_7a", _TO_8, "halve"),
    _at_8("Mixed_7b", "average"),
    _at_8("Mixed_7c", "max"),
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
            pooled = F.avg_pool2d(x_NCHW, 3, stride=1, padding=1, count_include_pad=False)
        output: Tensor = self.branch_pool(pooled)
        return output


class InceptionTF(FeatureExtractor):
    """Inception-v3 under the published file's names: 2048 pooled features, 1008 logits without bias."""

    def __init__(self) -> None:
        super().__init__(NAME, FEATURES, has_logits=True)
        channels = 3
        for conv in (conv for group in STEM for conv in group):
            self.add_module(conv.name, ConvUnit(channels, conv))
            channels = conv.channels
        for mix in MIXED:
            block = MixedBlock(channels, mix)
            self.add_module(mix.name, block)
            channels = block.outputs
        self.fc = nn.Linear(channels, LOGITS)

    def forward(self, x_N3HW: Tensor) -> Features:
        """Features of uint8 RGB pictures of any size."""
        assert x_N3HW.dtype == torch.uint8, "pictures are uint8"
        last = deque(self._stages(x_N3HW.float()), maxlen=1).pop()  # the others are let go
        pooled_ND = last.mean((2, 3))
        return Features(pooled_ND, F.linear(pooled_ND, self.fc.weight))

    def maps(self, x_N3HW: Tensor) -> Iterator[Tensor]:
        """What the stem's groups and the blocks make of pictures in [-1, 1]."""
        return self._stages((x_N3HW + 1) * 127.5)

    def _stages(self, x_N3HW: Tensor) -> Iterator[Tensor]:
        """The same of pictures in 0..255."""
        h = (resize_tf1(x_N3HW, SIZE) - 128) / 128
        for group in STEM:
            for conv in group:
                h = self.get_submodule(conv.name)(h)
            h = F.max_pool2d(h, 3, stride=2)
            yield h
        for mix in MIXED:
            h = self.get_submodule(mix.name)(h)
            yield h


def resize_tf1(x_NCHW: Tensor, size: int) -> Tensor:
    """Bilinear resize to size x size as TensorFlow 1.x does it: output i is at i * H / size, no half pixels.

    Neither of torch's conventions is this one; published Inception features depend on it.
    """
    for dim in (3, 2):  # columns before rows, as TensorFlow rounds
        low_index, high_index, weight = _taps(x_NCHW.shape[dim], size, x_NCHW.device)
        low, high = x_NCHW.index_select(dim, low_index), x_NCHW.index_select(dim, high_index)
        x_NCHW = low + (high - low) * (weight if dim == 3 else weight[:, None])
    return x_NCHW


def _taps(inputs: int, outputs: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For every output: the two inputs around it (the last twice at the far end) and the second's weight."""
    position = torch.arange(outputs, device=device, dtype=torch.float32) * (inputs / outputs)
    low = position.long()
    return low, (low + 1).clamp_max(inputs - 1), position - low


def load(source: Path | None) -> InceptionTF:
    """The extractor with the weights of the file `source`, or of torch's hub cache where none is named.

    Raises:
        UserError: the file is not there, or holds other tensors than Inception's.
    """
    path = source if source is not None else _in_hub_cache()
    if not path.is_file():
        raise UserError(
            f"there is no Inception weights file {path}: get {WEIGHTS} (96 MB) from "
            "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights and give its path with "
            f"--weights (in a config: eval.weights), or put it into {_hub_cache()}. Features of your own "
            "pictures need no download: `cgt features train SHARDS OUT`."
        )
    extractor = InceptionTF()
    try:
        extractor.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # what torch.load raises on a file of another kind has no common type
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{path} does not hold the Inception weights that {WEIGHTS} does ({reason}): give that file."
        ) from error
    extractor.frozen(files.sha256(path))
    return extractor


def _in_hub_cache() -> Path:
    candidates: Sequence[Path] = [_hub_cache() / name for name in (WEIGHTS, SAME_WEIGHTS)]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _hub_cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"
