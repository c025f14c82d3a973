"""A build that was interrupted goes on where it stopped: the folder that holds what is finished of it."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from cgt.data.manifest import Shard
from cgt.errors import UserError
from cgt.files import explained, sha256, write_text

LOG = "finished.jsonl"
"""First the plan of the build, then one line for each finished shard."""


class FinishedShard(BaseModel):
    """A line of the log: a shard that is on the disk, and what became of the pictures up to its last."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    shard: Shard
    digests: tuple[str, ...]
    """For each picture consumed since the shard before: the hexadecimal digest of its content, empty where
    the picture was not written."""
    unreadable: tuple[tuple[int, str], ...]
    """Of those that were not: the position among these pictures, and the reason."""


class NoRoomError(UserError):
    """The disk has too little room for what is left to write."""


class PartialBuild:
    """The folder `OUT.partial`: finished shards, and a log that names a shard once it is on the disk."""

    def __init__(self, folder: Path, plan: str, lock: int) -> None:
        self.folder = folder
        self.lock = lock
        """The file descriptor that keeps other builds out."""
        self.finished: list[FinishedShard] = []
        """In order."""
        lines = _complete_lines(folder / LOG)
        if lines[:1] == [plan]:
            self.finished = _intact(folder, lines[1:])
        kept = {entry.shard.file for entry in self.finished}
        for entry in folder.iterdir():
            if entry.name not in kept:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        lines = [plan, *(entry.model_dump_json() for entry in self.finished)]
        write_text(folder / LOG, "".join(f"{line}\n" for line in lines))

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The finished ones, in order."""
        return tuple(entry.shard for entry in self.finished)

    @property
    def consumed(self) -> int:
        """Pictures that the finished shards account for."""
        return sum(len(entry.digests) for entry in self.finished)

    def add(self, entry: FinishedShard) -> None:
        """Note that a shard, which is on the disk under its name, is finished."""
        self.finished.append(entry)
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(entry.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())

    def close_log(self) -> None:
        """Remove the log: all shards are there."""
        (self.folder / LOG).unlink()


@contextlib.contextmanager
def partial_build(out: Path, plan: dict[str, object]) -> Iterator[PartialBuild]:
    """The partial build of `out`, held against other processes for the block.

    What a build with another plan left is thrown away. A mistake of the user (a corrupt picture) removes the
    folder, since mending it makes another plan; anything else that ends the block leaves it for the next try,
    and so does a lack of room where something is finished already.

    Raises:
        UserError: another process is building `out`, or it can't be written there.
        RunError: the disk is full.
    """
    folder = out.with_name(f"{out.name}.partial")
    with explained(out, folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process is building {out}: wait until it is done, or name another output."
                ) from None
            build = PartialBuild(folder, json.dumps(plan, sort_keys=True), handle)
            try:
                yield build
            except UserError as error:
                if isinstance(error, NoRoomError) and build.finished:
                    raise
                shutil.rmtree(folder, ignore_errors=True)
                raise
        finally:
            os.close(handle)


def _complete_lines(log: Path) -> list[str]:
    """The lines of the log but for a last one that a kill cut short."""
    if not log.is_file():
        return []
    return [
        line[:-1] for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]


def _intact(folder: Path, lines: list[str]) -> list[FinishedShard]:
    """The logged shards up to the first whose file is not what the log says."""
    finished = []
    for line in lines:
        try:
            entry = FinishedShard.model_validate_json(line)
        except ValidationError:
            break
        shard = entry.shard
        path = folder / shard.file
        if not path.is_file() or path.stat().st_size != shard.bytes or sha256(path) != shard.sha256:
            break
        finished.append(entry)
    return finished
