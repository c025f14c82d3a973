"""The resizes of published protocols: scores of one do not compare with scores of another.

Shapes: N pictures, C channels, H rows, W columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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


def resize_antialiased(x_NCHW: Tensor, size: int) -> Tensor:
    """Bicubic resize to size x size as Pillow does it to float pictures, cut off at 0 and 255.

    The filter grows with the picture, so that a smaller one holds no aliases (Parmar et al., "On Aliased
    Resizing and Surprising Subtleties in GAN Evaluation", 2022).
    """
    resized = F.interpolate(x_NCHW, (size, size), mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp(0, 255)


def as_imagenet(x_N3HW: Tensor) -> Tensor:
    """Pictures in 0..255 as networks trained on ImageNet take them: less its mean, over its deviation."""
    mean_3, std_3 = (x_N3HW.new_tensor(values) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (x_N3HW / 255 - mean_3[:, None, None]) / std_3[:, None, None]
