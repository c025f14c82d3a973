"""The extractor of Clean-FID: `inception-tf` behind a resize that does not alias.

Parmar et al., "On Aliased Resizing and Surprising Subtleties in GAN Evaluation", CVPR 2022: pictures are
brought to 299 px by an antialiased bicubic filter, in floating point. Network and weights file are those of
`inception-tf`; the program of that paper runs them as TorchScript.

Shapes: N pictures, H rows, W columns.
"""

from pathlib import Path

from torch import Tensor

from cgt.metrics.features.inception import SIZE
from cgt.metrics.features.inception_tf import InceptionTF, with_weights
from cgt.metrics.features.resize import resize_antialiased

NAME = "clean"


class Clean(InceptionTF):
    """2048 pooled features, 1008 logits without bias."""

    def __init__(self) -> None:
        super().__init__(NAME, "bicubic to 299 px, antialiased")

    def resized(self, x_N3HW: Tensor) -> Tensor:
        """Pictures of SIZE px."""
        return resize_antialiased(x_N3HW, SIZE)


def load(source: Path | None) -> Clean:
    """The extractor with the weights of `inception-tf`.

    Raises:
        UserError: their file is not there, or holds other tensors than Inception's.
        RunError: it could not be fetched.
    """
    return with_weights(Clean(), source)
