"""Sections of what metrics.jsonl has: curves, iterations to the best (Fig. 5), and the best scores.

Runs that differ by the seed alone are one line, the mean, with a band from the least to the greatest.
"""

import contextlib
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cgt.data.selection import class_names
from cgt.errors import UserError
from cgt.models.naming import listed
from cgt.report.blocks import Legend, Plot, Plots, Section, Table, Words
from cgt.report.changes import changes
from cgt.report.figures import INK, SERIES, style_of
from cgt.report.paper import FORMATS, cells_of
from cgt.report.runs import Group, ReadRun, curve_names
from cgt.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 120
"""Of a line at most: more are averaged, so that noisy losses can be read."""
CHANGES = 8
"""Departures from a config that are told; config.yaml has all."""
NAMES = {"fid": "Frechet distance (FID)", "kmmd": "KMMD", "kid": "KID"}


def curves(groups: Sequence[Group]) -> Section:
    """Every quantity that was logged, all groups over each other."""
    section = Section("curves", "Losses and metrics")
    names = curve_names(run for group in groups for run in group.runs)
    if not names:
        section.blocks.append(Words("No run has a line in its metrics.jsonl: there are no curves yet."))
        return section
    several = any(len(group.runs) > 1 for group in groups)
    band = "; of several seeds the mean, with a band from the least to the greatest" if several else ""
    section.blocks.append(
        Words(f"By generator updates{band}. A line of more than {POINTS} points shows means of neighbours.")
    )
    section.blocks.append(Legend([labelled(group) for group in groups]))
    section.blocks.append(Plots([_curve(groups, name) for name in names]))
    for group in groups:
        for run in group.runs:
            if run.damaged_lines:
                section.blocks.append(
                    Words(
                        f"{run.path}: {counted(run.damaged_lines, 'line')} within metrics.jsonl can't be "
                        "read, and left out."
                    )
                )
    return section


def iterations(groups: Sequence[Group]) -> Section:
    """How soon each group is at its best (the paper's Fig. 5)."""
    section = Section("iterations", "Iterations to the best")
    steps = {group.name: [best["step"] for run in group.runs if (best := run.best())] for group in groups}
    found = {name: values for name, values in steps.items() if values}
    if not found:
        section.blocks.append(
            Words("No run was measured while it trained (eval), so no step is known to be the best.")
        )
        return section
    metrics = sorted({run.best_metric or "" for group in groups for run in group.runs if run.measured})
    section.blocks.append(
        Words(
            f"The update after which a run's {' or '.join(map(title_of, metrics))} is at its best, of those "
            "after which it was measured."
        )
    )
    places = [(i, group.name) for i, group in enumerate(groups) if group.name in found]

    def draw(axes: "Axes") -> None:
        means = [statistics.fmean(found[name]) for _, name in places]
        colours = [SERIES[i % len(SERIES)] for i, _ in places]
        spreads = [statistics.stdev(found[name]) if len(found[name]) > 1 else 0.0 for _, name in places]
        errors: dict[str, Any] = {"xerr": spreads, "error_kw": {"ecolor": INK}} if any(spreads) else {}
        bars = axes.barh(range(len(places)), means, 0.7, color=colours, **errors)
        axes.bar_label(bars, [_steps(mean) for mean in means], padding=4)
        axes.set_yticks(range(len(places)), [_short(name) for _, name in places])
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.grid(axis="y", visible=False)
        axes.set_axisbelow(True)
        _along_updates(axes)

    told = "; ".join(f"{name} {_steps(statistics.fmean(values))}" for name, values in found.items())
    plot = Plot(
        "iterations",
        "Updates until the best score",
        f"Bars of the updates until the best score: {told}.",
        draw,
        height=0.9 + 0.32 * len(places),
    )
    section.blocks.append(Plots([plot]))
    section.blocks.append(
        Table(
            "Updates until the best score, by seed",
            ["run", "mean", "seeds"],
            [
                [
                    name,
                    _steps(statistics.fmean(values)),
                    ", ".join(f"{value:,.0f}" for value in values),
                ]
                for name, values in found.items()
            ],
        )
    )
    return section


def scores(groups: Sequence[Group]) -> Section:
    """The scores at each run's best step, and the paper's where a config names one of its rows."""
    section = Section("metrics", "Metrics")
    best = {group.name: [found for run in group.runs if (found := run.best())] for group in groups}
    names = curve_names(run for group in groups for run in group.runs)
    measured = {name for run in _runs(groups) for record in run.measured for name in record}
    names = [name for name in names if name in measured]
    if not names or not any(best.values()):
        section.blocks.append(Words("No run was measured while it trained (eval): there are no scores."))
        return section
    section.blocks.append(
        Table(
            "Scores of each run's best model, as training measured it: the scores that chose it, so a little "
            "too good. Mean ± standard deviation over seeds.",
            ["run", "seeds", *(f"{title_of(name)}{_arrow(name, groups)}" for name in names)],
            [
                [
                    group.name,
                    str(len(best[group.name])),
                    *(
                        mean_and_spread([record[name] for record in best[group.name] if name in record])
                        for name in names
                    ),
                ]
                for group in groups
            ],
        )
    )
    ways = {_way(run) for run in _runs(groups) if run.measured}
    if len(ways) > 1:
        section.blocks.append(
            Words(
                "These runs were measured in different ways, and their scores don't compare: "
                f"{'; '.join(sorted(ways))}."
            )
        )
    elif ways:
        section.blocks.append(Words(f"Measured by {ways.pop()}."))
    rows, remarks = _beside_paper(groups)
    if rows:
        section.blocks.append(
            Table(
                "Beside the paper's numbers. Rows of drawn shapes compare in their order alone: the paper's "
                "are of photographs.",
                ["run", "table", "row", "column", "here", "paper"],
                rows,
            )
        )
        section.blocks.extend(map(Words, remarks))
    return section


def labelled(group: Group) -> str:
    """The name of a group, and how many seeds it has."""
    return f"{group.name} ({len(group.runs)} seeds)" if len(group.runs) > 1 else group.name


def title_of(name: str) -> str:
    """A name of metrics.jsonl for people."""
    return NAMES.get(name, name.replace("_", " "))


def mean_and_spread(values: Sequence[float], form: str = ".4g") -> str:
    """ "12.3 ± 0.4", or a dash for none."""
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{form}}{spread}"


def averaged(runs: Sequence[ReadRun], name: str) -> list[tuple[float, float, float, float]]:
    """(step, mean, least, greatest) of a quantity, over the runs that have it at that step."""
    by_step: dict[float, list[float]] = {}
    for run in runs:
        for record in run.records:
            if math.isfinite(record.get(name, math.nan)):
                by_step.setdefault(record["step"], []).append(record[name])
    points = [
        (step, statistics.fmean(values), min(values), max(values)) for step, values in sorted(by_step.items())
    ]
    size = -(-len(points) // POINTS)
    bins = [points[i : i + size] for i in range(0, len(points), size or 1)]
    return [
        (part[0][0], part[0][1], part[0][2], part[0][3])
        if len(part) == 1
        else tuple(map(statistics.fmean, zip(*part, strict=True)))  # type: ignore[misc]
        for part in bins
    ]


def _steps(mean: float) -> str:
    return f"{mean:,.1f}".removesuffix(".0")


def _along_updates(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("generator updates")
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))


def _short(name: str) -> str:
    """A group's name for a label: of a config the last part, and of that the end."""
    return _shortened(name.rpartition("/")[2])


def _curve(groups: Sequence[Group], name: str) -> Plot:
    lines = [(i, group, averaged(group.runs, name)) for i, group in enumerate(groups)]
    lines = [line for line in lines if line[2]]

    def draw(axes: "Axes") -> None:
        for i, group, points in lines:
            steps, means, least, greatest = zip(*points, strict=True)
            style: Mapping[str, Any] = style_of(i)
            marker = "o" if len(points) < 15 else None
            axes.plot(steps, means, label=labelled(group), linewidth=1.5, marker=marker, ms=2.5, **style)
            if len(group.runs) > 1:
                axes.fill_between(steps, least, greatest, color=style["color"], alpha=0.15, linewidth=0)
        _along_updates(axes)

    ends = "; ".join(f"{group.name} ends at {points[-1][1]:.4g}" for _, group, points in lines)
    alt = f"Curves of {title_of(name)} by generator updates: {ends or 'nothing finite was logged'}."
    return Plot(f"curve-{_safe(name)}", title_of(name), alt, draw)


def _beside_paper(groups: Sequence[Group]) -> tuple[list[list[str]], list[str]]:
    """The rows of the table, and what is to be said of the runs in it."""
    rows, remarks = [], {}
    for group in groups:
        bests = [best for run in group.runs if (best := run.best())]
        changed = changes(group.shown)
        for cell in cells_of(group.shown.config_name or "") if bests else ():
            if cell.paper is None:
                continue
            key = "step" if cell.score == "iterations" else cell.score
            values = [best[key] for best in bests if key in best]
            form = FORMATS[cell.score]
            drawn = cell.scale == "shapes"
            # How drawn shapes are measured is nobody's recipe.
            departs = [change for change in changed if not (drawn and change.startswith("eval."))]
            if departs:
                remarks[group.name] = _departing(group, departs)
            rows.append(
                [
                    f"{group.name} (changed)" if departs else group.name,
                    f"{cell.table.partition(':')[0]}{' (drawn shapes)' if drawn else ''}",
                    cell.row,
                    cell.column,
                    mean_and_spread(values, form),
                    format(cell.paper, form),
                ]
            )
    return rows, list(remarks.values())


def _departing(group: Group, departs: Sequence[str]) -> str:
    more = f" and {counted(len(departs) - CHANGES, 'key')} more" if len(departs) > CHANGES else ""
    name = group.shown.config_name
    return f"{group.name} is not {name} as it is shipped: {', '.join(departs[:CHANGES])}{more}."


def _way(run: ReadRun) -> str:
    """What the scores of a run are about."""
    evaluation = run.config["eval"]
    data = evaluation.get("data") or "the training pictures"
    size = f" of {run.model.resolution} px" if run.model else ""
    classes = _measured_classes(run)
    of = f", {counted(len(classes), 'class')} ({listed(classes, 3)})" if classes else ""
    return (
        f"{evaluation.get('features')} features against {data}, {evaluation.get('images')} generated pictures"
        f"{size}{of}"
    )


def _measured_classes(run: ReadRun) -> Sequence[str]:
    """Those that the config names, else those that the run trained; none where nothing says them any more."""
    if named := run.config["eval"].get("classes"):
        with contextlib.suppress(UserError):  # a file of names may be gone
            return class_names(named)
        return ()
    return run.model.banks[-1].classes if run.model else ()


def _arrow(name: str, groups: Sequence[Group]) -> str:
    from cgt.metrics.settings import directions

    metrics = {metric for run in _runs(groups) if run.measured for metric in run.config["eval"]["metrics"]}
    arrow: Callable[[str], str] = {"lower": " ↓", "higher": " ↑"}.get  # type: ignore[assignment]
    return arrow(directions(sorted(metrics)).get(name, "")) or ""


def _runs(groups: Sequence[Group]) -> list[ReadRun]:
    return [run for group in groups for run in group.runs]


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _shortened(name: str, length: int = 28) -> str:
    return name if len(name) <= length else f"…{name[1 - length :]}"
