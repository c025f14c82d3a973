"""The page: sections in, one HTML file out that needs no other file, no network and no script."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cgt import __version__
from cgt.errors import UserError
from cgt.files import FolderKind, replacing_folder, write_bytes, write_json, write_text
from cgt.report.blocks import Plot, Plots, Section, Sheet, Sheets, Strip
from cgt.report.figures import (
    SERIES,
    SMALL,
    dash_array,
    page_svg,
    png_file,
    sheet_file,
    strip_uri,
    svg_file,
)
from cgt.wording import counted

LARGEST = 5_000_000
"""Bytes of a page, as far as smaller pictures can help."""
SIDES = (128, 96, 64, 48, 32, 16)
"""Pixels of a picture on the page at most: the first with which the page is small enough."""
INDEX = "figures.json"
FIGURES = FolderKind("a folder of figures", (INDEX,), ("*.svg", "*.png"))

_HERE = Path(__file__).parent


def check_suffix(out: Path) -> None:
    """Refuse a name that no browser would open as a page.

    Raises:
        UserError: it ends in something else than .html.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out}: a report is one HTML page; name it with the suffix .html.")


def write_page(path: Path, title: str, sections: Sequence[Section]) -> int:
    """Write the page, whole or not at all; returns its size in bytes.

    Raises:
        RunError: the disk is full.
        UserError: `path` is no place for a file.
    """
    for side in SIDES:
        page = rendered(title, sections, side)
        size = len(page.encode())
        if size <= LARGEST:
            break
    write_text(path, page)
    return size


def rendered(title: str, sections: Sequence[Section], side: int = SIDES[0]) -> str:
    """The page as HTML, with pictures of at most `side` pixels."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def pictures(strip: Strip) -> tuple[str, int, int]:
        return strip_uri(strip.x_K3HW, side)

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("page.html").render(
        title=title,
        version=__version__,
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        sections=sections,
        drawn=lambda plot: Markup(page_svg(plot)),
        pictures=pictures,
        counted=counted,
        breakable=lambda name: Markup("/<wbr>").join(name.split("/")),
        dashes=dash_array,
        colours=len(SERIES),
        small=SMALL,
    )


def write_figures(folder: Path, sections: Sequence[Section]) -> int:
    """Write every plot as SVG and PNG and every sheet of pictures as PNG, whole or not at all; returns how
    many figures there are.

    figures.json says what each of them is.

    Raises:
        RunError: the disk is full.
        UserError: `folder` is no place for a folder.
    """
    index = {}
    with replacing_folder(folder) as temporary:
        for section, figure in _figures(sections):
            index[figure.name] = f"{section.title}: {figure.title}"
            if isinstance(figure, Plot):
                write_bytes(temporary / f"{figure.name}.svg", svg_file(figure))
                write_bytes(temporary / f"{figure.name}.png", png_file(figure))
            else:
                write_bytes(temporary / f"{figure.name}.png", sheet_file(figure))
        write_json(temporary / INDEX, index)
    return len(index)


def _figures(sections: Sequence[Section]) -> Iterator[tuple[Section, Plot | Sheet]]:
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Plots):
                yield from ((section, plot) for plot in block.plots)
            if isinstance(block, Sheets):
                yield from ((section, sheet) for sheet in block.sheets)
