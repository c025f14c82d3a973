"""A report of runs: which sections it has, in which order."""

from collections.abc import Sequence
from pathlib import Path

from cgt.errors import UserError
from cgt.report import curves, settings
from cgt.report.blocks import Section
from cgt.report.runs import Group, grouped, read_run


def read_groups(paths: Sequence[Path]) -> list[Group]:
    """The run folders, those that differ by the seed alone together.

    Raises:
        UserError: one of them is no run folder, or is given twice.
    """
    places = [path.resolve() for path in paths]
    if doubles := [str(path) for i, path in enumerate(paths) if places[i] in places[:i]]:
        raise UserError(f"{', '.join(doubles)}: name each run once.")
    return grouped([read_run(path) for path in paths])


def sections_of(groups: Sequence[Group]) -> list[Section]:
    """All sections of a report."""
    return [
        settings.settings(groups),
        curves.curves(groups),
        curves.iterations(groups),
        curves.scores(groups),
    ]


def title_of(groups: Sequence[Group]) -> str:
    """The page's title."""
    names = [group.name for group in groups]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"Report of {shown}"
