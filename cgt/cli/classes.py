"""What `--classes` means where it picks classes of a model."""

import math
import re
from collections.abc import Iterator, Sequence

from cgt.data.selection import choose, class_names
from cgt.errors import UserError
from cgt.models.biggan import Generator
from cgt.models.sampling import Mix

ROUNDING = 0.015
"""Weights that add up to 1 within this are scaled to do so exactly: three thirds may be given as 0.33."""


def chosen_classes(generator: Generator, choice: str | None) -> list[str]:
    """The classes of `generator` that a person asked for.

    Args:
        generator: with one or more banks.
        choice: "all" (or None), "new" for those of the last bank (all, where there is one), "old" for
            those before, names ("a,b"), or a text file of names.

    Raises:
        UserError: "old" of a generator that was never extended, or an unknown name.
    """
    names = generator.classes
    if choice is None or choice == "all":
        return names
    first_new = generator.first_of_last_bank
    if choice == "new":
        return names[first_new:]
    if choice == "old":
        if not first_new:
            raise UserError(
                "--classes old needs a model that a transfer extended, and this one has the classes of one "
                "training alone: leave it out, or give names."
            )
        return names[:first_new]
    return list(choose(names, class_names(choice), "the model"))


def chosen_mixes(generator: Generator, choice: str | None) -> list[Mix]:
    """The classes that a person asked for, where `NAME:WEIGHT+NAME:WEIGHT` stands for a mix of classes.

    The name of a class is that class, whatever signs it has. In a mix, what stands before a weight must be
    the name of a class, which settles where a name with `+` or `:` ends.

    Args:
        generator: with one or more banks, of any of which a mix takes classes.
        choice: as `chosen_classes` has it, with mixes among the names or the lines of the file.

    Raises:
        UserError: as `chosen_classes`; or a mix that can be read in no way or several, or whose weights are
            not above 0 or don't add up to 1.
    """
    if choice in (None, "all", "new", "old"):
        return [Mix.of(name) for name in chosen_classes(generator, choice)]
    return [_mix(text, generator.classes) for text in class_names(choice)]


def _mix(text: str, known: Sequence[str]) -> Mix:
    if text in known:
        return Mix.of(text)
    readings = list(_readings(text, known))
    if not readings:
        raise _unread(text, known)
    if len(readings) > 1:
        one, other = (" and ".join(f"{weight:g} of {name!r}" for name, weight in way) for way in readings[:2])
        raise UserError(
            f"--classes {text!r} can mean {one}, or {other}: rename a class of the model, or name others."
        )
    names, weights = zip(*readings[0], strict=True)
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise UserError(f"--classes {text!r} mixes {doubles[0]!r} with itself: give each class once.")
    total = math.fsum(weights)
    if min(weights) <= 0:
        raise UserError(f"--classes {text!r}: weights must be above 0; leave out what weighs nothing.")
    if abs(total - 1) > ROUNDING:
        scaled = "+".join(f"{name}:{weight / total:.3g}" for name, weight in readings[0])
        raise UserError(
            f"--classes {text!r}: the weights add up to {total:g}, and must to 1: write {scaled}, for "
            "example."
        )
    return Mix(text, tuple((name, weight / total) for name, weight in readings[0]))


def _readings(text: str, known: Sequence[str]) -> Iterator[tuple[tuple[str, float], ...]]:
    """All ways to take `text` for a mix of known classes."""
    ends = [match.start() for match in re.finditer(r"\+", text)]
    for end in (*ends, len(text)):
        name, _, weight = text[:end].rpartition(":")
        if name.strip() in known and _WEIGHT.fullmatch(weight.strip()):
            part = (name.strip(), float(weight))
            if end == len(text):
                yield (part,)
            else:
                yield from ((part, *others) for others in _readings(text[end + 1 :], known))


_WEIGHT = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]+")


def _unread(text: str, known: Sequence[str]) -> UserError:
    """Why `text` is neither a class nor a mix."""
    parts = [part.rpartition(":") for part in text.split("+")]
    form = "A mix is written NAME:WEIGHT+NAME:WEIGHT, such as cat:0.5+dog:0.5."
    mixed = all(colon for _, colon, _ in parts)
    names = [name.strip() for name, _, _ in parts] if mixed else [text]
    try:
        choose(known, names, "the model")
    except UserError as error:
        return UserError(f"--classes {text!r}: {error}" + (f" {form}" if re.search("[+:]", text) else ""))
    weight = next(weight for _, _, weight in parts if not _WEIGHT.fullmatch(weight.strip()))
    return UserError(f"--classes {text!r}: {weight!r} is no weight, which is a number above 0. {form}")
