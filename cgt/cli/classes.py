"""What `--classes` means where it picks classes of a model."""

from cgt.data.selection import class_names
from cgt.errors import UserError
from cgt.models.biggan import Generator
from cgt.models.mixes import Mix, read_mix
from cgt.models.naming import choose


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

    Args:
        generator: with one or more banks, of any of which a mix takes classes.
        choice: as `chosen_classes` has it, with mixes among the names or the lines of the file.

    Raises:
        UserError: as `chosen_classes` and `read_mix`.
    """
    if choice in (None, "all", "new", "old"):
        return [Mix.of(name) for name in chosen_classes(generator, choice)]
    return [read_mix(text, generator.classes, "--classes") for text in class_names(choice)]
