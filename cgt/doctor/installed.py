"""The packages that cgt asks for, beside those that are installed."""

import importlib.metadata
import platform
from collections.abc import Iterable
from typing import Any

from cgt import __version__

EXTRAS = {
    "deepspeed": "training with DeepSpeed ZeRO",
    "dinov2": "features of DINOv2",
    "export": "ONNX files",
    "tensorboard": "logs for TensorBoard",
    "wandb": "logs for Weights & Biases",
    "mlflow": "logs for MLflow",
    "digits": "the built-in digits",
    "imagenet": "shards from ImageNet with the official devkit",
    "parquet": "shards from Parquet files and saved data sets",
    "jpeg": "JPEG shards read twice as fast",
    "s3": "shards on Amazon S3 and the like",
    "gs": "shards on Google Cloud Storage",
    "dev": "tests, lint and types",
}
"""What each extra of the package is for."""


def packages() -> dict[str, Any]:
    """The versions that the package's metadata asks for, beside those that are installed."""
    try:
        requirements = importlib.metadata.requires("cgt") or []
    except importlib.metadata.PackageNotFoundError:  # imported from a folder that nothing was installed from
        requirements = []
    needs = {extra: list(_needs(requirements, extra)) for extra in ("", *EXTRAS)}
    return {
        "cgt": __version__,
        "python": platform.python_version(),
        "packages": needs.pop(""),
        "extras": [
            {
                "name": extra,
                "for": EXTRAS[extra],
                "missing": [f"{need['name']}{need['wanted']}" for need in found if not need["fits"]],
            }
            for extra, found in needs.items()
        ],
    }


def _needs(requirements: Iterable[str], extra: str) -> Iterable[dict[str, Any]]:
    """What `extra` (or, for "", the core) asks for, and what there is of it."""
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        asked = marker is None or marker.evaluate({"extra": extra})
        asked_by_core = marker is None or marker.evaluate({"extra": ""})
        if not asked or (extra and asked_by_core):
            continue
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            installed = None
        fits = installed is not None and requirement.specifier.contains(installed, prereleases=True)
        yield {
            "name": requirement.name,
            "wanted": str(requirement.specifier),
            "installed": installed,
            "fits": fits,
        }
