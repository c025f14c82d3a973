"""A small convolutional classifier of one's own pictures: the extractor that `cgt features train` makes.

On small pictures it tells good from bad sooner than Inception does, in a thousandth of the time; its scores
compare only with scores over the same weights. The network is `cgt.models.classifier`.

Folder: `config.json` (classes, resolution, widths, accuracies, how it was trained, digest) and
`model.safetensors`.

Shapes: N pictures, C features, H rows, W columns, K classes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
from pydantic import Field, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cgt import files, images
from cgt.config import Section
from cgt.errors import UserError
from cgt.metrics.features.base import FeatureExtractor, Features
from cgt.models.classifier import Classifier

NAME = "cnn"
FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
KIND = files.FolderKind("the folder of a feature extractor", (CONFIG, WEIGHTS))


class CnnDescription(Section):
    """What `config.json` holds beside the format version, the extractor's name and the digest."""

    classes: tuple[str, ...]
    resolution: int
    widths: tuple[int, ...] = Field(min_length=1)
    """Channels of each stage; the last is the number of features."""
    training_accuracy: float
    held_out_accuracy: float
    """Share of pictures of the same classes, none of them trained on, that are named rightly."""
    provenance: dict[str, Any]


class SmallCnn(FeatureExtractor):
    """The classifier; made untrained, trained by `cnn_training`.

    Args:
        classes: K names.
        resolution: R in pixels.
        widths: channels of each stage; every stage but the last halves the size.
    """

    has_maps = True
    classifier: Classifier

    def __init__(self, classes: tuple[str, ...], resolution: int, widths: tuple[int, ...]) -> None:
        super().__init__(NAME, widths[-1], classes=classes, resolution=resolution, has_logits=True)
        self.widths = widths
        self.classifier = Classifier(widths, len(classes))

    def forward(self, x_N3HW: Tensor) -> Features:
        """Features of uint8 RGB pictures; in training mode with gradient to the weights."""
        pooled_NC = self.classifier.features(images.to_float(x_N3HW))
        return Features(pooled_NC, self.classifier.classifier(pooled_NC))

    def maps(self, x_N3HW: Tensor) -> Iterator[Tensor]:
        """What the stages make of pictures in [-1, 1]."""
        return self.classifier.maps(x_N3HW)


def save(folder: Path, extractor: SmallCnn, description: CnnDescription) -> None:
    """Write the extractor's folder whole, replacing what is there."""
    with files.replacing_folder(folder) as temporary:
        save_file(extractor.classifier.state_dict(), temporary / WEIGHTS)
        head = {"format_version": FORMAT, "extractor": NAME, "sha256": files.sha256(temporary / WEIGHTS)}
        files.write_json(temporary / CONFIG, head | description.model_dump(mode="json"))


def load(source: Path | None) -> SmallCnn:
    """The extractor in the folder `source`.

    Raises:
        UserError: no folder is named, or it does not hold what `save` wrote.
    """
    if source is None:
        raise UserError(
            f"the extractor {NAME} is a folder of its own: make one with `cgt features train SHARDS OUT`, "
            "and name that folder."
        )
    try:
        content = json.loads((source / CONFIG).read_text(encoding="utf-8"))
        version, digest = content.pop("format_version"), content.pop("sha256")
        content.pop("extractor")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{source / CONFIG} can't be read as a feature extractor's ({error}): train it again."
        ) from error
    if version != FORMAT:
        raise UserError(
            f"{source} has format version {version}, and this program reads {FORMAT}: train the extractor "
            "again."
        )
    try:
        description = CnnDescription.model_validate(content)
        if files.sha256(source / WEIGHTS) != digest:
            raise ValueError(f"the SHA-256 of {WEIGHTS} is not the one in {CONFIG}")
        extractor = SmallCnn(description.classes, description.resolution, description.widths)
        extractor.classifier.load_state_dict(load_file(source / WEIGHTS))
    except PermissionError as error:
        raise UserError(f"{source} can't be read ({error.strerror}): check its permissions.") from error
    except (OSError, ValueError, RuntimeError, ValidationError, safetensors.SafetensorError) as error:
        raise UserError(f"the feature extractor in {source} is damaged ({error}): train it again.") from error
    extractor.frozen(digest)
    return extractor
