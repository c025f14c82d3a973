"""One's own pictures: a folder with one subfolder a class, which may have subfolders in turn."""

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from cgt.data.sources import Picture, Request, Source
from cgt.errors import UserError

INPUT = "a folder with one subfolder of pictures (png, jpg, webp, bmp) for each class"
SPLITS = ("all",)
SIZE = 128
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


def read(request: Request) -> Source:
    """Every picture file of every class, sorted.

    Hidden files are passed over, and so are those of other suffixes, which the remark counts.

    Raises:
        UserError: the input is no folder or has no subfolders, or a link in it leads elsewhere.
    """
    assert request.path is not None
    if not request.path.is_dir():
        raise UserError(f"{request.path} is not a folder: the input of folder is {INPUT}.")
    root = request.path.resolve()
    classes = [entry for entry in _sorted(root) if _inside(entry, root).is_dir()]
    if not classes:
        raise UserError(f"{request.path} has no subfolders: the input of folder is {INPUT}.")
    fingerprint = hashlib.sha256()
    pictures = []
    others: Counter[str] = Counter()
    for folder in classes:
        for file in _files(folder, root):
            if file.suffix.lower() not in SUFFIXES:
                others[file.suffix.lower() or "without a suffix"] += 1
                continue
            status = file.stat()
            relative = file.relative_to(root).as_posix()
            fingerprint.update(f"{relative}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
            pictures.append(Picture(_key(relative), folder.name, relative))
    return Source(
        tuple(folder.name for folder in classes),
        pictures,
        functools.partial(_load, root),
        fingerprint.hexdigest(),
        remark=_passed_over(others),
    )


def _passed_over(others: Counter[str]) -> str | None:
    if not others:
        return None
    files = "1 file" if others.total() == 1 else f"{others.total():,} files"
    listed = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(others.items()))
    return f"passed over {files} of other kinds than {', '.join(sorted(SUFFIXES))}: {listed}."


def _files(folder: Path, root: Path) -> Iterator[Path]:
    for entry in _sorted(folder):
        if _inside(entry, root).is_dir():
            yield from _files(entry, root)
        else:
            yield entry


def _sorted(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _inside(entry: Path, root: Path) -> Path:
    """`entry`, unless it is a link to a folder (which may lead in a circle) or out of `root`."""
    if entry.is_symlink():
        target = entry.resolve()
        if target.is_dir() or not target.is_relative_to(root):
            raise UserError(f"{entry} is a link to {target}, which is not followed: put a copy in its place.")
    return entry


def _key(relative: str) -> str:
    """A short name that tells where the picture came from, without dots: webdataset splits names there."""
    words = re.sub("[^A-Za-z0-9]+", "-", relative.rpartition(".")[0]).strip("-")[-60:]
    return f"{words}-{hashlib.blake2b(relative.encode(), digest_size=6).hexdigest()}"


def _load(root: Path, relative: str) -> Image.Image:
    file = root / relative
    try:
        with Image.open(file) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise UserError(f"{file} can't be read, it is no picture: take it out.") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise UserError(f"{file} can't be read ({error}): repair it, or take it out.") from error
