"""A build that was interrupted goes on where it stopped: the folder that holds what is finished of it."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from cgt.data.manifest import Shard
from cgt.errors import UserError
from cgt.files import explained, sha256, write_text

LOG = "finished.jsonl"
"""First the plan of the build, then one line for each finished shard."""


class PartialBuild:
    """The folder `OUT.partial`: finished shards, and a log that names a shard once it is on the disk."""

    def __init__(self, folder: Path, plan: str) -> None:
        self.folder = folder
        self.shards: list[Shard] = []
        """The finished ones, in order."""
        lines = _complete_lines(folder / LOG)
        if lines[:1] == [plan]:
            self.shards = _intact(folder, lines[1:])
        kept = {shard.file for shard in self.shards}
        for entry in folder.iterdir():
            if entry.name not in kept:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        lines = [plan, *(shard.model_dump_json() for shard in self.shards)]
        write_text(folder / LOG, "".join(f"{line}\n" for line in lines))

    def add(self, shard: Shard) -> None:
        """Note that a shard, which is on the disk under its name, is finished."""
        self.shards.append(shard)
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(shard.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())

    def close_log(self) -> None:
        """Remove the log: all shards are there."""
        (self.folder / LOG).unlink()


@contextlib.contextmanager
def partial_build(out: Path, plan: dict[str, object]) -> Iterator[PartialBuild]:
    """The partial build of `out`, held against other processes for the block.

    What a build with another plan left is thrown away. A mistake of the user (a corrupt picture) removes the
    folder, since mending it makes another plan; anything else that ends the block leaves it for the next try.

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
            try:
                yield PartialBuild(folder, json.dumps(plan, sort_keys=True))
            except UserError:
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


def _intact(folder: Path, lines: list[str]) -> list[Shard]:
    """The logged shards up to the first whose file is not what the log says."""
    shards = []
    for line in lines:
        try:
            shard = Shard.model_validate_json(line)
        except ValidationError:
            break
        path = folder / shard.file
        if not path.is_file() or path.stat().st_size != shard.bytes or sha256(path) != shard.sha256:
            break
        shards.append(shard)
    return shards
