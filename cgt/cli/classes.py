"""What `--classes` means where it picks classes of a model."""

from cgt.data.selection import choose, class_names
from cgt.errors import UserError
from cgt.models.biggan import Generator


def chosen_classes(generator: Generator, choice: str | None) -> list[str]:
    """The classes of `generator` that a person asked for.

    Args:
        generator: with one or more banks.
        choice: "all" (or None), "old" for those of all banks but the last, "new" for those of the last, names
            ("a,b"), or a text file of names.

    Raises:
        UserError: "old" or "new" of a generator that was never extended, or an unknown name.
    """
    names = generator.classes
    if choice is None or choice == "all":
        return names
    if choice in ("old", "new"):
        if len(generator.banks) < 2:
            raise UserError(
                f"--classes {choice} needs a model that was extended, and this one has a single bank: "
                "leave it out, or give names."
            )
        first_new = len(names) - len(generator.banks[-1].classes)  # type: ignore[arg-type]
        return names[:first_new] if choice == "old" else names[first_new:]
    return list(choose(names, class_names(choice), "the model"))
