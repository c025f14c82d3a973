"""Tiny inputs in the layouts of the real ones, written by the tests that need them.

Shapes: P pictures.
"""

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from cgt.data.manifest import ShardFolder, open_shards
from cgt.data.write import BuildOptions, build_shards

CIFAR10_CLASSES = [b"airplane", b"frog"]
CIFAR100_CLASSES = [b"apple", b"baby", b"bear"]


def folder_input(root: Path, classes: dict[str, int] | None = None, size: tuple[int, int] = (12, 8)) -> Path:
    """Class subfolders of random PNG pictures of `size` (width, height)."""
    draws = np.random.default_rng(0)
    for name, count in (classes or {"cat": 4, "dog": 3}).items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = draws.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def cifar_pixels(count: int, seed: int) -> np.ndarray:
    """(P, 3072) uint8: red, green and blue plane, as in the archive."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def cifar10_files() -> dict[str, dict[bytes, object]]:
    files = {f"data_batch_{i}": {b"data": cifar_pixels(2, i), b"labels": [i % 2, 1]} for i in range(1, 6)}
    files["test_batch"] = {b"data": cifar_pixels(2, 9), b"labels": [0, 1]}
    return {**files, "batches.meta": {b"label_names": CIFAR10_CLASSES}}


def cifar100_files() -> dict[str, dict[bytes, object]]:
    return {
        "meta": {b"fine_label_names": CIFAR100_CLASSES, b"coarse_label_names": [b"fruit", b"beings"]},
        "train": {b"data": cifar_pixels(6, 0), b"fine_labels": [2, 0, 1, 1, 0, 2], b"coarse_labels": [0] * 6},
        "test": {b"data": cifar_pixels(3, 1), b"fine_labels": [0, 1, 2], b"coarse_labels": [0] * 3},
    }


def write_archive(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    """A tar.gz of `folder` with `files`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def cifar10_archive(root: Path) -> Path:
    files = {name: pickle.dumps(content, protocol=2) for name, content in cifar10_files().items()}
    return write_archive(root / "cifar-10-python.tar.gz", "cifar-10-batches-py", files)


def cifar100_archive(root: Path) -> Path:
    files = {name: pickle.dumps(content, protocol=2) for name, content in cifar100_files().items()}
    return write_archive(root / "cifar-100-python.tar.gz", "cifar-100-python", files)


INPUTS: dict[str, Callable[[Path], Path]] = {
    "cifar10": cifar10_archive,
    "cifar100": cifar100_archive,
    "folder": folder_input,
}
"""For each source that needs an input, what writes a miniature of it into a folder and says where."""


def build_folder(
    root: Path, classes: dict[str, int] | None = None, *, shard_mb: float = 0.01, size: int = 8
) -> ShardFolder:
    """A shard folder at `root`/shards of random pictures; some 3 to a shard by default."""
    pictures = folder_input(root / "pictures", classes or {"cat": 7, "dog": 5, "owl": 4})
    out = root / "shards"
    build_shards(BuildOptions("folder", size=size, shard_mb=shard_mb), str(pictures), out)
    return open_shards(str(out))
