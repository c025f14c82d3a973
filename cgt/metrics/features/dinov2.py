"""DINOv2 (Oquab et al., 2023): features that agree with people better than Inception's do, of any pictures.

Stein et al. ("Exposing flaws of generative model evaluation metrics", 2023) recommend ViT-L/14, and so does
this: the output for the class token after the last layer norm, of pictures brought to 224 px by an
antialiased bicubic filter. It needs `transformers`, the extra `dinov2`. Weights are a folder as the Hugging
Face hub has it (`config.json` and `model.safetensors`; any size of DINOv2), or the hub's cache.

Shapes: N pictures, H rows, W columns, D features.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from torch import Tensor

from cgt import files
from cgt.errors import RunError, UserError
from cgt.metrics.features.base import FeatureExtractor, Features
from cgt.metrics.features.resize import as_imagenet, resize_antialiased
from cgt.metrics.features.weights import DOWNLOAD, OPTION

if TYPE_CHECKING:
    from transformers import Dinov2Model

NAME = "dinov2"
REPOSITORY = "facebook/dinov2-large"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
MEGABYTES = 1220
SIZE = 224


class DinoV2(FeatureExtractor):
    """The class token's features; there is no classifier.

    Args:
        network: in any mode.
    """

    def __init__(self, network: "Dinov2Model") -> None:
        dim: int = network.config.hidden_size
        super().__init__(NAME, dim, resize=f"bicubic to {SIZE} px, antialiased")
        self.network = network

    def forward(self, x_N3HW: Tensor) -> Features:
        """Features of uint8 RGB pictures of any size."""
        pooled_ND: Tensor = self.network(as_imagenet(resize_antialiased(x_N3HW.float(), SIZE))).pooler_output
        return Features(pooled_ND)


def load(source: Path | None) -> DinoV2:
    """The extractor with the weights of the folder `source`, or of the hub's cache where none is named.

    Raises:
        UserError: transformers is not installed, there is no such folder, or it holds something else.
        RunError: the weights could not be fetched.
    """
    transformers = _transformers()
    folder = _folder(source)
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} has no {missing[0]}: {_get_it()}.")
    try:
        network, report = transformers.Dinov2Model.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        unfit = sorted({*report["missing_keys"], *map(str, report["mismatched_keys"])})
        if unfit:
            raise ValueError(f"it lacks {', '.join(unfit[:3])}")
    except Exception as error:  # transformers raises what it likes
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder} does not hold a DINOv2 network ({reason}): {_get_it()}.") from error
    extractor = DinoV2(network.float())  # it comes in the file's precision
    extractor.frozen(files.sha256(folder / WEIGHTS))
    return extractor


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"the extractor {NAME} needs transformers, which is not installed: run `pip install "
            "'cgt[dinov2]'`."
        ) from error
    return transformers


def _folder(source: Path | None) -> Path:
    if source is not None and (source != Path(DOWNLOAD) or source.exists()):
        return source
    fetch = source is not None
    try:
        folder = Path(
            snapshot_download(REPOSITORY, allow_patterns=[CONFIG, WEIGHTS], local_files_only=not fetch)
        )
    except Exception as error:  # of the hub's client, or of what it talks through
        if fetch:
            reason = " ".join(str(error).split())[:300]
            raise RunError(f"{REPOSITORY} can't be fetched ({reason}): {_get_it()}.") from error
        raise UserError(
            f"there are no weights of {REPOSITORY} in the Hugging Face cache: {_get_it()}, or fetch them "
            f"with {OPTION} {DOWNLOAD}."
        ) from error
    if fetch:
        _check(folder / WEIGHTS)
    return folder


def _check(file: Path) -> None:
    """Compare a fetched file with the SHA-256 that the hub gave: its name in the cache."""
    digest = file.resolve().name
    if re.fullmatch("[0-9a-f]{64}", digest) and files.sha256(file) != digest:
        raise RunError(
            f"{file} is damaged (its SHA-256 is not the hub's): remove it and run the command again."
        )


def _get_it() -> str:
    return (
        f"get {CONFIG} and {WEIGHTS} ({MEGABYTES:,} MB) from https://huggingface.co/{REPOSITORY} and give "
        f"their folder with {OPTION}"
    )
