"""Statistics of real pictures, kept in a file in place of the pictures: enough for Frechet distances.

    NAME.safetensors    mean (D,) and covariance (D, D), float64, and in its metadata what they are of
    NAME.npz            mu and sigma, as pytorch-fid and others publish them; nothing says of what

Shapes: D features.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cgt.data import DataConfig, Pictures, open_pictures
from cgt.data.selection import Classes
from cgt.errors import UserError
from cgt.files import replacing_file, sha256
from cgt.metrics.features.base import FeatureExtractor
from cgt.metrics.gaussian import Gaussian

SUFFIXES = frozenset({".safetensors", ".npz"})
FORMAT = 1


@dataclass(frozen=True)
class About:
    """What statistics are of."""

    pictures: int
    classes: tuple[str, ...]
    resolution: int
    """Pixels."""
    data_sha256: str
    features: dict[str, str]
    """`FeatureExtractor.protocol`."""


@dataclass(frozen=True)
class Statistics:
    """A gaussian fitted to the features of real pictures."""

    gaussian: Gaussian
    digest: str
    """SHA-256 of the file."""
    about: About | None
    """None where the file does not say."""

    def check(self, extractor: FeatureExtractor, classes: Sequence[str]) -> None:
        """Refuse features that these statistics are not of, and other classes.

        Raises:
            UserError: naming both.
        """
        dim = self.gaussian.mean_D.numel()
        if dim != extractor.dim:
            raise UserError(
                f"the statistics are of {dim} features, and {extractor.name} gives {extractor.dim}: name the "
                "extractor that they were made with."
            )
        if self.about is None:
            return
        if self.about.features != extractor.protocol:
            raise UserError(
                f"the statistics are of the features {_told(self.about.features)}, and these are "
                f"{_told(extractor.protocol)}: name the extractor that they were made with, or make them "
                "again with `cgt eval --save-stats`."
            )
        if set(self.about.classes) != set(classes):
            raise UserError(
                f"the statistics are of the classes {', '.join(self.about.classes)} together, and those "
                f"measured are {', '.join(classes)}: measure the same ones, or make statistics of these with "
                "`cgt eval --save-stats`."
            )


def save_statistics(path: Path, gaussian: Gaussian, about: About) -> None:
    """Write NAME.safetensors, whole or not at all."""
    factor = gaussian.factor_RD
    covariance = gaussian.covariance_DD if factor is None else factor.T @ factor
    assert covariance is not None, "a gaussian has one of the two"
    tensors = {"mean": gaussian.mean_D.cpu(), "covariance": covariance.cpu().contiguous()}
    metadata = {"format": str(FORMAT), "about": json.dumps(asdict(about))}
    with replacing_file(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_statistics(path: Path) -> Statistics:
    """Read either kind of file; nothing in it is executed.

    Raises:
        UserError: no such file, another kind of file, a damaged one, or numbers that are no statistics.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path} with statistics: `cgt eval --save-stats` writes one.")
    try:
        mean, covariance, about = (_published if path.suffix == ".npz" else _own)(path)
    except (SafetensorError, OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} holds no statistics ({str(error) or type(error).__name__}): give what `cgt eval "
            "--save-stats` wrote, or an .npz with mu and sigma."
        ) from None
    mean, covariance = mean.double(), covariance.double()
    dim = mean.numel()
    if mean.dim() != 1 or covariance.shape != (dim, dim):
        raise UserError(
            f"{path} has a mean of shape {tuple(mean.shape)} and a covariance of shape "
            f"{tuple(covariance.shape)}, which don't go together."
        )
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise UserError(f"{path} has values that are not finite (NaN or infinity).")
    return Statistics(Gaussian(mean, covariance_DD=covariance), sha256(path), about)


def _told(features: Mapping[str, str]) -> str:
    return f"{features['name']} {features['sha256'][:12]} (resize: {features['resize']})"


def _own(path: Path) -> tuple[Tensor, Tensor, About]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        version = metadata.get("format", "none")
        if version != str(FORMAT):
            raise ValueError(f"its format is {version}, and this version of cgt reads {FORMAT}")
        about = json.loads(metadata["about"])
        about["classes"] = tuple(about["classes"])
        return file.get_tensor("mean"), file.get_tensor("covariance"), About(**about)


def _published(path: Path) -> tuple[Tensor, Tensor, None]:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no .npz")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["mu"]), torch.from_numpy(arrays["sigma"]), None
    except ValueError as error:
        if "pickle" in str(error):  # numpy would have people allow it
            raise ValueError("it has pickled objects, which could run any program") from None
        raise


def open_reference(data: str, classes: Classes = None) -> Pictures | Statistics:
    """What generated pictures are compared with: shards or, by its suffix, a file of statistics.

    Args:
        data: a shard folder, its URL, or a file.
        classes: of the shards, as `DataConfig` takes them.

    Raises:
        UserError: neither, or classes that are not in the shards.
        RunError: a URL can't be read.
    """
    path = Path(data)
    if path.suffix in SUFFIXES and not path.is_dir():
        return load_statistics(path)
    return open_pictures(DataConfig(shards=data, classes=classes))
