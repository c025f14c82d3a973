"""Shards that were fetched, kept on this machine under their hashes up to a limit.

A shard `SHA256.tar` is whole: it was written as `SHA256.part` by the one process that holds the lock on that
file, and renamed. A lock ends with the process that holds it, so a `.part` that nobody holds is what a kill
left; it is removed, or written anew. The shards read longest ago make room for new ones. One that is being
read may be among them: its name goes, and its bytes stay until the reader closes it.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cgt.errors import RunError, UserError
from cgt.files import explained, is_at

Fill = Callable[[IO[bytes]], None]
"""Writes a file's content, from the start, into one that is open; raises if it could not be had."""

_HASH = "[0-9a-f]" * 64
_verified: set[Path] = set()
"""Files whose hashes this process has compared."""


@dataclass(frozen=True)
class Cache:
    """A folder that keeps shards, for any number of processes and threads at a time."""

    folder: Path
    limit: int
    """Bytes that all shards may take."""

    def open(self, sha256: str, size: int, fill: Fill) -> IO[bytes]:
        """The file of that hash and size, which the first who asks fills, while others wait.

        A file that is there is hashed once a process: a power cut may leave one of the right size without its
        content, and the pictures are then decoded from pages that are in memory already.

        Raises:
            UserError: the file is larger than the limit, or the folder is no place for a cache.
            RunError: there is no room on the disk.
        """
        if size > self.limit:
            raise UserError(
                f"a shard of {size:,} bytes does not fit in the cache {self.folder}, whose limit is "
                f"{self.limit:,}: raise the limit, or go without a cache."
            )
        path = self.folder / f"{sha256}.tar"
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if kept := _kept(path, sha256, size):
                return kept
            with _held(path.with_suffix(".part")) as part:
                if kept := _kept(path, sha256, size):  # another process was faster
                    return kept
                if self._reserve(part, size):
                    fill(part)
                    part.flush()
                    file = Path(part.name).open("rb")  # noqa: SIM115 - for the caller, who closes it
                    Path(part.name).replace(path)
                    _verified.add(path)
                    return file
        return scratch(size, fill)

    def _reserve(self, part: IO[bytes], size: int) -> bool:
        """Make room for `part` and let it have its full size; False where other downloads need the room."""
        with _locked(self.folder, os.O_RDONLY):
            parts = [path for path in self.folder.glob(_HASH + ".part") if path != Path(part.name)]
            used = size + sum(found for _, found, _ in _files(filter(_in_work, parts)))
            if used > self.limit:
                return False
            kept = sorted(_files(self.folder.glob(_HASH + ".tar")))
            used += sum(found for _, found, _ in kept)
            for _, found, path in kept:
                if used <= self.limit and shutil.disk_usage(self.folder).free >= size:
                    break
                path.unlink(missing_ok=True)
                used -= found
            _check_room(self.folder, size, "name a cache on another disk")
            part.truncate(size)
        return True


def scratch(size: int, fill: Fill) -> IO[bytes]:
    """A file of `size` bytes that goes when it is closed, or with the process: it has no name.

    Raises:
        RunError: there is no room on the disk.
    """
    folder = Path(tempfile.gettempdir())
    _check_room(folder, size, "set TMPDIR to a folder on another disk")
    with explained(folder):
        file = tempfile.TemporaryFile()  # noqa: SIM115 - for the caller, who closes it
        try:
            fill(file)
            file.seek(0)
        except BaseException:
            file.close()
            raise
    return file


def _kept(path: Path, sha256: str, size: int) -> IO[bytes] | None:
    """The file at `path`, noted as read now; None where there is none that is whole."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    whole = os.fstat(file.fileno()).st_size == size
    if whole and path not in _verified:
        whole = hashlib.file_digest(file, "sha256").hexdigest() == sha256
        file.seek(0)
    if not whole:
        file.close()
        return None
    _verified.add(path)
    with contextlib.suppress(OSError):  # another user's file may be read, yet not touched
        os.utime(path)
    return file


@contextlib.contextmanager
def _held(path: Path) -> Iterator[IO[bytes]]:
    """The file at `path`, locked for the block; removed after it, unless the block has renamed it."""
    while True:
        with _locked(path, os.O_RDWR | os.O_CREAT) as handle:
            if not is_at(path, handle):  # who held it before has renamed or removed it
                continue
            try:
                with path.open("r+b") as file:
                    yield file
            finally:
                if is_at(path, handle):
                    path.unlink()
            return


@contextlib.contextmanager
def _locked(path: Path, flags: int, *, wait: bool = True) -> Iterator[int]:
    """A handle of the file or folder at `path`, with its lock.

    Raises:
        BlockingIOError: another holds the lock, and this one does not `wait`.
        UserError: the file system has no locks.
    """
    handle = os.open(path, flags, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            raise UserError(
                f"files in {path.parent} can't be locked ({error.strerror}): name a cache on a local disk."
            ) from error
        try:
            yield handle
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # a process forked meanwhile has the handle, too
    finally:
        os.close(handle)


def _files(paths: Iterable[Path]) -> Iterator[tuple[int, int, Path]]:
    """(time of last reading, bytes, path) of those files that are still there."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            yield found.st_mtime_ns, found.st_size, path


def _in_work(part: Path) -> bool:
    """Whether a process is writing `part`; one that none is writing is removed."""
    try:
        with _locked(part, os.O_RDWR, wait=False) as handle:
            if is_at(part, handle):
                part.unlink()
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def _check_room(folder: Path, size: int, remedy: str) -> None:
    if (free := shutil.disk_usage(folder).free) < size:
        raise RunError(
            f"a shard of {size:,} bytes does not fit on the disk of {folder}, which has {free:,} bytes free: "
            f"free some space, or {remedy}."
        )
