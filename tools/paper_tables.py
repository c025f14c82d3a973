"""What is written of a table's runs: Markdown, CSV, bars."""

import csv
import functools
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cgt.files import replacing_file, write_text
from cgt.report.paper import FORMATS, Column, Row, Scale, Score, Table


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
                        lines[key]["run"] = self.table.run(row.config, column, self.scale, seed).name
                        lines[key] |= {score: scores[score] for score in FORMATS if score in scores}
        return list(lines.values())

    def _curves(self) -> list[dict[str, object]]:
        """One an evaluation of each run."""
        lines: list[dict[str, object]] = []
        for name, result in self.results.items():
            config, _, seed = name.rpartition("/")
            lines += [{"run": name, "config": config, "seed": int(seed), **record} for record in result.curve]
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
