"""Drawing plots and picture sheets: as files of their own, and for the page with its colours.

There a plot is SVG with its text as text, and each colour of `PALETTE` is a variable of the style sheet,
which knows a light and a dark theme.
"""

import base64
import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image
from torch import Tensor

from cgt.images import grid, to_pil
from cgt.report.blocks import Plot, Sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SERIES = ("#0062a3", "#b34700", "#00714f", "#9b2f7f", "#7a5c00", "#3f51b5", "#a3262f", "#4d5966")
"""Of lines and bars, in their order; each at least 4.5:1 on white."""
DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
"""Of lines: with colours that come round again, and for those who can't tell colours."""
INK, FAINT, PAPER = "#16191d", "#d0d5db", "#fefefe"
PALETTE = {colour: f"--series-{i}" for i, colour in enumerate(SERIES)} | {
    INK: "--ink",
    FAINT: "--faint",
    PAPER: "--paper",
}
SMALL = 64
"""Pixels up to which pictures of the page are kept to the bit; larger ones lose some."""

_STYLE = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "path.simplify_threshold": 0.5,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # class names may have dollar signs
    "xtick.color": INK,
    "ytick.color": INK,
}


def style_of(place: int) -> dict[str, object]:
    """matplotlib's options of the line of the group at `place`."""
    # The dash changes with every line: neighbours differ in both.
    return {"color": SERIES[place % len(SERIES)], "linestyle": DASHES[place % len(DASHES)]}


def page_svg(plot: Plot) -> str:
    """The plot as an element of the page, with colours of the page's theme."""
    text = _svg(plot, paper="none", alone=False)
    text = text[text.index("<svg") :]
    # Names that are unique in the plot become unique in the page.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{plot.name}-", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: _variable(found.group()), text)
    opening = re.sub(r' (width|height)="[^"]*pt"', "", text[: text.index(">") + 1])
    label = _escaped(plot.alt)
    opening = opening[:-1] + f' role="img" aria-label="{label}">'
    return opening + text[text.index(">") + 1 :].strip()


def svg_file(plot: Plot) -> bytes:
    """The plot as a file, on white."""
    return _svg(plot, paper="white", alone=True).encode()


def png_file(plot: Plot) -> bytes:
    """The plot as a PNG, on white."""
    buffer = io.BytesIO()
    with _styled():
        _drawn(plot).savefig(buffer, format="png", dpi=200, facecolor="white")
    return buffer.getvalue()


def strip_uri(x_K3HW: Tensor, side: int) -> tuple[str, int, int]:
    """Pictures in a row as a data URI, with the width and height of what it holds.

    Args:
        x_K3HW: uint8.
        side: pixels that a picture has at most; larger ones are reduced to it.
    """
    image = to_pil(grid(fitted(x_K3HW, side), len(x_K3HW), gap=0))
    exact = min(side, x_K3HW.shape[-1]) <= SMALL
    buffer = io.BytesIO()
    image.save(buffer, "webp", lossless=exact, quality=100 if exact else 82, exact=exact)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", *image.size


def sheet_file(sheet: Sheet) -> bytes:
    """The strips of a sheet below each other as a PNG, each at its own size."""
    rows = [to_pil(grid(strip.x_K3HW, len(strip.x_K3HW))) for strip in sheet.strips]
    page = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        page.paste(row, (0, top))
        top += row.height
    buffer = io.BytesIO()
    page.save(buffer, "png")
    return buffer.getvalue()


def fitted(x_K3HW: Tensor, side: int) -> Tensor:
    """uint8 pictures reduced to `side` pixels where they are larger."""
    import torch

    if x_K3HW.shape[-1] <= side:
        return x_K3HW
    reduced = [to_pil(x).resize((side, side), Image.Resampling.LANCZOS) for x in x_K3HW]
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in reduced])


def dash_array(place: int) -> Sequence[float]:
    """The dashes of a line as SVG has them; empty for a solid one."""
    dash = DASHES[place % len(DASHES)]
    return [] if isinstance(dash, str) else [2 * float(length) for length in dash[1]]


def _styled() -> AbstractContextManager[None]:
    import matplotlib

    return cast(AbstractContextManager[None], matplotlib.rc_context(_STYLE | {"svg.hashsalt": "cgt"}))


def _drawn(plot: Plot, *, alone: bool = True) -> "Figure":
    """The plot, which if it stands `alone` says itself what it is, and which line is whose."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(plot.width, plot.height), layout="constrained")
    axes = figure.subplots()
    plot.draw(axes)
    if alone:
        axes.set_title(plot.title)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", frameon=False, fontsize=7)
    return figure


def _svg(plot: Plot, paper: str, *, alone: bool) -> str:
    buffer = io.StringIO()
    with _styled():
        _drawn(plot, alone=alone).savefig(buffer, format="svg", facecolor=paper, metadata={"Date": None})
    return buffer.getvalue()


def _variable(colour: str) -> str:
    return f"var({PALETTE[colour]})" if colour in PALETTE else colour


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
