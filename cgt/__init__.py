"""Grow a class-conditional image generator by new classes from few pictures, without spoiling its old ones.

The networks come with torch when they are first asked for; the command line's help needs neither.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgt.models.biggan import Generator
    from cgt.models.discriminator import Discriminator
    from cgt.models.folder import load_generator
    from cgt.models.norm import ClassBank

__version__ = "0.1.0"

__all__ = ["ClassBank", "Discriminator", "Generator", "__version__", "load_generator"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cgt.models import biggan, discriminator, folder, norm

    return next(
        getattr(module, name) for module in (biggan, discriminator, folder, norm) if hasattr(module, name)
    )
