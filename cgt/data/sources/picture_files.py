"""Picture files: finding them in a folder, naming them, and opening them."""

import contextlib
import hashlib
import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from cgt.errors import UserError

MAX_PIXELS = 2**27
"""Larger pictures are refused: a file of a few kilobytes can claim a size that fills the memory."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What is decoded, whatever a file's suffix says. Pillow knows more, for some of which it runs programs."""
_LONGEST_KEY = 80


class File(NamedTuple):
    """A file found in a folder."""

    relative: str
    """Its path from that folder, with forward slashes."""
    size: int
    """Bytes."""
    changed: int
    """Time of the last change, nanoseconds."""

    @property
    def suffix(self) -> str:
        """In lower case, with its dot; empty for a file that has none."""
        return os.path.splitext(self.relative)[1].lower()  # noqa: PTH122 - Path is slow, and files are many

    @property
    def stem(self) -> str:
        """The file's own name without the suffix."""
        return os.path.splitext(self.relative.rpartition("/")[2])[0]  # noqa: PTH122

    @property
    def mark(self) -> bytes:
        """What a fingerprint takes of the file: it changes when the file does."""
        return os.fsencode(f"{self.relative}\n{self.size}\n{self.changed}\n")


class Keys:
    """Gives the pictures of a source their keys, all different."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def key(self, stem: str, relative: str) -> str:
        """`stem` if it will do as a key and is not taken yet, else one that is made of `relative`."""
        safe = re.sub("[^A-Za-z0-9_-]+", "-", stem).strip("-")
        if not 0 < len(safe) <= _LONGEST_KEY or safe in self._taken:
            safe = long_key(relative)
        self._taken.add(safe)
        return safe


def long_key(relative: str) -> str:
    """A short name that tells where the picture came from, without dots: webdataset splits names there."""
    words = re.sub("[^A-Za-z0-9]+", "-", relative.rpartition(".")[0]).strip("-")[-60:]
    return f"{words}-{hashlib.blake2b(os.fsencode(relative), digest_size=6).hexdigest()}"


def subfolders(folder: Path, root: Path) -> list[str]:
    """The names of the folders in `folder`, sorted, without hidden ones.

    Raises:
        UserError: a folder can't be read, or an entry is a link to a folder, or out of `root`.
    """
    return [entry.name for entry in _entries(folder, root) if entry.is_dir()]


def files(folder: Path, root: Path, below: str = "", *, deep: bool = True) -> Iterator[File]:
    """Every file of `folder`/`below` and (`deep`) its subfolders, sorted, without hidden ones.

    `File.relative` starts from `folder`.

    Raises:
        UserError: a folder can't be read, or an entry is a link to a folder, or out of `root`, or neither a
            file nor a folder.
    """
    for entry in _entries(folder / below, root):
        relative = f"{below}/{entry.name}" if below else entry.name
        if not entry.is_dir():
            try:
                status = entry.stat()
            except OSError as error:
                raise _unreadable(Path(entry.path), error) from error
            _refuse_special(Path(entry.path), status)
            yield File(relative, status.st_size, status.st_mtime_ns)
        elif deep:
            yield from files(folder, root, relative)


def inside(path: Path, root: Path) -> Path:
    """`path`, unless it is a link to a folder (which may lead in a circle) or out of `root`.

    Raises:
        UserError: it is one, or the system won't say.
    """
    try:
        if path.is_symlink():
            target = Path(os.path.realpath(path))  # Path.resolve() fails for links in a circle
            if target.is_dir() or not target.is_relative_to(root):
                raise UserError(
                    f"{path} is a link to {target}, which is not followed: put a copy in its place."
                )
            if not target.exists():
                raise UserError(f"{path} is a link to {target}, which is not there: take the link out.")
    except OSError as error:
        raise _unreadable(path, error) from error
    return path


@contextlib.contextmanager
def reading(path: Path) -> Iterator[IO[bytes]]:
    """The file at `path`, open for the block.

    Raises:
        UserError: it can't be read, or is no plain file: to open a pipe may take for ever.
    """
    try:
        _refuse_special(path, path.stat())
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise _unreadable(path, error) from error


def open_file(root: Path, relative: str) -> Image.Image:
    """The picture in a file below `root`, decoded and upright.

    Raises:
        UserError: it can't be read.
    """
    path = root / relative
    with reading(path) as file:
        return open_picture(file, str(path))


def open_picture(source: IO[bytes] | bytes, name: str) -> Image.Image:
    """The picture in an open file, or in a file's bytes, decoded and turned upright as its EXIF says.

    Args:
        name: what messages call it.

    Raises:
        UserError: it is no picture of a known format, is damaged, or has more than MAX_PIXELS.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():
            # Of damaged EXIF, and of sizes below our limit: nothing that the pixels suffer from.
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise _too_large(name, f"its {image.width} x {image.height}")
                image.load()
                return ImageOps.exif_transpose(image)
    except (MemoryError, UserError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, "its") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{name} can't be read, it is no picture: take it out.") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise UserError(f"{name} can't be read ({error}): repair it, or take it out.") from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} can't be read ({error}): check that it is there, and that you may read it.")


def _refuse_special(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} can't be read, it is no plain file (but a pipe, for example): take it out.")


def _too_large(name: str, size: str) -> UserError:
    return UserError(
        f"{name} can't be read, {size} pixels are more than the {MAX_PIXELS:,} that are decoded: "
        "make it smaller, or take it out."
    )


def _entries(folder: Path, root: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted((entry for entry in listing if not entry.name.startswith(".")), key=_name)
    except OSError as error:
        raise _unreadable(folder, error) from error
    for entry in entries:
        if entry.is_symlink():
            inside(Path(entry.path), root)
    return entries


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name
