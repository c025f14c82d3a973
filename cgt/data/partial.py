"""A build that was interrupted goes on where it stopped: the folder that holds what is finished of it.

That folder, `OUT.partial`, has a log until it is in its place. Where a kill comes between the two, the same
command finds the log in OUT, and takes up the build from there.
"""

import contextlib
import dataclasses
import fcntl
import fnmatch
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cgt.data import report
from cgt.data.manifest import FILE, KIND, Manifest, Shard
from cgt.errors import UserError
from cgt.files import (
    FolderKind,
    explained,
    is_at,
    put_folder,
    refuse_existing,
    refuse_inputs,
    sha256,
    write_json,
    write_text,
)
from cgt.wording import counted

LOG = "finished.jsonl"
"""First the plan of the build, then one line for each finished shard."""
DIGEST_BYTES = 8
"""Of a picture's content, or of its key."""
UNWRITTEN = 2 * DIGEST_BYTES * "-"
"""Stands for the digest of a picture that is in no shard."""
_NAMES = (LOG, FILE, report.FILE, "[0-9]*.tar")
_HALF = ".????????."
"""What the name of a file begins with while it is written."""
_PARTIAL = FolderKind("a partial build", (LOG,), (*_NAMES, *(_HALF + name for name in _NAMES)))
_OUTPUT = dataclasses.replace(KIND, others=(*KIND.others, LOG))


class FinishedShard(BaseModel):
    """A line of the log: a shard that is on the disk, and what became of the pictures up to its last."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    shard: Shard
    digests: str = Field(pattern=f"^([0-9a-f]{{{len(UNWRITTEN)}}}|{UNWRITTEN})*$")
    """Hexadecimal, joined, of the pictures consumed since the shard before: one string, since there are
    millions."""
    unreadable: tuple[tuple[int, str], ...]
    """Of those that were not written: the position among these pictures, and the reason."""

    @property
    def pictures(self) -> int:
        """How many were consumed."""
        return len(self.digests) // len(UNWRITTEN)

    def digest(self, position: int) -> bytes | None:
        """That of the picture at `position` among them; None where it was not written."""
        digits = self.digests[position * len(UNWRITTEN) :][: len(UNWRITTEN)]
        return None if digits == UNWRITTEN else bytes.fromhex(digits)


class PartialBuild:
    """The folder `OUT.partial`: finished shards, and a log that names a shard once it is on the disk."""

    def __init__(
        self,
        folder: Path,
        plan: str,
        lock: int,
        out: Path,
        *,
        overwrite: bool,
        checked: Callable[[int], None],
    ) -> None:
        self.folder = folder
        self._out = out
        self._overwrite = overwrite
        self.lock = lock
        """The file descriptor that keeps other builds out."""
        self.finished: list[FinishedShard] = []
        """In order."""
        lines = _complete_lines(folder / LOG)
        if lines[:1] == [plan]:
            self.finished = _intact(folder, lines[1:], checked)
        elif lines[1:] and not overwrite:
            raise UserError(
                f"{folder} has {counted(len(lines) - 1, 'finished shard')} of a build with other options or "
                "pictures: give the same ones to go on with it, or --overwrite to begin anew."
            )
        kept = {LOG, *(entry.shard.file for entry in self.finished)}
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
        return sum(entry.pictures for entry in self.finished)

    def add(self, entry: FinishedShard) -> None:
        """Note that a shard, which is on the disk under its name, is finished."""
        self.finished.append(entry)
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(entry.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())

    def complete(self, manifest: Manifest, found: report.Found | None = None) -> None:
        """Write what the folder lacks beside its shards."""
        if found:
            write_json(self.folder / report.FILE, found.model_dump())
        write_json(self.folder / FILE, manifest.to_json())

    def put(self) -> None:
        """Give the folder, which is complete, the name of the output.

        Raises:
            UserError: somebody else put something there meanwhile, which is to be kept or no shard folder.
        """
        refuse_existing(self._out, overwrite=self._overwrite, kind=_OUTPUT)
        put_folder(self.folder, self._out)


def refuse_output(out: Path, inputs: Sequence[str], *, overwrite: bool) -> None:
    """Refuse, before any work, an output that could not be put in its place in the end.

    Raises:
        UserError: it exists, and is to be kept or no shard folder, or is no output for these `inputs`.
    """
    if not (out / LOG).is_file():  # where it is, `partial_build` decides, by the plan
        refuse_existing(out, overwrite=overwrite, kind=_OUTPUT, inputs=inputs)
    for place in (out, _partial(out)):
        refuse_inputs(place, inputs)


@contextlib.contextmanager
def partial_build(
    out: Path,
    plan: dict[str, object],
    *,
    overwrite: bool,
    checked: Callable[[int], None] = lambda pictures: None,
) -> Iterator[PartialBuild]:
    """The partial build of `out`, held against other processes for the block, which puts it in its place.

    What a build with another plan left is thrown away if `overwrite` says so, and else refused. Whatever ends
    the block, finished shards are kept for the next try; a mistake of the user before there are any leaves
    nothing.

    Args:
        out: the folder to make.
        plan: what decides the bytes of the shards.
        overwrite: whether a shard folder at `out`, or what is finished of another one, may be replaced.
        checked: called with the pictures that finished shards account for, as these are read to see whether
            they are still what they were.

    Raises:
        UserError: another process is building `out`, it exists or can't be written, or what has the name of
            the partial build is none, or one with another plan.
        RunError: the disk is full.
    """
    folder = _partial(out)
    text = json.dumps(plan, sort_keys=True)
    with explained(out, folder):
        begun = folder
        if _complete_lines(out / LOG)[:1] == [text] and not os.path.lexists(folder):
            begun = out
        else:
            refuse_existing(out, overwrite=overwrite, kind=_OUTPUT)
            _refuse_strange(folder, out)
            folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(begun, os.O_RDONLY)
        try:
            if not _lock(begun, handle):
                raise UserError(
                    f"another process is building {out}: wait until it is done, or name another output."
                )
            if begun == out:
                out.rename(folder)
            _refuse_strange(folder, out)
            build = PartialBuild(folder, text, handle, out, overwrite=overwrite, checked=checked)
            try:
                yield build
            except UserError:
                if not build.finished:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            (out / LOG).unlink(missing_ok=True)
        finally:
            os.close(handle)


def _partial(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def _refuse_strange(folder: Path, out: Path) -> None:
    """Refuse a partial build that is none: what it holds would be lost."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        misfit: str | None = "is no folder"
    elif not folder.exists() or all(fnmatch.fnmatch(entry.name, _HALF + LOG) for entry in folder.iterdir()):
        return  # new, or what a kill left at the very start
    else:
        misfit = _PARTIAL.misfit(folder)
    if misfit:
        raise UserError(
            f"{folder} {misfit}, and it is the place for what is unfinished of {out}: move it away, or name "
            "another output."
        )


def _lock(folder: Path, handle: int) -> bool:
    """Lock the open folder; False where another process holds it, or has renamed it meanwhile."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return is_at(folder, handle)


def _complete_lines(log: Path) -> list[str]:
    """The lines of the log but for a last one that a kill cut short."""
    return log.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if log.is_file() else []


def _intact(folder: Path, lines: list[str], checked: Callable[[int], None]) -> list[FinishedShard]:
    """The logged shards up to the first whose file is not what the log says."""
    finished: list[FinishedShard] = []
    pictures = 0
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
        pictures += entry.pictures
        checked(pictures)
    return finished
