"""Grow a class-conditional image generator by new classes from few pictures, without spoiling its old ones.

>>> import cgt
>>> generator = cgt.load_generator("models/source")
>>> images = generator.sample(classes=["alley", "tench"], n=8, truncation=0.5, seed=0)
>>> images.shape
torch.Size([16, 3, 8, 8])

`__all__` is the public API. The networks come with torch when they are first asked for; the command line's
help needs neither.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgt.errors import RunError, UserError
    from cgt.models.biggan import Generator
    from cgt.models.discriminator import Discriminator
    from cgt.models.folder import load_generator, load_model, save_model
    from cgt.models.norm import ClassBank

__version__ = "0.1.0"

__all__ = [
    "ClassBank",
    "Discriminator",
    "Generator",
    "RunError",
    "UserError",
    "__version__",
    "load_generator",
    "load_model",
    "save_model",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cgt import errors

    if hasattr(errors, name):
        return getattr(errors, name)
    from cgt.models import biggan, discriminator, folder, norm

    return next(
        getattr(module, name) for module in (biggan, discriminator, folder, norm) if hasattr(module, name)
    )
