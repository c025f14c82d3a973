"""What class names may be, wherever they come in, how they are listed and chosen, and the kinds of banks."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from cgt.catalog import did_you_mean
from cgt.errors import UserError

BankKind = Literal["embedding", "tables", "mined", "steered"]
"""What a model folder calls its banks, by what their classes are made of."""


def distinct(classes: Sequence[str]) -> tuple[str, ...]:
    """The class names, which differ and can be written in a list with commas, or one a line.

    Raises:
        ValueError: there is none, one is given twice, or one could not be written so.
    """
    if not classes:
        raise ValueError("there must be at least one class, and there is none: give its name")
    for name in classes:
        # Surrogates stand for what is no text: so Python shows bytes of a file's name that are not UTF-8.
        odd = re.search(r"[,\x00-\x1f\ud800-\udfff]", name)
        if not name or odd or name != name.strip() or name.startswith("#"):
            raise ValueError(
                f"the class name {name!r} won't do: since lists of classes are written with them, a name "
                "can't be empty or have commas, line ends, bytes that are not UTF-8, spaces around it or # "
                "in front; rename it"
            )
    if doubles := repeated(classes):
        raise ValueError(
            f"class names must differ, but {', '.join(map(repr, doubles))} stands twice: rename one, or "
            "leave one out"
        )
    return tuple(classes)


def repeated(names: Sequence[str]) -> list[str]:
    """The names that stand more than once, in their order."""
    return [name for name, times in Counter(names).items() if times > 1]


def listed(names: Sequence[str], most: int = 20) -> str:
    """The names in a row for a message; of more than `most`, the first and the number of the others."""
    others = len(names) - most
    return ", ".join(names[:most]) + (f" and {others} more" if others > 0 else "")


def choose(known: Sequence[str], wanted: Iterable[str], place: str) -> tuple[str, ...]:
    """`wanted`, if all of it is `known`.

    Raises:
        UserError: naming what `place` has no class for.
    """
    wanted = tuple(wanted)
    unknown = [name for name in wanted if name not in set(known)]
    if unknown:
        missing = ", ".join(map(repr, unknown[:5])) + did_you_mean(unknown[0], known)
        raise UserError(f"{place} has no class {missing}. It has: {listed(known)}.")
    return wanted
