"""Tar files as they are published: where their members lie, and what is in them, with nothing unpacked."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from PIL import Image

from cgt.data.sources.picture_files import File, open_picture, reading
from cgt.errors import UserError

_COMPRESSIONS = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\0": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
"""How a compressed file begins, and the program that undoes it."""
_LONGEST_HEADER = 2**20
"""Bytes: names are far shorter."""


class Member(NamedTuple):
    """A plain file in an archive."""

    name: str
    """For a member of an inner archive, after that archive's name: "n01440764.tar/n01440764_1.JPEG"."""
    offset: int
    """Bytes from the start of the (outer) archive to the content."""
    size: int
    """Bytes."""


def members(path: Path) -> list[Member]:
    """The plain files of an uncompressed tar, in its order.

    Raises:
        UserError: it is compressed, cut short, damaged or no tar; or a member is a link, a device or the
            like, leads out of the archive, or stands twice.
    """
    with reading(path) as file:
        _refuse_compressed(file, path)
        return list(members_of(file, str(path)))


def inner_members(path: Path) -> Iterator[tuple[str, list[Member]]]:
    """For each tar in an uncompressed tar: (its name, its plain files, placed in the outer one).

    Other members are passed over.

    Raises:
        UserError: as for `members`.
    """
    with reading(path) as file:
        _refuse_compressed(file, path)
        for outer in list(members_of(file, str(path))):
            if outer.name.endswith(".tar"):
                window = io.BufferedReader(_Window(file, outer.offset, outer.size))
                yield (
                    outer.name,
                    [
                        Member(f"{outer.name}/{name}", outer.offset + offset, size)
                        for name, offset, size in members_of(window, f"{path}: {outer.name}")
                    ],
                )


def members_of(file: IO[bytes], name: str) -> Iterator[Member]:
    """The plain files of an uncompressed tar that is open already.

    Args:
        name: what messages call it.

    Raises:
        UserError: as for `members`.
    """
    seen = set()
    try:
        with tarfile.open(fileobj=cast(IO[bytes], _Headers(file)), mode="r:") as archive:
            while (info := archive.next()) is not None:
                # It would keep some kilobyte for each of the millions there may be.
                archive.members.clear()  # type: ignore[attr-defined]
                inner = _checked(info, name)
                if info.isdir():
                    continue
                if inner in seen:
                    raise UserError(f"{name} has two members {inner}: fetch the archive again.")
                seen.add(inner)
                yield Member(inner, info.offset_data, info.size)
            # What tarfile takes for the end may be a header that is damaged or cut off.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it has no end mark where its members end")
    except (MemoryError, UserError):
        raise
    except Exception as error:  # tarfile raises whatever a damaged header leads it to
        raise UserError(
            f"{name} can't be read as a tar, it is another kind of file, was cut short or is damaged "
            f"({error}): fetch it again."
        ) from error


def load_member(path: Path, member: Member) -> Image.Image:
    """The picture in a member of the archive at `path`, decoded and upright.

    Raises:
        UserError: it can't be read.
    """
    name = f"{path}: {member.name}"
    with reading(path) as file:
        file.seek(member.offset)
        content = file.read(member.size)
    if len(content) < member.size:
        raise UserError(f"{name} can't be read, the archive was cut short meanwhile: fetch it again.")
    return open_picture(content, name)


def mark(path: Path) -> bytes:
    """What a fingerprint takes of an archive: it changes when the archive does."""
    status = path.stat()
    return File(path.name, status.st_size, status.st_mtime_ns).mark


def _refuse_compressed(file: IO[bytes], path: Path) -> None:
    start = file.read(6)
    file.seek(0)
    for magic, program in _COMPRESSIONS.items():
        if start.startswith(magic):
            raise UserError(
                f"{path} is compressed, so that no picture in it can be read without those before: "
                f"uncompress it ({program} {path.name}), and give the tar file."
            )


def _checked(info: tarfile.TarInfo, archive: str) -> str:
    """The member's name, without "./" in front."""
    parts = [part for part in info.name.split("/") if part != "."]
    if info.name.startswith("/") or ".." in parts or not info.name:
        raise UserError(
            f"{archive} has a member {info.name!r}, which leads out of the archive: fetch it from its "
            "official site."
        )
    if not (info.isdir() or info.isfile()) or info.issparse() or info.size < 0:
        raise UserError(
            f"{archive} has a member {info.name!r} that is no plain file (a link or a device, for example), "
            "which no archive of pictures needs: fetch it from its official site."
        )
    return "/".join(parts)


class _Headers:
    """A file for tarfile, which would read a header of any length that the one before it tells."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > _LONGEST_HEADER:
            raise tarfile.ReadError(f"it has a header of {size:,} bytes")
        return self._file.read(size)


class _Window(io.RawIOBase):
    """A stretch of a file, as a file of its own: what reads it can't run on into what lies behind."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._start, self._size = file, start, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("a place before the beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        wanted = max(0, min(len(view), self._size - self._position))
        self._file.seek(self._start + self._position)
        content = self._file.read(wanted)
        view[: len(content)] = content
        self._position += len(content)
        return len(content)
