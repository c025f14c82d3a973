"""Writes that happen whole or not at all: to a temporary name beside the target, then renamed."""

import contextlib
import ctypes
import errno
import fnmatch
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgt.errors import RunError, UserError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically, making its folder; what stood at `path` stays until the new one is whole."""
    with replacing_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """`write_bytes` for JSON, indented, with a final newline."""
    write_text(path, _as_json(content))


def put_json(file: Path, content: Any) -> None:
    """`write_json`, or for `-` the same text to stdout."""
    if file == Path("-"):
        sys.stdout.write(_as_json(content))
    else:
        write_json(file, content)


def _as_json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A path beside `path` for the block to write a file at, renamed to `path` when the block ends well.

    When it doesn't, what it wrote is removed. The suffix is that of `path`, for writers that go by it.

    Raises:
        RunError: the disk is full.
        UserError: `path` is no place where a file may be written.
    """
    temporary = _beside(path)
    with explained(path, temporary):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            temporary.chmod(mode)  # safetensors makes its files for their owner alone
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` for the block to fill, renamed to `path` when the block ends well.

    When it doesn't, the new folder is removed, and what stood at `path` stays.

    Raises:
        RunError: the disk is full.
        UserError: `path` is no place where a folder may be written.
    """
    temporary = _beside(path)
    with explained(path, temporary):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            put_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def put_folder(built: Path, path: Path) -> None:
    """Rename the folder `built`, complete and on the same disk, to `path`; what stood there is removed after.

    Where the system can exchange two names, there is something whole at `path` all along, whenever the
    process may be killed. Elsewhere the old folder has another, hidden name for a moment.

    Raises:
        RunError: the disk is full.
        UserError: `path` is no place where a folder may be written.
    """
    retired = _beside(path)
    with explained(path, built):
        mode = built.stat().st_mode
        for entry in (*built.rglob("*"), built):
            if entry.is_file():
                entry.chmod(mode & 0o666)  # safetensors makes its files for their owner alone
            _sync(entry)
        if os.path.lexists(path) and exchange(built, path):
            retired = built
        else:
            with contextlib.suppress(FileNotFoundError):
                path.replace(retired)
            try:
                built.replace(path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    retired.replace(path)
                raise
        _sync(path.parent)
    if retired.is_dir() and not retired.is_symlink():
        shutil.rmtree(retired, ignore_errors=True)
    else:
        retired.unlink(missing_ok=True)


@contextlib.contextmanager
def explained(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn a refusal to write at `path`, by way of `temporary`, into a message with a remedy.

    Other errors pass.

    Raises:
        RunError: the disk is full.
        UserError: `path` is no place where the user may write.
    """
    try:
        yield
    except (RunError, UserError):
        raise
    except Exception as error:
        if reason := no_room(error):
            raise RunError(
                f"{path} could not be written: {reason}. What stood there before is untouched. "
                "Free some space, or name a folder on another disk, and run the command again."
            ) from error
        if isinstance(error, OSError) and _refuses(error, temporary or path):
            rule = f"{path} can't be written ({error.strerror})"
            raise UserError(f"{rule}: name a place where you may write.") from error
        raise


def no_room(error: BaseException) -> str | None:
    """Why there was no room for a file, where that is what `error` or what led to it says; else None.

    safetensors and torch.save wrap the operating system's error in their own: only its text is left.
    """
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return f"no room on the disk ({error.strerror})"
    text = str(error)
    for number in _NO_ROOM:
        if f"(os error {number})" in text or os.strerror(number) in text:
            return f"no room on the disk ({os.strerror(number)})"
    if "inline_container.cc" in text and ("PytorchStreamWriter failed" in text or "unexpected pos" in text):
        return "the disk did not take it, most likely because it is full"
    before = error.__cause__ or error.__context__
    return no_room(before) if before else None


@dataclass(frozen=True)
class FolderKind:
    """What a command writes as a folder, and so may replace."""

    name: str
    """With its article: "a shard folder"."""
    marks: tuple[str, ...]
    """Files that every such folder has."""
    others: tuple[str, ...] = ()
    """Patterns of what else it may hold, from the folder on: `*.tar`, `*/*.png`."""

    def misfit(self, folder: Path) -> str | None:
        """Why `folder` is none, or holds what no such folder does; None where nothing is in the way."""
        if missing := [name for name in self.marks if not (folder / name).is_file()]:
            return f"is not {self.name} (it has no {missing[0]})"
        strange = itertools.islice(self._strangers(folder), 4)
        if names := list(strange):
            shown = ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")
            return f"holds {shown} beside what belongs to {self.name}"
        return None

    def _strangers(self, folder: Path) -> Iterator[str]:
        known = (*self.marks, *self.others)
        for entry in folder.rglob("*"):
            name = entry.relative_to(folder).as_posix()
            fits = any(
                fnmatch.fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")
                for pattern in known
            )
            if not fits and (entry.is_symlink() or not entry.is_dir()):
                yield name


def refuse_existing(
    path: Path,
    *,
    overwrite: bool,
    kind: FolderKind | None = None,
    inputs: Iterable[str | Path | None] = (),
    option: str = "--overwrite",
) -> None:
    """Refuse an output that is there already, unless it may be replaced.

    Args:
        path: the output.
        overwrite: whether the user allows replacing it.
        kind: what is written, where that is a folder: only such folders are replaced. None for a file, which
            replaces files alone.
        inputs: what the command reads. An output that is one of them, holds one or lies in one is not
            replaced. URLs and names are no paths, and do no harm here.
        option: what the caller calls `overwrite`, for messages.

    Raises:
        UserError: `path` can't be written, or not be replaced (an empty folder can, by one), or the current
            folder is in it.
    """
    _refuse_unwritable(path, folder=kind is not None)
    if not os.path.lexists(path) or (kind and path.is_dir() and not any(path.iterdir())):
        return
    file_for_folder = kind is None and path.is_dir()
    if not overwrite and not file_for_folder:
        raise UserError(f"{path} exists already: name another output, or add {option} to replace it.")
    if Path.cwd().is_relative_to(path.resolve()):
        raise UserError(f"{path} can't be replaced while the command runs in it: name a folder of its own.")
    refuse_inputs(path, inputs)
    if file_for_folder:
        raise UserError(f"{path} is a folder, and what is to be written is a file: name a file.")
    if kind and (misfit := kind.misfit(path)):
        raise UserError(
            f"{path} {misfit}, so {option} does not replace it: name another output, or remove it yourself."
        )


def _refuse_unwritable(path: Path, *, folder: bool) -> None:
    """Refuse, as far as it can be told before, a place where a file or a folder can't be put."""
    place = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    reason = None
    if not place.is_dir():
        reason = f"{place} is no folder"
    elif not os.access(place, os.W_OK | os.X_OK):
        reason = f"{place} is not open to you for writing"
    elif folder and path.is_mount():  # it can be filled, and not replaced by a folder that is whole
        reason = "a disk is mounted there"
    if reason:
        raise UserError(f"{path} can't be written ({reason}): name a place where you may write.")


def refuse_inputs(path: Path, inputs: Iterable[str | Path | None]) -> None:
    """Refuse an output that is one of the `inputs` of the command, holds one or lies in one.

    Raises:
        UserError: it is, does or lies there.
    """
    output = path.resolve()
    for name in inputs:
        place = None if name is None else str(name).removeprefix("file://")
        if place is None or not os.path.exists(place):  # noqa: PTH110 - Path.exists raises for long names
            continue
        read = Path(place).resolve()
        if output.is_relative_to(read) or read.is_relative_to(output):
            relation = "is" if read == output else "holds" if read.is_relative_to(output) else "lies in"
            raise UserError(
                f"{path} can't be written: it {relation} {name}, which the command reads. Name an output of "
                "its own."
            )


def is_at(path: Path, handle: int) -> bool:
    """Whether the open file or folder is the one that has the name `path` now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_PLACE = (
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.EBUSY,
)


def exchange(one: Path, other: Path) -> bool:
    """Swap what two names on one disk stand for, in a single step; False where the system can't."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # no Linux, or a C library from before 2018
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if not rename(here, os.fsencode(one), here, os.fsencode(other), swap):
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM):  # a kernel or a disk that can't
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def _beside(path: Path) -> Path:
    """A hidden name in the folder of `path` that nobody else uses."""
    return path.with_name(f".{secrets.token_hex(4)}.{path.name}")


def remove_leftovers(folder: Path) -> None:
    """Remove files that killed processes had not yet renamed, from a folder that nobody else writes in."""
    for file in folder.glob(".*"):
        if re.fullmatch(r"\.[0-9a-f]{8}\..+", file.name) and file.is_file():
            file.unlink(missing_ok=True)


def _refuses(error: OSError, target: Path) -> bool:
    """Whether `error` says that the user can't write at `target`; not that some other file can't be read."""
    place = error.filename
    here = place is None or Path(place).is_relative_to(target) or target.is_relative_to(place)
    return here and error.errno in _NOT_ALLOWED + _NO_PLACE


def _sync(path: Path) -> None:
    """Put a file, or a folder's entries, on the disk now: only then is a full disk sure to be noticed."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
