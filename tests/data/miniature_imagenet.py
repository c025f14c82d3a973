"""Tiny ImageNets in each of its layouts."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = {
    "n01440764": "tench, Tinca tinca",
    "n02012849": "crane",
    "n02113186": "Cardigan, Cardigan Welsh corgi",
    "n02963159": "cardigan",
    "n03126707": "crane",
}
NAMES = ("tench", "crane-n02012849", "Cardigan-n02113186", "cardigan-n02963159", "crane-n03126707")
NUMBERS = dict(zip(CLASSES, (449, 383, 5, 1000, 12), strict=True))
"""Of each class in the ground truth: not in the order of the wnids."""
VAL = ("n02963159", "n01440764", "n03126707", "n02113186", "n02012849", "n01440764")
"""The classes of the validation pictures, in order."""
DEVKIT = "ILSVRC2012_devkit_t12"


def train_files() -> dict[str, bytes]:
    """By path: two pictures of each class, which sort otherwise by number than by name."""
    return {f"{wnid}/{wnid}_{i}.JPEG": jpeg(f"{wnid} {i}") for wnid in CLASSES for i in (9, 10)}


def val_files() -> dict[str, bytes]:
    return {f"ILSVRC2012_val_{n:08d}.JPEG": jpeg(f"val {n}") for n in range(1, len(VAL) + 1)}


def jpeg(text: str) -> bytes:
    """A picture that depends on the text."""
    pixels = np.random.default_rng(list(text.encode())).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "jpeg")
    return stream.getvalue()


def tar(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    """A tar file with these members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def train_tar() -> bytes:
    """The tar of tars, none of them in the order of the names."""
    inner: dict[str, dict[str, bytes]] = {}
    for path, content in train_files().items():
        wnid, name = path.split("/")
        inner.setdefault(wnid, {})[name] = content
    return tar({f"{wnid}.tar": tar(content) for wnid, content in reversed(inner.items())})


def meta_mat(classes: Mapping[str, str] = CLASSES) -> bytes:
    """The devkit's, with a synset that is no class but what some are kinds of."""
    import scipy.io

    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "f8")]
    rows = [(NUMBERS.get(wnid, 1), wnid, words, "a thing", 0) for wnid, words in classes.items()]
    rows.append((1001, "n00001740", "entity", "that which is", 2))
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"synsets": np.array(rows, kinds).reshape(-1, 1)})
    return stream.getvalue()


def ground_truth() -> bytes:
    return "".join(f"{NUMBERS[wnid]}\n" for wnid in VAL).encode()


def devkit() -> dict[str, bytes]:
    return {
        f"{DEVKIT}/data/meta.mat": meta_mat(),
        f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt": ground_truth(),
    }


def solution() -> bytes:
    """Kaggle's LOC_val_solution.csv, in an order of its own."""
    lines = [f"ILSVRC2012_val_{n:08d},{wnid} 85 1 499 272 " for n, wnid in enumerate(VAL, 1)]
    return "\n".join(["ImageId,PredictionString", *reversed(lines), ""]).encode()


def synset_mapping(classes: Mapping[str, str] = CLASSES, separator: str = " ") -> bytes:
    return "".join(f"{wnid}{separator}{words}\n" for wnid, words in classes.items()).encode()


def put(root: Path, files: Mapping[str, bytes], below: str = "") -> Path:
    """Write files by their paths."""
    for name, content in files.items():
        path = root / below / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def official_input(root: Path) -> Path:
    """The folder of the archives as they are published."""
    archives = {
        "ILSVRC2012_img_train.tar": train_tar(),
        "ILSVRC2012_img_val.tar": tar(val_files()),
        f"{DEVKIT}.tar.gz": tar(devkit(), "w:gz"),
    }
    return put(root, archives)


def kaggle_input(root: Path) -> Path:
    """What Kaggle's archive unpacks to."""
    put(root, train_files(), "ILSVRC/Data/CLS-LOC/train")
    put(root, val_files(), "ILSVRC/Data/CLS-LOC/val")
    return put(root, {"LOC_val_solution.csv": solution(), "LOC_synset_mapping.txt": synset_mapping()})
