"""The files of a BigGAN-PyTorch checkpoint folder: which belong together, and which are left aside.

A save is G.pth, G_ema.pth (where an average was kept), D.pth, G_optim.pth, D_optim.pth and state_dict.pth, or
all of these with one suffix: G_best0.pth.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgt import files
from cgt.errors import UserError
from cgt.interop.pickles import read_plain_values

GENERATORS = ("G_ema.pth", "G.pth")
"""What a generator's file is called, the preferred first."""
STATE = "state_dict"


@dataclass(frozen=True)
class CheckpointFiles:
    """One save."""

    generator: Path
    discriminator: Path | None
    """Of the same save; None where there is none, or the generator's file alone was given."""
    left_out: tuple[str, ...]
    """Names of the other weights and of the optimisers' state in the folder, which nothing is read of."""
    training: dict[str, Any]
    """The plain values of state_dict.pth; none where it is missing: one can do without."""

    @property
    def trained(self) -> dict[str, Any]:
        """The options of the training run."""
        options = self.training.get("config", {})
        return options if isinstance(options, dict) else {}

    def provenance(self, format_name: str) -> dict[str, Any]:
        """What is known of the origin, with the SHA-256 of both networks' files.

        Of the training, finite numbers alone: JSON has no others.
        """
        sources = [path for path in (self.generator, self.discriminator) if path is not None]
        known = ("itr", "epoch", "best_IS", "best_FID")
        return {
            "format": format_name,
            "files": {source.name: files.sha256(source) for source in sources},
            "left_out": list(self.left_out),
            "training": {key: self.training[key] for key in known if _is_finite(self.training.get(key))},
        }


def find_files(path: Path, weights: Path | None) -> CheckpointFiles:
    """The save in a folder, or the one of a generator's file alone.

    Args:
        path: the folder, or a generator's file.
        weights: the generator's file, absolute or in the folder; by default G_ema.pth, else G.pth. The
            discriminator is the one of the same save: D_best0.pth beside G_ema_best0.pth. A file that is
            called otherwise, birds.pth, belongs to no save.

    Raises:
        UserError: there is no generator's file.
    """
    generator = generator_file(path, weights, GENERATORS)
    discriminator, state = _of_same_save(generator, "D"), _of_same_save(generator, STATE)
    others: list[str] = []
    if path.is_dir():
        save = ("G", "G_ema", "G_optim", "D_optim")
        saved = [file for name in save if (file := _of_same_save(generator, name))]
        others = [file.name for file in saved if file.is_file() and file != generator]
    return CheckpointFiles(
        generator,
        discriminator if path.is_dir() and discriminator and discriminator.is_file() else None,
        tuple(others),
        _training_state(state) if state else {},
    )


def generator_file(path: Path, weights: Path | None, defaults: Sequence[str]) -> Path:
    """The file with a generator's weights, of any program's checkpoint.

    Args:
        path: the checkpoint's folder, or the file itself.
        weights: the file, absolute or in the folder.
        defaults: names in the folder where `weights` is None, the preferred first, of one suffix.

    Raises:
        UserError: there is none.
    """
    suffix = Path(defaults[0]).suffix
    if not path.exists():
        raise UserError(
            f"there is nothing at {path}: give a checkpoint folder, or a generator's {suffix} file."
        )
    if path.is_file():
        if weights is not None:
            raise UserError(
                f"{path} is a file, so --weights {weights} means nothing: give the folder, or leave it out."
            )
        return path
    choices = [path / weights, weights] if weights is not None else [path / name for name in defaults]
    for choice in choices:
        if choice.is_file():
            return choice
    there = ", ".join(sorted(file.name for file in path.glob(f"*{suffix}"))) or f"no {suffix} file at all"
    wanted = weights or " or ".join(defaults)
    raise UserError(
        f"{path} holds no {wanted} (there is: {there}): name the generator's file with --weights FILE."
    )


def _of_same_save(generator: Path, name: str) -> Path | None:
    """The file that was saved with a generator's, G_ema_best0.pth -> D_best0.pth; None for one of no save."""
    renamed, found = re.subn(r"^G(_ema)?(?=[_.])", name, generator.name)
    return generator.with_name(renamed) if found else None


def _training_state(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return read_plain_values(path)
    except UserError as error:
        raise UserError(
            f"{error} It has options that the weights don't tell, such as the norms' epsilon: copy it again, "
            "or move it away to convert with the published ones."
        ) from None


def _is_finite(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
