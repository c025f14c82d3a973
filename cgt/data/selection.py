"""Which classes, and how many pictures of each, are taken from a shard folder."""

import functools
import hashlib
import importlib.resources
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BeforeValidator

from cgt.data.manifest import Manifest, Shard
from cgt.data.samples import Sample
from cgt.errors import UserError
from cgt.models.naming import distinct


def _numbers_as_names(value: Any) -> Any:
    """YAML reads the class names of digits, `[8, 9]`, as numbers."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return [_numbers_as_names(item) for item in value] if isinstance(value, list | tuple) else value


Classes = Annotated[tuple[str, ...] | str | None, BeforeValidator(_numbers_as_names)]
"""Classes in a config, in the forms that `class_names` takes; None for all."""


def class_names(names: str | Sequence[str]) -> tuple[str, ...]:
    """The class names that a person gave: a sequence, "a,b", a text file, or a text file of `cgt.configs`.

    What has a comma is a list of names. A text file has one name a line; empty lines and lines that start
    with # don't count.

    Raises:
        UserError: no names, a name given twice or one that won't do, or a file that can't be read.
    """
    where = "the list of classes"
    if isinstance(names, str):
        text = _text(names)
        if text is None:
            names = [name.strip() for name in names.split(",")]
        else:
            where = names
            lines = (line.strip() for line in text.splitlines())
            names = [line for line in lines if line and not line.startswith("#")]
    try:
        return distinct(names)
    except ValueError as error:
        raise UserError(f"{where}: {error}.") from None


@dataclass(frozen=True)
class Selection:
    """The pictures of some classes, at most the first `per_class` of each in stored order."""

    manifest: Manifest
    classes: tuple[str, ...]
    """A picture's label is a position in this list."""
    per_class: int | None = None

    @property
    def counts(self) -> tuple[int, ...]:
        """Pictures taken of each class."""
        totals = self.manifest.counts()
        return tuple(
            totals[name] if self.per_class is None else min(totals[name], self.per_class)
            for name in self.classes
        )

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal, over the shards' hashes and the selection: equal for equal pictures."""
        content = self.manifest.to_json()
        del content["build"]
        text = json.dumps([content, self.classes, self.per_class], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @functools.cached_property
    def taken(self) -> dict[str, dict[str, int]]:
        """How many pictures of each class, its first, are taken from each shard (by its file)."""
        left = dict(zip(self.classes, self.counts, strict=True))
        taken = {}
        for shard in self.manifest.shards:
            here = {name: min(n, left[name]) for name, n in shard.counts.items() if left.get(name)}
            for name, n in here.items():
                left[name] -= n
            if here:
                taken[shard.file] = here
        return taken

    def shards(self) -> list[Shard]:
        """The shards from which any picture is taken, in stored order."""
        return [shard for shard in self.manifest.shards if shard.file in self.taken]

    def pick(self, shard: Shard, samples: Iterable[Sample]) -> Iterator[tuple[int, Sample]]:
        """(label, sample) of those samples of a shard that are taken."""
        left = dict(self.taken.get(shard.file, {}))
        labels = {name: label for label, name in enumerate(self.classes)}
        for sample in samples:
            name = self.manifest.classes[sample.cls]
            if left.get(name, 0):
                left[name] -= 1
                yield labels[name], sample


def _text(name: str) -> str | None:
    """The content of the text file that `name` means, or None where it means class names."""
    if "," in name:
        return None
    pure = PurePosixPath(name)
    try:
        if os.path.isfile(name):  # noqa: PTH113 - Path.is_file raises where a name is too long for a file
            return Path(name).read_text(encoding="utf-8-sig")
        if pure.suffix != ".txt":
            return None
        if not pure.is_absolute() and ".." not in pure.parts:
            entry = importlib.resources.files("cgt.configs").joinpath(name)
            if entry.is_file():
                return entry.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{name} can't be read as text ({error}): give a UTF-8 file with one class name a line."
        ) from None
    raise UserError(
        f"there is no file {name} with class names: check the path, or give the names themselves (a,b,c)."
    )
