"""What a target of `cgt export` is given, and what it tells."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cgt.errors import UserError
from cgt.export.parity import Parity
from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator


@dataclass(frozen=True)
class Model:
    """A model folder, read."""

    folder: Path
    generator: Generator
    """As it is stored, in eval mode; targets copy what they change."""
    discriminator: Discriminator | None
    """None, too, where no target asked for it."""
    provenance: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What people may ask of an export. Each field is an option of the command line."""

    classes: tuple[str, ...] | None = None
    """These alone, in the model's order; None for all."""
    half: bool = False
    """Store parameters in float16."""
    mixing: bool = False
    """Write a second entry, which takes a weight for every class in place of class ids."""
    truncation: float | None = None
    """z is N(0, 1) cut off at plus and minus this; None for all of it."""
    verify: bool = True
    """Compare what was written with the model, and refuse it where they differ."""

    def refuse_others(self, target: str, taken: frozenset[str]) -> None:
        """Refuse what is set and not among the options that a target takes.

        Raises:
            UserError: naming it.
        """
        for option in fields(self):
            if option.name in taken | {"verify"} or getattr(self, option.name) == option.default:
                continue
            known = ", ".join(f"--{name}" for name in sorted(taken)) or "none of them"
            raise UserError(
                f"--{option.name} has no meaning for --format {target}, which takes {known}: leave it out, "
                "or choose another format."
            )


@dataclass(frozen=True, kw_only=True)
class Input:
    """An input of an exported graph, or its output."""

    name: str
    shape: str
    """With its number type: "float32 (N, 128)"."""
    meaning: str
    """With its range."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a target has written: the card tells it."""

    about: str
    """What it is, whom it is for, what was left out: a paragraph of Markdown."""
    needs: str
    """The packages that its program needs: "onnxruntime and numpy"."""
    program: str
    """Some ten lines of Python that run in the folder."""
    classes: tuple[str, ...]
    """The names, by id."""
    inputs: tuple[Input, ...] = ()
    """And the output, last."""
    parity: Parity | None = None
    """None where it was not measured."""
    compared_with: str = "the model"
    """What it was measured against."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Further facts, by what they are of."""
