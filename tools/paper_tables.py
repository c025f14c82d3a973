"""The paper's tables as data (tables/*.yaml), and what is written of their runs: Markdown, CSV, bars."""

import csv
import functools
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from cgt.config import Section, read, shipped
from cgt.files import replacing_file, write_text

Scale = Literal["paper", "shapes"]
Score = Literal["fid", "kmmd", "iterations"]
FORMATS: dict[Score, str] = {"fid": ",.2f", "kmmd": ".3f", "iterations": ",.0f"}


class Column(Section):
    """A score of some runs."""

    name: str
    score: Score
    configs: dict[Scale, str] | None = None
    """The config of each scale, with {} for the row's; None for the table's. Of another scale there is no
    such column."""


class Row(Section):
    """A method, or a variant of one."""

    name: str
    config: str
    """What stands for {} in the columns' configs."""
    after: str | None = None
    """Likewise of the row whose finished runs are the sources of this one's; None for the table's source."""
    at_best_of: str | None = None
    """Not at its own best, but at the step at which the runs of this config, named likewise, are."""
    paper: tuple[float | None, ...] = ()
    """The paper's number in each column of all scales, the mean being the last; none where it has no such
    row."""


@dataclass(frozen=True)
class Run:
    """A training that the table needs. Tables share it where their configs say the same."""

    config: str
    """The first shipped one that says it."""
    seed: int
    after: str | None = None
    """The config of the run that is its source."""

    @property
    def name(self) -> str:
        """Its place in the folders of runs, scores and logs."""
        return f"{self.config}/{self.seed}"

    @property
    def dataset(self) -> str:
        """The folder of its config."""
        return self.config.partition("/")[0]


class Table(Section):
    """One table or figure of the paper."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    configs: dict[Scale, str] | None = None
    mean: str | None = None
    """The name of a last column with the mean of the others."""
    bars: bool = False
    """Whether it is drawn."""
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> "Table":
        width = len(self.columns) + bool(self.mean)
        for row in self.rows:
            if row.paper and len(row.paper) != width:
                raise ValueError(
                    f"{row.name} has {len(row.paper)} of the paper's numbers for {width} columns"
                )
        if self.configs is None and any(column.configs is None for column in self.columns):
            raise ValueError("every column needs configs where the table has none")
        return self

    @property
    def of_the_paper(self) -> bool:
        """Whether there are numbers of the paper to compare with."""
        return any(row.paper for row in self.rows)

    def config(self, config: str, column: Column, scale: Scale) -> str:
        """The name of a row's config in a column, which the scale must have."""
        return ((column.configs or self.configs or {})[scale]).format(config)

    def run(self, config: str, column: Column, scale: Scale, seed: int, after: str | None = None) -> Run:
        """The training behind a row's number in a column, which the scale must have."""
        of_source = None if after is None else first_alike(self.config(after, column, scale))
        return Run(first_alike(self.config(config, column, scale)), seed, of_source)

    def at(self, scale: Scale) -> list[tuple[int, Column]]:
        """The columns that there are at `scale`, with their places among all."""
        return [
            (i, column)
            for i, column in enumerate(self.columns)
            if scale in (column.configs or self.configs or {})
        ]

    def runs(self, scale: Scale, seeds: int) -> list[Run]:
        """Every training that the table needs, each once, and after those that it starts from."""
        runs: dict[Run, None] = {}
        for _, column in self.at(scale):
            for row in self.rows:
                for seed in range(seeds):
                    if row.after is not None:
                        runs.setdefault(self.run(row.after, column, scale, seed))
                    runs.setdefault(self.run(row.config, column, scale, seed, row.after))
        return sorted(runs, key=lambda run: run.after is not None)


@functools.cache
def first_alike(config: str) -> str:
    """The first shipped config of the same folder that says what `config` does, which may be itself."""
    folder = config.rpartition("/")[0]
    beside = (name for name in shipped() if name.rpartition("/")[0] == folder)
    return next((name for name in beside if _said(name) == _said(config)), config)


@functools.cache
def _said(config: str) -> str:
    return json.dumps(read(Section, config).values, sort_keys=True)


@dataclass(frozen=True)
class Result:
    """What is known of a finished run."""

    scores: Mapping[str, float]
    """Of its best model, on pictures and noise that did not choose it."""
    curve: Sequence[Mapping[str, float]]
    """Its evaluations by "step", on those that did."""

    @property
    def best_step(self) -> int:
        """The step of its best model."""
        return int(min(self.curve, key=lambda record: record["fid"])["step"])

    def at_best(self) -> dict[str, float]:
        """The scores that a table shows."""
        return {**self.scores, "iterations": self.best_step}

    def at_step(self, step: int) -> dict[str, float]:
        """The last evaluation up to `step`."""
        until = [record for record in self.curve if record["step"] <= step] or list(self.curve[:1])
        return {**until[-1], "iterations": until[-1]["step"]}


@dataclass(frozen=True)
class Report:
    """A table with the results of its runs."""

    table: Table
    scale: Scale
    seeds: int
    results: Mapping[str, Result]
    """By the name of the run; those that failed are missing."""
    failures: Sequence[str] = ()
    preface: Sequence[str] = ()
    """What the runs have in common."""

    @functools.cached_property
    def _columns(self) -> list[tuple[int, Column]]:
        return self.table.at(self.scale)

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write NAME.md, NAME.csv, NAME_curves.csv and, of a table that is drawn, NAME.png."""
        write_text(folder / f"{name}.md", self.markdown())
        write_text(folder / f"{name}.csv", _csv(self._lines()))
        write_text(folder / f"{name}_curves.csv", _csv(self._curves()))
        written = [folder / f"{name}{end}" for end in (".md", ".csv", "_curves.csv")]
        if self.table.bars:
            written.append(folder / f"{name}.png")
            self._draw(written[-1])
        return written

    def markdown(self) -> str:
        """The table: mean ± standard deviation over the seeds, and the paper's, if any, in brackets."""
        names = [column.name for _, column in self._columns] + [self.table.mean or ""] * bool(self.table.mean)
        lines = [f"| {' | '.join(['', *names])} |", f"|---|{'---|' * len(names)}"]
        for row in self.table.rows:
            lines.append(f"| {' | '.join([row.name, *self._cells(row)])} |")
        over = f"Mean ± standard deviation over {self.seeds} seeds" if self.seeds > 1 else "One seed"
        beside = "; in brackets the paper's number" if self.table.of_the_paper else ""
        about = [f"{over}{beside}.", *self.preface, *self.table.notes]
        if self.scale == "shapes" and self.table.of_the_paper:
            about.insert(1, "These are drawn shapes, the paper's are photographs: only the order compares.")
        about += [f"Failed: {failure}" for failure in self.failures]
        return "\n".join([f"# {self.table.title}", "", *lines, "", *(f"* {line}" for line in about), ""])

    def _cells(self, row: Row) -> list[str]:
        by_column = [self._values(row, column) for _, column in self._columns]
        cells = [
            self._cell(list(values.values()), row.paper[i] if row.paper else None, column.score)
            for (i, column), values in zip(self._columns, by_column, strict=True)
        ]
        if self.table.mean:
            whole = set.intersection(*(set(values) for values in by_column))
            means = [statistics.fmean(values[seed] for values in by_column) for seed in sorted(whole)]
            paper = row.paper[-1] if row.paper else None
            cells.append(self._cell(means, paper, self._columns[0][1].score))
        return cells

    def _cell(self, values: Sequence[float], paper: float | None, score: Score) -> str:
        form = FORMATS[score]
        ours = format(statistics.fmean(values), form) if values else "failed"
        spread = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
        missing = f" [{len(values)} of {self.seeds} seeds]" if 0 < len(values) < self.seeds else ""
        beside = f" ({'-' if paper is None else format(paper, form)})" if self.table.of_the_paper else ""
        return f"{ours}{spread}{missing}{beside}"

    def _values(self, row: Row, column: Column) -> dict[int, float]:
        """By seed."""
        found = ((seed, self._scores(row, column, seed)) for seed in range(self.seeds))
        return {seed: scores[column.score] for seed, scores in found if scores}

    def _scores(self, row: Row, column: Column, seed: int) -> dict[str, float] | None:
        def result(config: str) -> Result | None:
            return self.results.get(self.table.run(config, column, self.scale, seed).name)

        own = result(row.config)
        if own is None or row.at_best_of is None:
            return None if own is None else own.at_best()
        other = result(row.at_best_of)
        return None if other is None else own.at_step(other.best_step)

    def _lines(self) -> list[dict[str, object]]:
        """One a row, config and seed."""
        lines: dict[tuple[str, str, int], dict[str, object]] = {}
        for row in self.table.rows:
            for _, column in self._columns:
                config = self.table.config(row.config, column, self.scale)
                for seed in range(self.seeds):
                    if scores := self._scores(row, column, seed):
                        key = row.name, config, seed
                        lines[key] = dict(zip(("row", "config", "seed"), key, strict=True))
                        lines[key] |= {score: scores[score] for score in FORMATS if score in scores}
        return list(lines.values())

    def _curves(self) -> list[dict[str, object]]:
        """One an evaluation of each run."""
        lines: list[dict[str, object]] = []
        for name, result in self.results.items():
            config, _, seed = name.rpartition("/")
            lines += [{"config": config, "seed": int(seed), **record} for record in result.curve]
        return lines

    def _draw(self, file: Path) -> None:
        """A group of bars a column, a bar a row with its number above; ours only."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1.5 + 1.1 * len(self._columns), 3.5), layout="constrained")
        axes = figure.subplots()
        width = 0.8 / len(self.table.rows)
        for i, row in enumerate(self.table.rows):
            values = [list(self._values(row, column).values()) for _, column in self._columns]
            means = [statistics.fmean(seeds) if seeds else 0.0 for seeds in values]
            errors = [statistics.stdev(seeds) if len(seeds) > 1 else 0.0 for seeds in values]
            places = [place + (i - (len(self.table.rows) - 1) / 2) * width for place in range(len(values))]
            bars = axes.bar(places, means, width, yerr=errors if any(errors) else None, label=row.name)
            axes.bar_label(bars, fmt="{:,.0f}", fontsize=7)
        axes.set_xticks(range(len(self._columns)), [column.name for _, column in self._columns])
        axes.set_ylabel(self._columns[0][1].score)
        axes.set_title(self.table.title, fontsize=9)
        axes.legend(frameon=False)
        with replacing_file(file) as temporary:
            figure.savefig(temporary, dpi=150)


def _csv(lines: Sequence[Mapping[str, object]]) -> str:
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
