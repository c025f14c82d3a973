"""The official CIFAR archives, "python version": tar files of pickled dictionaries.

A pickle can run any code, so these are read by an unpickler that knows stand-ins for the names that occur in
them (an array, its dtype, its constructor, and the `encode` that spells bytes) and refuses every other.

Shapes: P pictures of a file.
"""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cgt.data.sources import Picture, Request, Source
from cgt.errors import UserError

SIDE = 32
"""Pixels."""


@dataclass(frozen=True)
class Layout:
    """What one archive calls its parts."""

    folder: str
    meta: str
    """The file with the class names,"""
    names: bytes
    """under this key."""
    labels: bytes
    batches: Mapping[str, tuple[str, ...]]
    """The files of each split."""


def read_archive(layout: Layout, request: Request) -> Source:
    """The pictures of a split ("all": of all splits in turn).

    Raises:
        UserError: a file of the archive is missing, damaged, or holds something else than a CIFAR batch.
    """
    assert request.path is not None
    splits = list(layout.batches) if request.split == "all" else [request.split]
    files = [file for split in splits for file in layout.batches[split]]
    contents = _contents(request.path, layout, [layout.meta, *files])
    digest = hashlib.sha256()
    for content in contents.values():
        digest.update(content)

    meta = unpickled(contents[layout.meta], f"{request.path}: {layout.meta}")
    try:
        classes = tuple(name.decode() for name in meta[layout.names])
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError):
        raise _unlike(request.path, layout.meta, layout) from None
    pictures = []
    for file in files:
        pixels_PHW3, labels = _batch(request.path, file, contents.pop(file), layout, len(classes))
        for i, label in enumerate(labels):
            pictures.append(Picture(f"{file}-{i:05d}", classes[label], pixels_PHW3[i]))
    return Source(classes, pictures, Image.fromarray, digest.hexdigest())


def unpickled(content: bytes, place: str) -> Any:
    """The dictionary in a CIFAR pickle, its keys `bytes` as Python 2 wrote them; the file runs no code.

    Raises:
        UserError: the pickle is damaged, or asks for anything that a CIFAR pickle has no use for.
    """
    try:
        return _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except UserError as error:
        raise UserError(f"{place} is refused: {error}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{place} is damaged ({error}): fetch the archive again.") from None


def _batch(
    path: Path, file: str, content: bytes, layout: Layout, classes: int
) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Pixels (P, 32, 32, 3) and labels of one file."""
    batch = unpickled(content, f"{path}: {file}")
    try:
        pixels, labels = batch[b"data"].pixels, batch[layout.labels]
        pixels_P3HW = pixels.reshape(len(labels), 3, SIDE, SIDE)
        fine = all(isinstance(label, int) and 0 <= label < classes for label in labels)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise _unlike(path, file, layout) from None
    if not fine:
        raise _unlike(path, file, layout)
    return np.ascontiguousarray(pixels_P3HW.transpose(0, 2, 3, 1)), labels


def _unlike(path: Path, file: str, layout: Layout) -> UserError:
    return UserError(
        f"{file} in {path} is not a file of the official {layout.folder} archive: fetch the archive again."
    )


def _contents(path: Path, layout: Layout, files: list[str]) -> dict[str, bytes]:
    """The bytes of `files`, by name, out of an archive or an extracted folder.

    Raises:
        UserError: it is neither, or a file is missing.
    """
    try:
        found = dict(_of_folder(path, layout, files) if path.is_dir() else _of_archive(path, files))
    except MemoryError:
        raise
    except Exception as error:  # tarfile raises whatever a damaged header leads it to
        raise UserError(f"{path} can't be read as an archive ({error}): fetch it again.") from error
    missing = [file for file in files if file not in found]
    if missing:
        raise UserError(f"{path} has no {missing[0]}: give the official {layout.folder} archive or folder.")
    return {file: found[file] for file in files}


def _of_folder(path: Path, layout: Layout, files: list[str]) -> Iterator[tuple[str, bytes]]:
    inner = path / layout.folder
    for file in files:
        place = (inner if inner.is_dir() else path) / file
        if place.is_file():
            yield file, place.read_bytes()


def _of_archive(path: Path, files: list[str]) -> Iterator[tuple[str, bytes]]:
    left = set(files)
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if member.isfile() and name in left:
                stream = archive.extractfile(member)
                assert stream is not None
                yield name, stream.read()
                left.remove(name)
            if not left:
                return


class _Pixels:
    """Stands for the array in a pickle: takes its bytes, and lets numpy's own reconstruction alone."""

    pixels: npt.NDArray[np.uint8]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, _, fortran, content = state
        self.pixels = np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """Stands for the array's dtype, which can only be uint8."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        if code not in ("u1", b"u1"):
            raise UserError(f"it holds an array of {code!r}, where CIFAR has uint8 only.")

    def __setstate__(self, state: object) -> None:
        """The byte order, which uint8 has none of."""


def _reconstruct(*_: object) -> _Pixels:
    return _Pixels()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise UserError(f"it spells bytes in {encoding!r}, where CIFAR pickles use latin1 only.")
    return text.encode("latin1")


_STAND_INS = {
    ("numpy", "ndarray"): _Pixels,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise UserError(
                f"it asks to run {module}.{name}, which no CIFAR archive does. Nothing of it was run; "
                "fetch the archive from its official site."
            )
        return _STAND_INS[module, name]
