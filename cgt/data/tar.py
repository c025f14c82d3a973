"""Plain tar files of plain files, read front to back.

With Python's tarfile, reading a sample costs about as much as decoding a small picture, and five times as
much as here (`tools/bench/data.py` shows both).
"""

import zlib
from collections.abc import Iterator
from typing import IO

BLOCK = 512
"""Tar files come in blocks of so many bytes; each member has a header of one."""
_REGULAR = (b"0", b"\0")


class TarError(ValueError):
    """What is read is no tar file, was cut short, or holds something else than plain files."""


def members(stream: IO[bytes], limit: int) -> Iterator[tuple[str, bytes, int]]:
    """Name, content, and the offset of the header in the stream, of every member in order.

    Format: POSIX.1-1988 (ustar), of which GNU tar and pax are supersets; what these add (links, folders, long
    names) has no place in a shard.

    Args:
        stream: the tar file.
        limit: its size, bytes, which no member's can exceed: what a header claims is not believed.

    Raises:
        TarError: see there.
    """
    offset = 0
    header = stream.read(BLOCK)
    while header[:1] != b"\0":
        name, size = _described(header)
        if size > limit:
            raise TarError(f"the size of {name!r} is wrong, {size:,} bytes are more than the whole has")
        content = stream.read(size)
        padding = -size % BLOCK
        behind = stream.read(padding + BLOCK)
        if len(behind) < padding + BLOCK:
            raise TarError(f"it ends at {name!r}, without an end mark")
        yield name, content, offset
        header = behind[padding:]
        offset += BLOCK + size + padding
    if header != bytes(BLOCK):
        raise TarError("its end mark is overwritten, or it is no tar file")


def _described(header: bytes) -> tuple[str, int]:
    """The name and the size of a member.

    The low half of an Adler checksum that starts at 0 is the sum of the bytes modulo 65521, at C speed. For
    the header's own checksum, its eight bytes count as spaces.
    """
    try:
        size = int(header[124:135], 8)
        summed = int(header[148:154], 8)
        name = header[:100].rstrip(b"\0").decode("ascii")
    except ValueError:
        raise TarError("it is no tar file, or is overwritten or cut off in part") from None
    total = (zlib.adler32(header, 0) & 0xFFFF) - sum(header[148:156]) + 8 * ord(" ")
    if size < 0 or (total - summed) % 65521:
        raise TarError(f"the size or the checksum of {name!r} is wrong")
    if header[156:157] not in _REGULAR:
        raise TarError(f"{name!r} is not a plain file")
    return name, size
