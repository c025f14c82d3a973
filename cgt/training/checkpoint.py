"""Checkpoints: whole or not there at all, with pointers that move last.

RUN/checkpoints/00000100/state.pt     what a resumed run needs
RUN/checkpoints/00000100/model/       the model folder of that step
RUN/latest, RUN/best                  links to the newest and the best of them
"""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from cgt.config import Section
from cgt.errors import UserError
from cgt.files import replacing_folder


class CheckpointConfig(Section):
    """Which checkpoints stay."""

    keep_latest: int = Field(1, ge=1)
    """How many of the newest stay; the best stays always."""
    keep_every: int | None = Field(None, ge=1)
    """Steps between checkpoints that stay for good."""


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, run: Path, config: CheckpointConfig) -> None:
        self.run = run
        self.config = config
        self.folder = run / "checkpoints"

    @property
    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        return self._target("latest")

    def save(
        self, step: int, state: dict[str, Any], write_model: Callable[[Path], None], *, best: bool
    ) -> Path:
        """Write the checkpoint after `step` updates, move the pointers, and drop what retention lets go.

        Args:
            step: generator updates done.
            state: tensors and plain values.
            write_model: writes the model folder to the path it is given.
            best: whether this is the best so far.

        Raises:
            RunError: the disk is full; all earlier checkpoints are as they were.
        """
        checkpoint = self.folder / f"{step:08d}"
        with replacing_folder(checkpoint) as temporary:
            torch.save(state, temporary / "state.pt")
            write_model(temporary / "model")
        if best:
            self._point("best", checkpoint)
        self._point("latest", checkpoint)
        self._prune()
        return checkpoint

    def load(self) -> dict[str, Any] | None:
        """The state of the latest checkpoint, on the CPU, or None where there is none yet; what a killed
        write left behind is cleared.

        Raises:
            UserError: it is damaged or gone.
        """
        for leftover in self.folder.glob(".*"):
            shutil.rmtree(leftover)
        checkpoint = self.latest
        if checkpoint is None and (self.run / "latest").is_symlink():
            left = sorted(path.name for path in self.folder.glob("[0-9]*")) or ["none"]
            raise UserError(
                f"{self.run / 'latest'} points at a checkpoint that is gone; there are: {', '.join(left)}. "
                "Put it back, or start again with --overwrite."
            )
        if checkpoint is None:
            return None
        try:
            state = torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            others = sorted(path.name for path in self.folder.iterdir() if path != checkpoint)
            instead = (
                f"point {self.run / 'latest'} at another of {', '.join(others)}"
                if others
                else "start again with --overwrite"
            )
            raise UserError(f"the checkpoint {checkpoint} can't be read ({error}): {instead}.") from error
        assert isinstance(state, dict)
        return state

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
                shutil.rmtree(checkpoint)
