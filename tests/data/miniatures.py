"""Tiny inputs in the layouts of the real ones, written by the tests that need them.

Shapes: P pictures.
"""

import io
import json
import pickle
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cgt.data.manifest import ShardFolder, open_shards
from cgt.data.write import BuildOptions, build_shards
from tests.data import miniature_imagenet

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


PLACES365_CATEGORIES = ("/a/airfield", "/a/alley", "/a/apartment_building/outdoor")


def places365_input(root: Path, categories: Sequence[str] = PLACES365_CATEGORIES) -> Path:
    """Lists and folders of all splits, with a picture of each category and a second of the first one."""
    draws = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    numbered = "".join(f"{name} {number}\n" for number, name in enumerate(categories))
    (root / "categories_places365.txt").write_text(numbered)
    train = [
        f"{name}/{i:08d}.jpg {number}\n"
        for number, name in enumerate(categories)
        for i in range(1, 2 if number else 3)
    ]
    val = ["Places365_val_00000001.jpg 1\n", "Places365_val_00000002.jpg 0\n"]
    for listing, lines in (("train_standard", train), ("train_challenge", train), ("val", val)):
        (root / f"places365_{listing}.txt").write_text("".join(lines))
        for size in ("large", "256"):
            folder = root / (f"val_{size}" if listing == "val" else listing.replace("train", f"data_{size}"))
            for line in lines:
                path = folder / line.split()[0].lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draws.integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(path)
    return root


def deny(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody open `path`, not even root, whom its permissions would not keep out."""
    opened = Path.open

    def refused(self: Path, *arguments: Any, **named: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", refused)


def parquet_input(root: Path) -> Path:
    """A folder as on the Hugging Face hub: two files of `train`, one of each other split, row groups of 2."""
    import pyarrow.parquet

    (root / "data").mkdir(parents=True, exist_ok=True)
    for split, files in (("train", 2), ("validation", 1), ("test", 1)):
        for i in range(files):
            table = picture_table([0, 1, 2, 1, 0], seed=len(split) + i)
            path = root / "data" / f"{split}-{i:05d}-of-{files:05d}.parquet"
            pyarrow.parquet.write_table(table, path, row_group_size=2)
    return root


def picture_table(labels: Sequence[int], *, seed: int = 0) -> Any:
    """A pyarrow table of random PNG pictures, with the metadata that `datasets` writes."""
    import pyarrow

    names = ["cat", "dog", "owl"]
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    draws = np.random.default_rng(seed)
    images = []
    for i in range(len(labels)):
        stream = io.BytesIO()
        Image.fromarray(draws.integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(stream, "png")
        images.append({"bytes": stream.getvalue(), "path": f"{i}.png"})
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    columns = {"image": pyarrow.array(images, kind), "label": pyarrow.array(labels, pyarrow.int64())}
    note = json.dumps({"info": {"features": features}})
    return pyarrow.table(columns).replace_schema_metadata({"huggingface": note})


def animalface_input(root: Path) -> Path:
    """As the archive unpacks: three animals, and the folder of landscapes."""
    folder_input(root / "Image", {"BearHead": 2, "CatHead": 2, "DogHead": 1, "Natural": 2})
    return root


INPUTS: dict[str, Callable[[Path], Path]] = {
    "animalface": animalface_input,
    "cifar10": cifar10_archive,
    "cifar100": cifar100_archive,
    "folder": folder_input,
    "imagenet": miniature_imagenet.official_input,
    "parquet": parquet_input,
    "places365": places365_input,
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
