"""Names for the classes of checkpoints, which know them by number alone."""

from collections.abc import Sequence
from pathlib import Path

from cgt.errors import UserError


def numbered(word: str, count: int) -> list[str]:
    """class_000, class_001 and so on, with as many digits as the last one needs."""
    digits = max(3, len(str(count - 1)))
    return [f"{word}_{i:0{digits}d}" for i in range(count)]


def given_or(defaults: Sequence[str], classes: Sequence[str] | None, path: Path) -> list[str]:
    """The names that the user gave, else the defaults.

    Raises:
        UserError: they are not as many as `path` has classes.
    """
    if classes is None:
        return list(defaults)
    if len(classes) != len(defaults):
        raise UserError(
            f"{len(classes)} class names are given, and {path} has {len(defaults)} classes: "
            "give one name for each, in the order of its labels."
        )
    return list(classes)
