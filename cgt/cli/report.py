"""`cgt report`: one page that shows what runs did."""

from pathlib import Path
from typing import Annotated

import typer

from cgt.cli.options import OVERWRITE
from cgt.wording import counted

RUNS = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="Run folders; those that differ by the seed alone go together."),
]
OUT = Annotated[Path, typer.Option("--out", metavar="FILE.html", help="The page.")]
FIGURES = Annotated[
    Path | None,
    typer.Option(
        "--figures", metavar="DIR", help="Write the figures there too, as SVG and PNG.", show_default=False
    ),
]


def report(runs: RUNS, out: OUT, figures: FIGURES = None, overwrite: OVERWRITE = False) -> None:
    """Show what runs did, on one page that opens offline in any browser.

    Settings, curves, scores beside the paper's, and pictures: of new and old classes beside real ones, of
    what knowledge propagation made of the old classes, from old classes to new ones, and the training
    pictures that are nearest to generated ones.
    """
    from cgt.files import refuse_existing
    from cgt.progress import work_progress
    from cgt.report.assemble import SECTIONS, read_groups, sections_of, title_of
    from cgt.report.page import FIGURES as FOLDER
    from cgt.report.page import check_suffix, write_figures, write_page

    check_suffix(out)
    refuse_existing(out, overwrite=overwrite, inputs=runs)
    if figures is not None:
        refuse_existing(figures, overwrite=overwrite, kind=FOLDER, inputs=runs)
    groups = read_groups(runs)
    sections = []
    with work_progress("sections", "report") as progress:
        for done, section in enumerate(sections_of(groups), 1):
            sections.append(section)
            progress.reach(done, SECTIONS, section.title)
    size = write_page(out, title_of(groups), sections)
    typer.echo(f"report: {out} ({size / 1e6:.1f} MB)", err=True)
    if figures is not None:
        typer.echo(f"{counted(write_figures(figures, sections), 'figure')}: {figures}", err=True)
