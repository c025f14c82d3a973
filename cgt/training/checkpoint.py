"""Checkpoints: whole or not there at all, with pointers that move last.

RUN/checkpoints/00000100/state/        what a resumed run needs: tensors in the safetensors files of
                                       torch.distributed.checkpoint, to which each rank writes its part, and
                                       state.json, the tree they belong to with all that is no tensor
RUN/checkpoints/00000100/model/        the model folder of that step
RUN/checkpoints/00000100/hashes.json   SHA-256 of these files
RUN/latest, RUN/best                   links to the newest and the best of them

Nothing here is a pickle, so that a checkpoint from elsewhere can't run code.
"""

import json
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import Field
from torch import Tensor

from cgt.config import Section
from cgt.distributed import World
from cgt.errors import UserError
from cgt.files import explained, put_folder, sha256, write_json
from cgt.training.state_files import read_state, taken_apart, write_state


class CheckpointConfig(Section):
    """Which checkpoints stay."""

    keep_latest: int = Field(1, ge=1)
    """How many of the newest stay; the best stays always."""
    keep_every: int | None = Field(None, ge=1)
    """Steps between checkpoints that stay for good."""


class Checkpoints:
    """The checkpoints of one run folder, written while training goes on.

    All ranks make one and call its methods together. As a context manager it waits for what is being written.
    """

    def __init__(self, run: Path, config: CheckpointConfig, world: World) -> None:
        self.run = run
        self.config = config
        self.folder = run / "checkpoints"
        self._world = world.aside()
        self._writing: _Writing | None = None

    @property
    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        return self._target("latest")

    def save(
        self, step: int, state: dict[str, Any], write_model: Callable[[Path], None], *, best: bool
    ) -> None:
        """Begin to write the checkpoint after `step` updates; when it is whole, the pointers move and
        retention lets old ones go.

        Args:
            step: generator updates done.
            state: tensors and plain values in dicts, lists and tuples: the same on all ranks, except that
                each has its part of a DTensor. They are copied, and may change once this returns.
            write_model: writes the model folder to the path it is given; called on rank 0, in another thread.
            best: whether this is the best so far.

        Raises:
            RunError: the one before could not be written; all earlier checkpoints are as they were.
        """
        self.wait()
        tree, tensors = taken_apart(state)
        self._writing = _Writing(lambda: self._write(step, tree, tensors, write_model, best=best))

    def wait(self) -> None:
        """Until what is being written is there.

        Raises:
            RunError: it could not be written; all earlier checkpoints are as they were.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.wait()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or self._writing is None:
            self.wait()
        else:
            self._writing.thread.join()

    def load(self) -> dict[str, Any] | None:
        """The state of the latest checkpoint, on the CPU, or None where there is none yet; what a killed
        write left behind is cleared.

        Raises:
            UserError: it is damaged or gone.
        """
        with self._world.together():
            if self._world.is_main:
                for leftover in self.folder.glob(".*/"):
                    shutil.rmtree(leftover)
            name = self._latest_name()
        name = self._world.gather(name)[0]
        if name is None:
            return None
        checkpoint = self.folder / name
        with self._world.together():
            try:
                self._check_hashes(checkpoint)
                state: dict[str, Any] = read_state(checkpoint / "state")
            except Exception as error:
                # What is damaged fails in every way there is; each means the same to the reader.
                others = sorted(path.name for path in self.folder.glob("[0-9]*") if path != checkpoint)
                instead = (
                    f"point {self.run / 'latest'} at another of {', '.join(others)}"
                    if others
                    else "start again with --overwrite"
                )
                reason = " ".join(str(error).split()) or type(error).__name__
                message = f"the checkpoint {checkpoint} can't be read ({reason}): {instead}."
                raise UserError(message) from error
        return state

    def _latest_name(self) -> str | None:
        if not self._world.is_main:
            return None
        checkpoint = self.latest
        if checkpoint is None and (self.run / "latest").is_symlink():
            left = sorted(path.name for path in self.folder.glob("[0-9]*")) or ["none"]
            raise UserError(
                f"{self.run / 'latest'} points at a checkpoint that is gone; there are: {', '.join(left)}. "
                "Put it back, or start again with --overwrite."
            )
        return checkpoint.name if checkpoint else None

    def _write(
        self,
        step: int,
        tree: Any,
        tensors: dict[str, Tensor],
        write_model: Callable[[Path], None],
        *,
        best: bool,
    ) -> None:
        checkpoint = self.folder / f"{step:08d}"
        world = self._world
        # One name for all ranks, which nobody else uses.
        temporary = self.folder / world.gather(f".{secrets.token_hex(4)}.{checkpoint.name}")[0]
        try:
            with world.together(), explained(checkpoint, temporary):
                if world.is_main:
                    (temporary / "state").mkdir(parents=True)
            with world.together(), explained(checkpoint, temporary):
                write_state(temporary / "state", tree, tensors, world)
                if world.is_main:
                    write_model(temporary / "model")
            with world.together(), explained(checkpoint, temporary):
                hashes = self._hashes(temporary)
                if world.is_main:
                    write_json(temporary / "hashes.json", hashes)
                    put_folder(temporary, checkpoint)
                    if best:
                        self._point("best", checkpoint)
                    self._point("latest", checkpoint)
                    self._prune()
        finally:
            if world.is_main:
                shutil.rmtree(temporary, ignore_errors=True)

    def _hashes(self, folder: Path) -> dict[str, str]:
        """By name within `folder`; each rank reads some of the files."""
        world = self._world
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        files = world.gather(files)[0]
        parts = world.gather({name: sha256(folder / name) for name in files[world.rank :: world.size]})
        return {name: found for part in parts for name, found in part.items()}

    def _check_hashes(self, checkpoint: Path) -> None:
        """Compare the files of the state; each rank reads some of them. The model is not needed to go on.

        Raises:
            ValueError: one has changed.
        """
        hashes = json.loads((checkpoint / "hashes.json").read_text(encoding="utf-8"))
        names = sorted(name for name in hashes if name.startswith("state/"))
        for name in names[self._world.rank :: self._world.size]:
            if sha256(checkpoint / name) != hashes[name]:
                raise ValueError(f"{name} is not the file whose SHA-256 hashes.json has")

    def _target(self, pointer: str) -> Path | None:
        link = self.run / pointer
        return self.folder / link.readlink().name if link.is_symlink() and link.exists() else None

    def _point(self, pointer: str, checkpoint: Path) -> None:
        link = self.run / f".{pointer}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(checkpoint.relative_to(self.run))
        link.replace(self.run / pointer)

    def _prune(self) -> None:
        every = self.config.keep_every
        checkpoints = sorted(path for path in self.folder.iterdir() if path.name.isdigit())
        for checkpoint in checkpoints[: -self.config.keep_latest]:
            kept_for_good = every is not None and int(checkpoint.name) % every == 0
            if not kept_for_good and checkpoint not in (self._target("best"), self._target("latest")):
                # Under a name that is no checkpoint's, for a kill may come while it goes.
                retired = checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}"))
                shutil.rmtree(retired)


class _Writing:
    """Work in a thread of its own, whose error is raised by `wait`.

    The thread ends with the process: no exit waits for it.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self.thread.start()

    def wait(self) -> None:
        self.thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error
