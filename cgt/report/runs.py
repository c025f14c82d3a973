"""Run folders as a report reads them: whatever is there, however the run ended.

A run that still trains, or that was killed, is read as far as it came; nothing is written.
"""

import contextlib
import functools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cgt.config import shipped
from cgt.errors import UserError
from cgt.models.record import FILE, ModelRecord, read_record
from cgt.runs import MAY_CHANGE

NOT_CURVES = ("step", "images", "skipped")
"""Keys of metrics.jsonl that are counts."""


@dataclass(frozen=True)
class ReadRun:
    """One run folder."""

    path: Path
    config: Mapping[str, Any]
    """config.yaml, resolved."""
    provenance: Mapping[str, Any]
    records: Sequence[Mapping[str, float]]
    """The lines of metrics.jsonl."""
    damaged_lines: int = 0
    """Lines of it that are no record; a half-written last one does not count."""

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.config.get("seed", 0))

    @property
    def method(self) -> str:
        """How it trained, as people type it; "pretraining" where nothing was transferred."""
        return str((self.config.get("method") or {}).get("name", "pretraining"))

    @property
    def config_name(self) -> str | None:
        """The shipped config that it was started with, if it was one."""
        said = "config" in self.provenance  # runs of earlier versions have the command alone
        words = [self.provenance["config"]] if said else self.provenance.get("command") or []
        known = shipped()
        return next((str(word) for word in words if word in known), None)

    @functools.cached_property
    def checkpoint(self) -> Path | None:
        """Its best checkpoint, else its latest; None where there is none with a model."""
        candidates = (self.path / pointer for pointer in ("best", "latest"))
        return next((path.resolve() for path in candidates if (path / "model" / FILE).is_file()), None)

    @functools.cached_property
    def model(self) -> ModelRecord | None:
        """What config.json of the checkpoint's model says; None where there is none that can be read."""
        with contextlib.suppress(UserError):
            return read_record(self.checkpoint / "model") if self.checkpoint else None
        return None

    @property
    def best_metric(self) -> str | None:
        """The score that chooses its best model; None where it was not measured."""
        evaluation = self.config.get("eval")
        return str(evaluation.get("best", "fid")) if evaluation else None

    @property
    def measured(self) -> list[Mapping[str, float]]:
        """The records of its evaluations."""
        best = self.best_metric
        return [record for record in self.records if best is not None and best in record]

    def best(self) -> Mapping[str, float] | None:
        """The evaluation with the best score; None where there is none."""
        from cgt.metrics.settings import lower_is_better

        name = self.best_metric
        scored = [record for record in self.measured if name and math.isfinite(record[name])]
        if name is None or not scored:
            return None
        lower = lower_is_better(name, self.config["eval"]["metrics"])
        return (min if lower else max)(scored, key=lambda record: record[name])

    def located(self, place: str | None) -> Path | None:
        """A local folder that the run named, from here or from one of the folders that the run lies in; None
        where it is not there any more, or is a URL.
        """
        if not place or "://" in place.removeprefix("file://"):
            return None
        path = Path(place.removeprefix("file://"))
        roots = [Path(), *self.path.resolve().parents]
        return next((root / path for root in roots if (root / path).is_dir()), None)

    @property
    def source(self) -> Path | None:
        """The model folder that it was transferred from, if that is still there."""
        found = self.located(self.provenance.get("source"))
        return found if found and (found / FILE).is_file() else None


@dataclass(frozen=True)
class Group:
    """Runs that differ by the seed alone."""

    name: str
    runs: Sequence[ReadRun] = field(default_factory=list)

    @property
    def shown(self) -> ReadRun:
        """The one whose pictures stand for all: the first, of those with a model if there are any."""
        return next((run for run in self.runs if run.checkpoint), self.runs[0])


def read_run(path: Path) -> ReadRun:
    """Read what a run folder has.

    Raises:
        UserError: it is none, or its config or provenance is damaged.
    """
    if not (path / "config.yaml").is_file():
        what = "does not exist" if not path.exists() else "is not a run folder: it has no config.yaml"
        hint = " It is a model folder; name the run that wrote it." if (path / FILE).is_file() else ""
        raise UserError(f"{path} {what}. Name what `cgt pretrain` or `cgt transfer` wrote (--run).{hint}")
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        provenance: Any = {}
        if (path / "provenance.json").is_file():
            provenance = json.loads((path / "provenance.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not isinstance(provenance, dict):
            raise ValueError("one of them is no mapping")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"config.yaml or provenance.json of {path} can't be read ({' '.join(str(error).split())}): "
            "restore them, or leave the run out."
        ) from None
    records, damaged = _records(path / "metrics.jsonl")
    return ReadRun(path, config, provenance, records, damaged)


def grouped(runs: Sequence[ReadRun]) -> list[Group]:
    """The runs, those that differ by the seed alone together, each group under a name of its own.

    A group is called by its shipped config where no other has that, else by its folder.
    """
    groups: dict[tuple[str, int], list[ReadRun]] = {}
    alike: Counter[tuple[str, int]] = Counter()
    for run in runs:
        identity = _identity(run)
        # A second run by one seed says nothing of other seeds: it goes with what else is second.
        groups.setdefault((identity, alike[identity, run.seed]), []).append(run)
        alike[identity, run.seed] += 1
    together = [sorted(group, key=lambda run: run.seed) for group in groups.values()]
    configs = [group[0].config_name for group in together]
    names = [
        config if config and configs.count(config) == 1 else _folder_name(group)
        for config, group in zip(configs, together, strict=True)
    ]
    for i, name in enumerate(names):
        if names.count(name) > 1:
            names[i] = str(together[i][0].path)
    return [Group(name, group) for name, group in zip(names, together, strict=True)]


def _folder_name(group: Sequence[ReadRun]) -> str:
    """Of a run alone its folder's name; of several, that of the folder which they share."""
    path = group[0].path.resolve()
    if len(group) > 1:
        return path.parent.name
    return f"{path.parent.name}/{path.name}" if path.name.isdigit() else path.name


def _identity(run: ReadRun) -> str:
    """What runs that differ by the seed alone have in common."""
    config = {key: value for key, value in run.config.items() if key not in ("seed", *MAY_CHANGE)}
    digests = {key: value for key, value in run.provenance.items() if key.endswith("sha256")}
    return json.dumps([config, digests], sort_keys=True, default=str)


def _records(path: Path) -> tuple[list[dict[str, float]], int]:
    """The records of metrics.jsonl, and how many lines before the last are none."""
    if not path.is_file():
        return [], 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    read = [_record(line) for line in lines]
    damaged = sum(record is None for record in read[:-1])
    return [record for record in read if record is not None], damaged


def _record(line: str) -> dict[str, float] | None:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        return None
    if not isinstance(values, dict) or not isinstance(values.get("step"), int):
        return None
    return {key: float(value) for key, value in values.items() if isinstance(value, int | float)}


def curve_names(runs: Iterable[ReadRun]) -> list[str]:
    """What there are curves of: scores first, then losses, then the rest; learning rates last."""
    runs = list(runs)
    names = dict.fromkeys(
        name for run in runs for record in run.records for name in record if name not in NOT_CURVES
    )
    scores = {name for run in runs for record in run.measured for name in record}
    return sorted(names, key=lambda name: (name not in scores, name.startswith("lr_"), "loss" not in name))
