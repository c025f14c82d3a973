"""Generators with fewer banks or classes, or with banks of several: what stays is what it was, to the bit.

What a generator makes of a class follows from the class's bank and from the *trunk*, the tensors of no bank.
So a bank can go, and where trunks are equal banks can come together, by copying tensors alone. All functions
take generators and discriminators as they were loaded (`load_model`), and change none of them.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.models.naming import listed
from cgt.models.norm import Bank


def banks_of(generator: Generator) -> list[Bank]:
    """The banks, typed."""
    return [cast(Bank, bank) for bank in generator.banks]


def bank_with_classes(generator: Generator, classes: Sequence[str]) -> int:
    """The number, from 0, of the bank that has these classes and no others.

    Args:
        generator: with one or more banks.
        classes: names that it has, in any order.

    Raises:
        ValueError: they belong to several banks, or are a part of one; it says what is in the banks.
    """
    found = [
        (number, bank)
        for number, bank in enumerate(banks_of(generator))
        if not set(classes).isdisjoint(bank.classes)
    ]
    within = "; ".join(f"bank {number} has {listed(bank.classes)}" for number, bank in found)
    if len(found) > 1:
        raise ValueError(f"{listed(classes)} belong to several banks, and one goes at a time: {within}.")
    [(number, bank)] = found
    if missing := [name for name in bank.classes if name not in classes]:
        raise ValueError(
            f"a bank goes only as a whole, for its classes share statistics, and {within}: name "
            f"{listed(missing)} too, or give the bank's number {number}."
        )
    return number


def without_bank(generator: Generator, number: int) -> Generator:
    """A copy without one bank. The ids of the classes after it move up.

    Raises:
        ValueError: there is no bank of that number, from 0, or it is the last one left.
    """
    count = len(generator.banks)
    if not 0 <= number < count:
        raise ValueError(f"there is no bank {number}: the banks are numbered from 0 to {count - 1}.")
    if count == 1:
        raise ValueError(
            f"bank 0, with {listed(generator.classes)}, is the only one, and without it there would be "
            "nothing left to make: remove banks of a model that has more."
        )
    rest = copy.deepcopy(generator)
    del rest.banks[number]
    return rest


def with_classes(generator: Generator, classes: Collection[str]) -> Generator:
    """A copy with these classes alone, in the generator's order; banks that none of them is of are gone.

    Args:
        generator: with one or more banks; where none of them is an embedding (it was folded), every class
            stays what it was to the bit.
        classes: names that it has, at least one.
    """
    rest = copy.deepcopy(generator)
    kept = [
        (bank, [row for row, name in enumerate(bank.classes) if name in classes]) for bank in banks_of(rest)
    ]
    rest.banks = nn.ModuleList(bank.only(rows) for bank, rows in kept if rows)
    return rest


def merged(generators: Sequence[Generator], names: Sequence[str]) -> Generator:
    """The banks of extensions of one source in one generator: the first's, then what each of the others adds.

    A bank that several have is taken once, so that extensions of extensions share what they have in common.

    Args:
        generators: two or more, with equal trunks and an equal first bank.
        names: of each, for messages.

    Raises:
        ValueError: there is nothing to merge; a trunk or a first bank differs, naming the first tensor that
            does; or different banks have a class name in common.
    """
    if len(generators) < 2:
        raise ValueError("there is nothing to merge: name two models or more.")
    first, result = generators[0], copy.deepcopy(generators[0])
    origins = [names[0]] * len(result.banks)
    for generator, name in zip(generators[1:], names[1:], strict=True):
        if difference := _difference_of_sources(first, generator):
            raise ValueError(
                f"{names[0]} and {name} are not extensions of one source: {difference}. Merge models that "
                "transfers which keep the old classes made, directly or one after another, of the same model."
            )
        for number, bank in enumerate(banks_of(generator)):
            others = list(zip(banks_of(result), origins, strict=True))
            if any(_difference_of_banks(bank, other) is None for other, _ in others):
                continue
            for other, origin in others:
                if doubles := [name for name in bank.classes if name in other.classes]:
                    raise ValueError(
                        f"bank {number} of {name} and a bank of {origin} both have the classes "
                        f"{listed(doubles)}, and are not the same: take one of the two banks out "
                        "(`cgt banks remove`), or train one again with other class names."
                    )
            result.append(copy.deepcopy(bank))
            origins.append(name)
    return result


def one_discriminator(discriminators: Sequence[Discriminator | None]) -> Discriminator | None:
    """The discriminator that all of them are, or None where two differ or one is missing."""
    first, *others = discriminators
    for other in others:
        if first is None or other is None:
            return None
        if (first.config, first.classes) != (other.config, other.classes):
            return None
        if _first_difference(first.state_dict(), other.state_dict()):
            return None
    return first


def _difference_of_sources(one: Generator, other: Generator) -> str | None:
    """How the trunks or the first banks of two generators differ; None where they don't."""
    shape, other_shape = ({"resolution": g.resolution, **vars(g.config)} for g in (one, other))
    for key, value in shape.items():
        if value != other_shape[key]:
            return f"{key} is {value} in the one and {other_shape[key]} in the other"
    if one.folded != other.folded:
        return "one of them is folded for inference, and the other is not"
    if name := _first_difference(_trunk(one), _trunk(other)):
        return f"{name} differs"
    if name := _difference_of_banks(banks_of(one)[0], banks_of(other)[0]):
        return (
            f"their first banks differ in {name} (and if one of them was removed, it had to be merged before)"
        )
    return None


def _difference_of_banks(one: Bank, other: Bank) -> str | None:
    """What differs first between two banks; None where they are one and the same."""
    if one.classes != other.classes:
        return f"their classes, {listed(one.classes)} and {listed(other.classes)}"
    if (type(one), one.options()) != (type(other), other.options()):
        return "their kinds"
    return _first_difference(one.state_dict(), other.state_dict())


def _first_difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that is not in both, equal to the bit."""
    names = dict.fromkeys([*one, *other])
    return next(
        (n for n in names if n not in one or n not in other or not torch.equal(one[n], other[n])), None
    )


def _trunk(generator: Generator) -> dict[str, Tensor]:
    """Every tensor that is of no bank, by name."""
    of_banks = {id(tensor) for tensor in generator.banks.state_dict(keep_vars=True).values()}
    state = generator.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if id(tensor) not in of_banks}
