"""Where pictures come from: one file a source, and its name is what people type.

A source module defines (`SourceModule`):

    INPUT   what its INPUT is, in words, or None for a source that needs none
    SPLITS  the values of --split, the default first
    SIZE    the default of --size, pixels
    read    (Request) -> Source: find the pictures and their classes; decode none yet
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from PIL import Image

from cgt import catalog
from cgt.errors import UserError

INFRASTRUCTURE = frozenset({"archives", "cifar_archive", "imagenet_lists", "parquet_tables", "picture_files"})


class Picture(NamedTuple):
    """One picture of a source, not loaded yet."""

    key: str
    """Unique within the source: letters, digits, `-` and `_`, at most 80."""
    class_name: str
    place: Any
    """Where it is, for `Source.load`: small (a data set may have millions) and picklable."""


@dataclass(frozen=True)
class Source:
    """The pictures of a data set, in a fixed order."""

    classes: tuple[str, ...]
    """In the data set's own order."""
    pictures: Sequence[Picture]
    load: Callable[[Any], Image.Image]
    """The picture at a `Picture.place`, in any mode and size, upright. Called in other processes, so that it
    must be picklable; raises UserError for a picture that can't be read."""
    fingerprint: str = ""
    """Changes when the input does: an interrupted build goes on only with what it began with."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names that people may give for a class: ImageNet's wnids."""
    remark: str | None = None
    """What the person who builds should know of the input, a sentence."""


@dataclass(frozen=True)
class Request:
    """What is asked of a source."""

    path: Path | None
    """None for a source that needs no input."""
    split: str
    size: int
    """Height and width that the pictures will have, pixels: what a source that draws should draw."""
    seed: int
    per_class: int | None
    """Pictures wanted of each class, for a source that makes them; others give all they have."""


class SourceModule(Protocol):
    """What each module of this folder defines."""

    INPUT: str | None
    SPLITS: tuple[str, ...]
    SIZE: int

    def read(self, request: Request) -> Source:
        """Find the pictures.

        Raises:
            UserError: the input is missing or is something else.
        """
        ...


def load(name: str) -> SourceModule:
    """The module of the source `name`.

    Raises:
        UserError: no such source.
    """
    return cast(SourceModule, catalog.load(__name__, name, kind="source"))


def read(
    name: str,
    path: str,
    *,
    split: str | None = None,
    size: int | None = None,
    seed: int = 0,
    per_class: int | None = None,
) -> tuple[Source, Request]:
    """Find the pictures of the source `name` in `path` ("-" for none); None stands for the source's default.

    Raises:
        UserError: no such source or split, or an input that is missing, not wanted, or of another kind.
    """
    module = load(name)
    if module.INPUT is None and path != "-":
        raise UserError(f"the source {name} needs no input: write - in place of {path}.")
    if module.INPUT is not None and path == "-":
        raise UserError(f"the source {name} needs an input: {module.INPUT}.")
    if path != "-" and not Path(path).exists():
        raise UserError(f"there is no {path}: the input of {name} is {module.INPUT}.")
    if split is not None and split not in module.SPLITS:
        raise UserError(f"the source {name} has no split {split!r}: it has {', '.join(module.SPLITS)}.")
    request = Request(
        path=None if path == "-" else Path(path),
        split=split or module.SPLITS[0],
        size=size or module.SIZE,
        seed=seed,
        per_class=per_class,
    )
    return module.read(request), request
