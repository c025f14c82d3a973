"""A report of runs: which sections it has, in which order."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cgt.errors import UserError
from cgt.report import curves, settings
from cgt.report.blocks import Section, Words
from cgt.report.runs import Group, grouped, read_run

SECTIONS = 12
"""That a report has."""
SHOWN = 4
"""Groups of runs whose pictures are shown; curves and tables are of all."""


def read_groups(paths: Sequence[Path]) -> list[Group]:
    """The run folders, those that differ by the seed alone together.

    Raises:
        UserError: one of them is no run folder, or is given twice.
    """
    places = [path.resolve() for path in paths]
    if doubles := [str(path) for i, path in enumerate(paths) if places[i] in places[:i]]:
        raise UserError(f"{', '.join(doubles)}: name each run once.")
    return grouped([read_run(path) for path in paths])


def sections_of(groups: Sequence[Group]) -> Iterator[Section]:
    """All sections of a report, one after the other; those with pictures take their time."""
    yield settings.settings(groups)
    yield curves.curves(groups)
    yield curves.iterations(groups)
    yield curves.scores(groups)
    with_models = [group for group in groups if group.shown.checkpoint]
    from cgt.report import neighbours, pictures, propagated
    from cgt.report.models import shown

    chosen, refused = [], []
    for group in with_models[:SHOWN]:
        try:
            chosen.append(shown(group))
        except UserError as error:
            refused.append(Words(f"{group.name} is not shown: {error}"))
    first = pictures.new_classes(chosen)
    first.blocks[:0] = refused
    if left_out := with_models[SHOWN:]:
        names = ", ".join(group.name for group in left_out)
        first.blocks.insert(0, Words(f"Pictures are of the first {SHOWN} runs, without {names}."))
    yield first
    yield pictures.old_classes(chosen)
    yield pictures.identity(chosen)
    yield propagated.pseudo_classes(chosen)
    yield propagated.layers(chosen)
    yield propagated.similarity(chosen)
    yield pictures.interpolation(chosen)
    yield neighbours.neighbours(chosen)


def title_of(groups: Sequence[Group]) -> str:
    """The page's title."""
    names = [group.name for group in groups]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"Report of {shown}"
