"""Published files of weights: where they are looked for, how they are fetched, and how they are read.

A file is taken from the path that the user names, else from torch's hub cache. It is fetched only where the
user asks for it, by the word `download` in place of a path.
"""

import contextlib
import fcntl
import hashlib
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

from cgt import files
from cgt.errors import RunError, UserError
from cgt.progress import work_progress

DOWNLOAD = "download"
OPTION = "--weights (in a config: eval.weights)"
BLOCK = 2**20
TIMEOUT = 30.0
"""Seconds that a server may be silent."""


@dataclass(frozen=True)
class WeightsFile:
    """A published file."""

    what: str
    """ "Inception weights"."""
    url: str
    megabytes: int
    sha256: str
    """Its first digits, which the publisher gives."""
    other_names: tuple[str, ...] = ()
    """Under which the same network is published, or was, in a file that may have another digest."""

    @property
    def name(self) -> str:
        """The file's name where it is fetched from."""
        return self.url.rpartition("/")[2]

    def cached(self) -> Path | None:
        """The file in torch's hub cache, under any of its names."""
        paths = (hub_cache() / name for name in (self.name, *self.other_names))
        return next((path for path in paths if path.is_file()), None)

    def find(self, source: Path | None) -> Path:
        """The file that `source` means: a path, the word `download`, or None for torch's hub cache.

        Raises:
            UserError: it is not there.
            RunError: it could not be fetched.
        """
        if source == Path(DOWNLOAD) and not source.exists():
            return self.cached() or self.fetched()
        path = source or self.cached() or hub_cache() / self.name
        if not path.is_file():
            raise UserError(
                f"there is no {self.what} file {path}: {self._get_it()}, or fetch it with {OPTION} "
                f"{DOWNLOAD}. Features of your own pictures need no download: `cgt features train SHARDS "
                "OUT`."
            )
        return path

    def fetched(self) -> Path:
        """The file, downloaded into torch's hub cache; of several processes one fetches it.

        Raises:
            RunError: the network or the file failed.
        """
        path = hub_cache() / self.name
        with _alone(path):
            if path.is_file():
                return path
            try:
                with files.replacing_file(path) as temporary:
                    found = _download(self.url, temporary)
                    if not found.startswith(self.sha256):
                        raise RunError(
                            f"{self.url} came damaged: its SHA-256 begins with "
                            f"{found[: len(self.sha256)]}, not {self.sha256}. Run the command again."
                        )
            except (OSError, ValueError, HTTPException) as error:
                raise RunError(
                    f"{self.url} can't be fetched ({getattr(error, 'reason', error)}): {self._get_it()}."
                ) from error
        return path

    def read(self, path: Path) -> dict[str, Tensor]:
        """The tensors by name; nothing in the file is executed.

        Raises:
            UserError: it is no file of tensors.
        """
        try:
            state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
            if not all(isinstance(tensor, Tensor) for tensor in state.values()):
                raise TypeError("it holds something beside tensors")
        except Exception as error:  # what torch.load raises on a file of another kind has no common type
            raise self.misfit(path, error) from error
        return state

    def misfit(self, path: Path, error: Exception) -> UserError:
        """What to say of a file that can't be read, or that a network can't take."""
        reason = " ".join(str(error).split())[:300]
        return UserError(
            f"{path} does not hold the {self.what} that {self.name} does ({reason}): give that file."
        )

    def _get_it(self) -> str:
        return (
            f"get {self.name} ({self.megabytes} MB) from {self.url} and give its path with {OPTION}, or put "
            f"it into {hub_cache()}"
        )


def hub_cache() -> Path:
    """Where torch keeps files of weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _download(url: str, target: Path) -> str:
    """Copy what is at `url` into the file `target`, with progress; the SHA-256 of it."""
    digest = hashlib.sha256()
    with (
        urllib.request.urlopen(url, timeout=TIMEOUT) as answer,
        target.open("wb") as file,
        work_progress("MiB", target.name) as progress,
    ):
        total, done = int(answer.headers.get("Content-Length") or 0), 0
        while block := answer.read(BLOCK):
            digest.update(block)
            done += file.write(block)
            progress.reach(done // 2**20, max(done, total) // 2**20)
    return digest.hexdigest()


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold what no two processes of this machine hold for the same `path`."""
    with files.explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock").open("w")
    with lock:
        with contextlib.suppress(OSError):  # a file system without locks: each fetches its own
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
