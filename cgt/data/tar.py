"""Plain tar files of plain files, read front to back.

Python's tarfile does some 15 times the work for each member, about as much as decoding a small picture costs:
a reader that decodes all along would lose a third of its speed to it (`tools/bench/data.py` shows both).
"""

import zlib
from collections.abc import Iterator
from typing import IO

BLOCK = 512
"""Tar files come in blocks of so many bytes; each member has a header of one."""
_REGULAR = (b"0", b"\0")


class TarError(ValueError):
    """What is read is no tar file, was cut short, or holds something else than plain files."""


def members(stream: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every member, in order.

    Format: POSIX.1-1988 (ustar), of which GNU tar and pax are supersets; what these add (links, folders, long
    names) has no place in a shard.

    Raises:
        TarError: see there.
    """
    while True:
        header = stream.read(BLOCK)
        if len(header) < BLOCK:
            raise TarError("it ends in the middle" if header else "it has no end mark, so it was cut short")
        if header == bytes(BLOCK):
            return
        try:
            size = int(header[124:136].rstrip(b" \0"), 8)
            summed = int(header[148:156].strip(b" \0"), 8)
            name = header[:100].rstrip(b"\0").decode("ascii")
        except ValueError:
            raise TarError("it is no tar file, or is overwritten in part") from None
        if not _sums_up(header, summed):
            raise TarError("a header's checksum is wrong")
        if header[156:157] not in _REGULAR:
            raise TarError(f"{name!r} is not a plain file")
        padded = -(-size // BLOCK) * BLOCK
        content = stream.read(padded)
        if len(content) < padded:
            raise TarError(f"it ends in the middle of {name!r}")
        yield name, content[:size]


def _sums_up(header: bytes, summed: int) -> bool:
    """Whether `summed` is the sum of the header's bytes, its own eight counted as spaces.

    The low half of an Adler checksum that starts at 0 is the sum of the bytes modulo 65521, at C speed.
    """
    total = zlib.adler32(header[156:], zlib.adler32(b" " * 8, zlib.adler32(header[:148], 0))) & 0xFFFF
    return total == summed % 65521
