"""The extractor behind the paper's numbers and BigGAN-PyTorch's: torchvision's Inception-v3.

The protocol is that of BigGAN-PyTorch's `inception_utils.py`: mean and standard deviation of ImageNet,
bilinear resize to 299 px with aligned corners, features from the mean over the last block, logits with bias.
Weights and pools differ from `inception-tf`, so scores of the two do not compare. Where that program takes a
generator's floating-point pictures, here all pictures are 8-bit, as files would be.

Shapes: N pictures, H rows, W columns.
"""

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from cgt import files
from cgt.metrics.features.inception import SIZE, InceptionV3, mixed
from cgt.metrics.features.resize import as_imagenet
from cgt.metrics.features.weights import WeightsFile

NAME = "inception-torchvision"
WEIGHTS = WeightsFile(
    what="torchvision Inception weights",
    url="https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
    megabytes=104,
    sha256="0cc3c7bd",
    other_names=("inception_v3_google-1a9a5a14.pth",),  # what torchvision published before
)
LOGITS = 1000
TRAINING_ONLY = "AuxLogits."
"""Tensors of a second classifier, which the features have no part of."""


class InceptionTorchvision(InceptionV3):
    """2048 pooled features, 1000 logits: ImageNet's classes, in torchvision's order."""

    def __init__(self) -> None:
        blocks = mixed("average with padding", "average with padding")
        resize = "bilinear to 299 px with aligned corners"
        super().__init__(NAME, resize, blocks, LOGITS, logit_bias=True)

    def prepared(self, x_N3HW: Tensor) -> Tensor:
        """Normalised, then resized."""
        return F.interpolate(as_imagenet(x_N3HW), (SIZE, SIZE), mode="bilinear", align_corners=True)


def load(source: Path | None) -> InceptionTorchvision:
    """The extractor with the weights of the file `source`, or of torch's hub cache where none is named.

    Raises:
        UserError: the file is not there, or holds other tensors than Inception's.
        RunError: it could not be fetched.
    """
    path = WEIGHTS.find(source)
    state = WEIGHTS.read(path)
    extractor = InceptionTorchvision()
    try:
        extractor.load_state_dict(
            {name: tensor for name, tensor in state.items() if not name.startswith(TRAINING_ONLY)}
        )
    except RuntimeError as error:
        raise WEIGHTS.misfit(path, error) from error
    extractor.frozen(files.sha256(path))
    return extractor
