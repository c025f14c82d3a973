"""What a picture is of: a class, or a mix of several, as people write it."""

import math
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import SupportsIndex, cast

from cgt.errors import UserError
from cgt.models.naming import choose, repeated

ROUNDING = 0.015
"""Weights that add up to 1 within this are scaled to do so exactly: three thirds may be given as 0.33."""
Wanted = Iterable[str | SupportsIndex] | str | SupportsIndex | None
"""Classes by name or by id, and mixes such as "tench:0.5+alley:0.5"; or one of these; or None for all."""


@dataclass(frozen=True)
class Mix:
    """What a picture is of: one class, or a point between several."""

    name: str
    """As people write it: a class's name, or "tench:0.5+alley:0.5"."""
    parts: tuple[tuple[str, float], ...]
    """Names of classes, and their weights, which add up to 1."""

    @classmethod
    def of(cls, name: str) -> "Mix":
        """The class `name` alone."""
        return cls(name, ((name, 1.0),))

    def towards(self, other: "Mix", share: float) -> "Mix":
        """The point at `share` of the way to another, from 0 (this) to 1 (the other)."""
        weights = {name: (1 - share) * weight for name, weight in self.parts}
        for name, weight in other.parts:
            weights[name] = weights.get(name, 0.0) + share * weight
        parts = tuple((name, weight) for name, weight in weights.items() if weight)
        return Mix("+".join(f"{name}:{weight:g}" for name, weight in parts), parts)


def wanted_mixes(classes: Wanted, known: Sequence[str]) -> list[Mix]:
    """What a caller asks for, in its order.

    Args:
        classes: by name or by id, which is a position in `known`; None for every class by itself.
        known: the classes of the model.

    Raises:
        UserError: nothing is asked for, or something twice; an unknown name or id; or a mix that `read_mix`
            refuses.
    """
    if classes is None:
        return [Mix.of(name) for name in known]
    # Numbers of numpy and torch have no dimension.
    alone = isinstance(classes, str | int) or getattr(classes, "ndim", None) == 0
    several = [classes] if alone else classes
    mixes = [
        read_mix(one, known, "classes") if isinstance(one, str) else Mix.of(_by_id(one, known))
        for one in cast(Iterable[str | SupportsIndex], several)
    ]
    if not mixes:
        raise UserError("classes is empty: name at least one, or give None for all.")
    if doubles := repeated([mix.name for mix in mixes]):
        raise UserError(
            f"classes has {', '.join(map(repr, doubles))} twice, which would be the same pictures again: ask "
            "for more of a class with n."
        )
    return mixes


def read_mix(text: str, known: Sequence[str], option: str) -> Mix:
    """The class or the mix `NAME:WEIGHT+NAME:WEIGHT` that a text means.

    The name of a class is that class, whatever signs it has. In a mix, what stands before a weight must be
    the name of a class, which settles where a name with `+` or `:` ends.

    Args:
        text: of a person.
        known: the classes of the model.
        option: what the text was given as, for messages.

    Raises:
        UserError: an unknown name, or a mix that can be read in no way or several, or whose weights are not
            above 0 or don't add up to 1.
    """
    if text in known:
        return Mix.of(text)
    readings = list(_readings(text, known))
    if not readings:
        raise _unread(text, known, option)
    if len(readings) > 1:
        one, other = (" and ".join(f"{weight:g} of {name!r}" for name, weight in way) for way in readings[:2])
        raise UserError(
            f"{option} {text!r} can mean {one}, or {other}: rename a class of the model, or name others."
        )
    names, weights = zip(*readings[0], strict=True)
    if doubles := sorted(repeated(names)):
        raise UserError(f"{option} {text!r} mixes {doubles[0]!r} with itself: give each class once.")
    total = math.fsum(weights)
    if min(weights) <= 0:
        raise UserError(f"{option} {text!r}: weights must be above 0; leave out what weighs nothing.")
    if abs(total - 1) > ROUNDING:
        scaled = "+".join(f"{name}:{weight / total:.3g}" for name, weight in readings[0])
        raise UserError(
            f"{option} {text!r}: the weights add up to {total:g}, and must to 1: write {scaled}, for example."
        )
    return Mix(text, tuple((name, weight / total) for name, weight in readings[0]))


def _by_id(number: SupportsIndex, known: Sequence[str]) -> str:
    try:
        y = -1 if isinstance(number, bool) else operator.index(number)
    except TypeError:  # a fraction, say
        y = -1
    if not 0 <= y < len(known):
        raise UserError(
            f"classes has {number!r}, and the model's ids are 0 to {len(known) - 1}: give one of these, or a "
            "name."
        )
    return known[y]


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


def _unread(text: str, known: Sequence[str], option: str) -> UserError:
    """Why `text` is neither a class nor a mix."""
    parts = [part.rpartition(":") for part in text.split("+")]
    form = "A mix is written NAME:WEIGHT+NAME:WEIGHT, such as cat:0.5+dog:0.5."
    mixed = all(colon for _, colon, _ in parts)
    names = [name.strip() for name, _, _ in parts] if mixed else [text]
    try:
        choose(known, names, "the model")
    except UserError as error:
        return UserError(f"{option} {text!r}: {error}" + (f" {form}" if re.search("[+:]", text) else ""))
    weight = next(weight for _, _, weight in parts if not _WEIGHT.fullmatch(weight.strip()))
    return UserError(f"{option} {text!r}: {weight!r} is no weight, which is a number above 0. {form}")
