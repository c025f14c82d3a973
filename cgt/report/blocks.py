"""What sections are made of. How each of these looks is page.html's matter.

Shapes: K pictures of a row, H rows and W columns of pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Heading:
    """What follows belongs to one run, or to one part of the section."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells of text; the first of each row heads it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Listing:
    """Text as it stands in a file, folded away."""

    title: str
    text: str


@dataclass(frozen=True)
class Plot:
    """A drawing with axes."""

    name: str
    """Of its files."""
    title: str
    alt: str
    """What it shows, for those who can't see it."""
    draw: Callable[["Axes"], Any]
    width: float = 4.3
    height: float = 2.7


@dataclass(frozen=True)
class Legend:
    """Which line is which, for the plots that follow: names in the order of the styles."""

    names: Sequence[str]


@dataclass(frozen=True)
class Plots:
    """Plots beside each other as far as there is room."""

    plots: Sequence[Plot]


@dataclass(frozen=True)
class Strip:
    """Pictures in a row."""

    label: str
    x_K3HW: Tensor
    """uint8."""


@dataclass(frozen=True)
class Sheet:
    """Rows of pictures that belong together."""

    name: str
    """Of its file."""
    title: str
    strips: Sequence[Strip]
    note: str = ""


@dataclass(frozen=True)
class Sheets:
    """Sheets beside each other as far as there is room."""

    sheets: Sequence[Sheet]


Block = Words | Heading | Table | Listing | Plots | Legend | Sheets


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    id: str
    title: str
    blocks: list[Block] = field(default_factory=list)
