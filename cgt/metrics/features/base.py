"""What all extractors are, and how one is found.

Shapes: N pictures, H rows, W columns, D features, K classes of the classifier.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cgt import catalog
from cgt.errors import UserError
from cgt.metrics.rounding import without_tf32
from cgt.models.classifier import Classifier

PACKAGE = "cgt.metrics.features"
STANDARD = "inception-tf"


class Features(NamedTuple):
    """What an extractor makes of N pictures."""

    pooled_ND: Tensor
    """float32."""
    logits_NK: Tensor | None = None
    """float32; None where the extractor has no classifier."""


class FeatureExtractor(nn.Module):
    """A frozen network from pictures to features.

    Args:
        name: as people type it.
        dim: D.
        classes: names of the classifier's classes; None where it has no classifier, or one of no named
            classes.
        resolution: the picture size it was made for; None for any.
        has_logits: whether it has a classifier.
        resize: what it does to pictures of another size than its network's, in words.
    """

    has_maps = False
    """Whether it has `maps`."""
    classifier: Classifier | None
    """Of pictures in [-1, 1], where the extractor is one."""
    sha256: str
    """Of the weights file, hexadecimal: with the name it says which features a score is about."""

    def __init__(
        self,
        name: str,
        dim: int,
        *,
        classes: tuple[str, ...] | None = None,
        resolution: int | None = None,
        has_logits: bool = False,
        resize: str = "none",
    ) -> None:
        super().__init__()
        self.name = name
        self.dim = dim
        self.classes = classes
        self.resolution = resolution
        self.has_logits = has_logits
        self.resize = resize
        self.sha256 = ""
        self.register_module("classifier", None)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def protocol(self) -> dict[str, str]:
        """Which features these are, to stand beside every score: name, digest of the weights and resize.

        Scores compare, and features may be used again, where all of it is the same: extractors that differ in
        the resize alone share a weights file.
        """
        return {"name": self.name, "sha256": self.sha256, "resize": self.resize}

    def take(self, x_N3HW: Tensor) -> Features:
        """`forward` of pictures on any device, for measuring: on a GPU without TF32."""
        with without_tf32():
            features: Features = self(x_N3HW.to(self.device))
        return features

    def forward(self, x_N3HW: Tensor) -> Features:
        """Features of uint8 RGB pictures."""
        raise NotImplementedError

    def maps(self, x_N3HW: Tensor) -> Iterator[Tensor]:
        """What the network makes of pictures in [-1, 1], stage by stage from the picture on, (N, C, H', W')
        float32 of channels and sizes of the stage's own, with gradient to the pictures: what a perceptual
        distance compares.

        Only where `has_maps`.
        """
        raise NotImplementedError

    def frozen(self, sha256: str) -> "FeatureExtractor":
        """Itself in eval mode, taking no gradients, known by the digest of its weights file."""
        self.sha256 = sha256
        return self.eval().requires_grad_(False)


def load_extractor(
    name_or_folder: str = STANDARD, weights: str | None = None, device: torch.device | str = "cpu"
) -> FeatureExtractor:
    """The extractor of that name, or the one in that folder.

    Args:
        name_or_folder: a name of `catalog.names(PACKAGE)`, or a folder that `cgt features train` made.
        weights: the weights of a named extractor: a path, `download`, or None for the place where it looks by
            itself.
        device: where to put it.

    Raises:
        UserError: no such extractor or folder, or weights that are missing or don't fit.
        RunError: weights that could not be fetched.
    """
    folder = Path(name_or_folder)
    if not folder.is_dir():
        if "/" in name_or_folder:
            raise UserError(
                f"there is no folder {name_or_folder} to take features from: make one with `cgt features "
                "train SHARDS OUT`."
            )
        module = catalog.load(PACKAGE, name_or_folder, kind="feature extractor")
        source = Path(weights) if weights is not None else None
    elif weights is not None:
        raise UserError(
            f"the folder {folder} holds weights of its own, so weights ({weights}) can't be given too: "
            "leave one out."
        )
    else:
        module, source = catalog.load(PACKAGE, _name_in(folder), kind="feature extractor"), folder
    extractor: FeatureExtractor = module.load(source)
    return extractor.to(device)


def _name_in(folder: Path) -> str:
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["extractor"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"the folder {folder} holds no feature extractor (no config.json that names one): give a folder "
            "that `cgt features train` made, or the name of an extractor."
        ) from None
