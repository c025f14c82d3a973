"""The standard extractor: Inception-v3 of December 2015 as TensorFlow ran it.

Reproduces the PyTorch port that torch-fidelity calls "inception-v3-compat", and keeps its names of tensors:
the published weights file fits. What sets it apart from other Inceptions: a TF 1.x resize to 299 px, average
pools that leave the padding out, a max pool in the last block. The logits leave the bias out, as those behind
published Inception scores do.

Shapes: N pictures, H rows, W columns.
"""

from pathlib import Path
from typing import TypeVar

from torch import Tensor

from cgt import files
from cgt.metrics.features.inception import SIZE, InceptionV3, mixed
from cgt.metrics.features.resize import resize_tf1
from cgt.metrics.features.weights import WeightsFile

NAME = "inception-tf"
WEIGHTS = WeightsFile(
    what="Inception weights",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    megabytes=96,
    sha256="6726825d",
    other_names=("weights-inception-2015-12-05-6726825d.pth",),  # torch-fidelity's
)
LOGITS = 1008
RESIZE = "bilinear to 299 px as TensorFlow 1.x does it"


class InceptionTF(InceptionV3):
    """2048 pooled features, 1008 logits without bias."""

    def __init__(self, name: str = NAME, resize: str = RESIZE) -> None:
        super().__init__(name, resize, mixed("average", "max"), LOGITS, logit_bias=False)

    def prepared(self, x_N3HW: Tensor) -> Tensor:
        """From 0..255 to [-1, 1), resized."""
        return (self.resized(x_N3HW) - 128) / 128

    def resized(self, x_N3HW: Tensor) -> Tensor:
        """Pictures of SIZE px."""
        return resize_tf1(x_N3HW, SIZE)


Network = TypeVar("Network", bound=InceptionTF)


def with_weights(extractor: Network, source: Path | None) -> Network:
    """The extractor with the published weights, frozen.

    Raises:
        UserError: the file is not there, or holds other tensors than Inception's.
        RunError: it could not be fetched.
    """
    path = WEIGHTS.find(source)
    state = WEIGHTS.read(path)
    try:
        extractor.load_state_dict(state)
    except RuntimeError as error:
        raise WEIGHTS.misfit(path, error) from error
    extractor.frozen(files.sha256(path))
    return extractor


def load(source: Path | None) -> InceptionTF:
    """The extractor with the weights of the file `source`, or of torch's hub cache where none is named.

    Raises:
        UserError: the file is not there, or holds other tensors than Inception's.
        RunError: it could not be fetched.
    """
    return with_weights(InceptionTF(), source)
