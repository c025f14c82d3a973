"""Plug-ins by file name: the name that a person types is the name of a module in one folder.

This and the choice of a verb in `cgt.cli` are the only dynamic imports. A folder of plug-ins says in its
`__init__` docstring what a module there must define; modules that are no plug-ins are listed there as
`INFRASTRUCTURE`.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType

from cgt.errors import UserError


def names(package: str) -> list[str]:
    """The names of the plug-ins in `package` ("cgt.data.sources"), sorted, as people type them."""
    folder = importlib.import_module(package)
    infrastructure: frozenset[str] = getattr(folder, "INFRASTRUCTURE", frozenset())
    modules = {module.name for module in pkgutil.iter_modules(folder.__path__)}
    return sorted(name.replace("_", "-") for name in modules - infrastructure)


def load(package: str, name: str, *, kind: str) -> ModuleType:
    """The plug-in `name` of `package`; `-` and `_` are the same.

    `kind` is the word for such a plug-in in the message ("method").

    Raises:
        UserError: no such plug-in.
    """
    known = names(package)
    typed = name.replace("_", "-")
    if typed not in known:
        hint = did_you_mean(typed, known)
        raise UserError(f"no {kind} is called {name!r}{hint}. There are: {', '.join(known)}.")
    return importlib.import_module(f"{package}.{typed.replace('-', '_')}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the known word nearest to `word`, or an empty text where none is near."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), list(by_lower), n=1)
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""
