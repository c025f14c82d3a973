"""The file of a shard, wherever the shard folder is: read where it lies, or fetched, compared and kept."""

import contextlib
import functools
import hashlib
import io
import os
import time
from pathlib import Path
from typing import IO

from cgt.data.cache import Cache, scratch
from cgt.data.manifest import DamagedShardError, Shard, ShardLocation
from cgt.data.remote import BLOCK, persistently, stream

BUFFER = 2**20
"""Bytes read at a time from a local shard: more, of many shards, would not stay in the processor's caches."""
PATIENCE = 60.0
"""Seconds in which a server may be as slow as it likes."""
SLOWEST = 10_000
"""Bytes a second that must come on average after that, or the server is asked anew."""


class ShardStore:
    """Opens the shards of one folder. It may be pickled, and be used by forked processes and by threads."""

    def __init__(self, location: str, cache: Cache | None = None) -> None:
        """`location` is a path or a URL; `cache` keeps what is fetched from a URL, None nothing."""
        self.folder = ShardLocation(location)
        self.cache = cache

    def open(self, shard: Shard) -> IO[bytes]:
        """The whole shard as a local file, buffered and seekable, for the caller to close.

        A local shard is compared with the manifest by its size, a fetched one by its SHA-256.

        Raises:
            UserError: the shard is missing locally, or damaged, or the cache is no place for it.
            RunError: it can't be read, though it was tried several times, or there is no room for it.
        """
        if self.folder.local:
            return io.BufferedReader(_PatientFile(self.folder, shard), BUFFER)
        fill = functools.partial(_download, self.folder, shard)
        if self.cache:
            return self.cache.open(shard.sha256, shard.bytes, fill)
        return scratch(shard.bytes, fill)


def _download(folder: ShardLocation, shard: Shard, target: IO[bytes]) -> None:
    """Write the shard behind a URL into `target`; content that is wrong a second time is no accident."""
    wrong: list[str] = []

    def once() -> None:
        found = _copy(folder.place(shard), shard.bytes, target)
        if found != shard.sha256:
            wrong.append(found)
            reason = f"its SHA-256 is {found}, the manifest says {shard.sha256}"
            if len(wrong) == 2:
                raise DamagedShardError(folder, shard, reason)
            raise ValueError(reason)

    persistently(once, folder.place(shard))


def _copy(url: str, size: int, target: IO[bytes]) -> str:
    """Copy the first `size` bytes behind `url` into `target`, and return the SHA-256 of all that is there.

    Raises:
        EOFError: there are fewer.
        TimeoutError: they come too slowly.
        OSError: the disk of `target` is full, or the network failed.
    """
    digest = hashlib.sha256()
    length = 0
    target.seek(0)
    start = time.monotonic()
    with stream(url, size) as source:
        while length <= size and (block := source.read(BLOCK)):
            digest.update(block)
            length += len(block)
            if (seconds := time.monotonic() - start) > PATIENCE and length < SLOWEST * seconds:
                raise TimeoutError(f"only {length:,} bytes came in {seconds:.0f} s")
            target.write(block[: max(0, size - length + len(block))])
    if length < size:
        raise EOFError(f"it ended after {length:,} of {size:,} bytes")
    return digest.hexdigest()


class _PatientFile(io.RawIOBase):
    """A local shard that is opened again where reading fails, as a network file system does for a moment."""

    def __init__(self, folder: ShardLocation, shard: Shard) -> None:
        self._folder = folder
        self._shard = shard
        self._file: IO[bytes] | None = None
        self._position = 0
        persistently(self._opened, folder.place(shard))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._shard.bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = persistently(lambda: self._read(buffer), self._folder.place(self._shard))
        self._position += count
        return count

    def close(self) -> None:
        self._drop()
        super().close()

    def _read(self, buffer: memoryview) -> int:
        try:
            return os.preadv(self._opened().fileno(), [buffer], self._position)
        except OSError:
            self._drop()
            raise

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            if misfit := self._folder.misfit(self._shard):
                raise DamagedShardError(self._folder, self._shard, misfit)
            self._file = Path(self._folder.place(self._shard)).open("rb", buffering=0)  # noqa: SIM115
        return self._file

    def _drop(self) -> None:
        file, self._file = self._file, None
        with contextlib.suppress(OSError):
            if file:
                file.close()
