"""Where a run's config departs from the shipped one that it was started with, so that the paper's number of
that config is not simply its own.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from cgt import catalog
from cgt.config import dump, read
from cgt.errors import UserError
from cgt.metrics.settings import EvalConfig
from cgt.report.runs import ReadRun
from cgt.runs import MAY_CHANGE
from cgt.training.settings import PretrainConfig, RunConfig, TransferConfig

NO_MATTER = {
    *MAY_CHANGE,
    *("seed", "compile", "log_every", "save_every", "checkpoint"),
    *("data.shards", "data.reader", "data.workers", "data.lanes", "data.on_error", "data.max_skipped"),
    *("data.cache", "data.cache_gb"),
    *("eval.data", "eval.weights", "eval.metrics", "eval.batch_size", "eval.cache"),
}
"""Keys and sections that say where things are and how the work is done, or that any run sets for itself."""


def changes(run: ReadRun) -> list[str]:
    """The keys that make the run another than its shipped config describes: "steps=30" and so on; none for a
    run of another config.
    """
    if run.config_name is None:
        return []
    try:
        shipped = dict(_flat(_resolved(run, run.config_name)))
    except UserError:  # this version's config has keys that must be given now, or a method has gone
        return ["which can't be compared with this version's config"]
    given = dict(_flat(run.config))
    return [
        f"{key}={_told(value)}"
        for key, value in given.items()
        if key in shipped and value != shipped[key] and not NO_MATTER & set(_sections(key))
    ]


def _resolved(run: ReadRun, name: str) -> Any:
    """The shipped config with all defaults, on the run's data, and measured if the run was.

    Raises:
        UserError: this version can't read it so.
    """
    model: type[RunConfig] = PretrainConfig
    if run.method != "pretraining":
        model = TransferConfig.of(catalog.load("cgt.transfer", run.method, kind="method").METHOD)
    draft = read(model, name)
    draft.values["data"] = {"shards": "-", **(draft.values.get("data") or {})}
    if run.config.get("eval"):
        draft.values["eval"] = draft.values.get("eval") or EvalConfig().model_dump(mode="json")
    return yaml.safe_load(dump(draft.check(model)))


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _sections(key: str) -> Iterator[str]:
    """ "a.b.c", "a.b" and "a"."""
    while key:
        yield key
        key = key.rpartition(".")[0]


def _told(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
