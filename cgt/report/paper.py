"""The paper's tables and figures of numbers as data: tables/*.yaml, a row a method with its configs."""

import functools
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import model_validator

from cgt.config import Section, load, read, shipped

TABLES = Path(__file__).parent / "tables"

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


@functools.cache
def _tables_of_the_paper() -> list[Table]:
    tables = (load(Table, str(file)) for file in sorted(TABLES.glob("*.yaml")))
    return [table for table in tables if table.of_the_paper]


@dataclass(frozen=True)
class Cell:
    """A number of a table that a config stands behind."""

    table: str
    """The title of it."""
    scale: Scale
    row: str
    column: str
    score: Score
    paper: float | None
    """What the paper has there; None where it has none."""


def cells_of(config: str) -> Iterator[Cell]:
    """The numbers of the paper's tables that runs of a shipped config, or of one that says the same, give."""
    if config not in shipped():
        return
    wanted = first_alike(config)
    scales: tuple[Scale, ...] = get_args(Scale)
    for table in _tables_of_the_paper():
        for scale, row in itertools.product(scales, table.rows):
            for i, column in table.at(scale) if row.at_best_of is None else ():
                if first_alike(table.config(row.config, column, scale)) == wanted:
                    paper = row.paper[i] if row.paper else None
                    yield Cell(table.title, scale, row.name, column.name, column.score, paper)
