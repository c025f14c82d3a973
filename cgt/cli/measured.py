"""What `cgt eval` measures: a generator, or pictures that are there already."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cgt.cli.classes import chosen_classes
from cgt.data import DataConfig, open_pictures
from cgt.data.loose import LoosePictures, holds_pictures
from cgt.data.manifest import FILE as MANIFEST
from cgt.data.selection import class_names
from cgt.data.sources.picture_files import SUFFIXES
from cgt.errors import UserError
from cgt.files import sha256
from cgt.metrics.settings import EvalConfig
from cgt.metrics.subjects import PictureSet, counts_of
from cgt.models.biggan import Generator
from cgt.models.folder import find_model, load_generator
from cgt.models.naming import choose
from cgt.runs import CONFIG

if TYPE_CHECKING:
    from cgt.metrics.suite import Evaluator


def named(choice: str) -> tuple[str, ...] | None:
    """The classes that `--classes` names; None for all."""
    return None if choice == "all" else class_names(choice)


@dataclass(frozen=True)
class Measured:
    """What is measured, and where it is."""

    path: Path
    it: Generator | PictureSet
    digest: str
    """SHA-256 of a generator's file, or over the pictures."""

    @property
    def pictures(self) -> PictureSet | None:
        """What is measured, where that is pictures."""
        return None if isinstance(self.it, Generator) else self.it

    def classes(self, choice: str) -> tuple[str, ...] | None:
        """The classes that a person asked for; None for pictures without classes, and no choice.

        Raises:
            UserError: an unknown class, or a word that only models know.
        """
        if isinstance(self.it, Generator):
            return tuple(chosen_classes(self.it, choice))
        if choice in ("new", "old"):
            raise UserError(
                f"--classes {choice}: {self.path} is no model, and nothing says which of its classes are "
                f"{choice}: give their names."
            )
        names = named(choice)
        if not self.it.classes:
            return names
        return choose(self.it.classes, names or self.it.classes, str(self.path))

    def images(self, wanted: int | None, classes: Sequence[str] | None) -> int:
        """The number of pictures that are measured.

        Raises:
            UserError: a number for pictures that are there already.
        """
        if isinstance(self.it, Generator):
            return EvalConfig().images if wanted is None else wanted
        if wanted is not None:
            raise UserError(
                f"--images says how many pictures a model makes, and {self.path} has its own: leave it out."
            )
        if classes is None or not self.it.classes:
            return len(self.it)
        return sum(counts_of(self.it, classes).values())

    def seed(self, wanted: int | None) -> int | None:
        """The seed of what a model is given; None for pictures, of which nothing is drawn.

        Raises:
            UserError: a seed for pictures that are there already.
        """
        if isinstance(self.it, Generator):
            return wanted or 0
        if wanted is not None:
            raise UserError(
                f"--seed is of the latents that a model is given, and {self.path} has pictures: leave it out."
            )
        return None

    def check(self, evaluator: "Evaluator") -> None:
        """Refuse what can't be measured so, before there is any work.

        Raises:
            UserError: it has other classes or another picture size, or a metric needs classes.
        """
        if isinstance(self.it, Generator):
            evaluator.check_generator(self.it)
        else:
            evaluator.check_pictures(self.it)

    def scores(self, evaluator: "Evaluator", on_batch: Callable[[], None]) -> dict[str, float]:
        """What the evaluator finds."""
        if isinstance(self.it, Generator):
            return evaluator(self.it.to(evaluator.extractor.device), on_batch)
        return evaluator.of_pictures(self.it, on_batch)


def open_measured(path: Path) -> Measured:
    """A model folder, a run folder, shards, or a folder of picture files.

    Raises:
        UserError: none of these, or a damaged one.
    """
    if (path / MANIFEST).is_file():
        shards = open_pictures(DataConfig(shards=str(path)))
        return Measured(path, shards, shards.digest)
    try:
        folder = find_model(path)
    except UserError:
        if (path / CONFIG).exists() or not path.is_dir():
            raise
        if not holds_pictures(path):
            raise UserError(
                f"{path} is no model, run or shard folder, and has no pictures "
                f"({', '.join(sorted(SUFFIXES))}): name one of these."
            ) from None
        loose = LoosePictures(path)
        return Measured(path, loose, loose.digest)
    return Measured(folder, load_generator(folder), sha256(folder / "generator.safetensors"))
