"""Reproduce a table or figure of the paper: every row over some seeds, by the verbs that people use.

    python tools/reproduce.py table2
    python tools/reproduce.py table2 --scale paper --source RUN --data SHARDS --reference SHARDS \\
        --features inception-tf --weights FILE

At the scale `shapes`, pictures are drawn, and a classifier of them and a source generator are trained first,
once: seeds vary the transfers alone, as they would from a published source. The scale `paper` takes your
shards and your source; where a table is of several data sets, say of which each is: --data places365=DIR
--data animalface=DIR. It needs GPUs; --set micro_batch=32 makes a batch fit one of them.

Each run's best model is chosen by other pictures (--choice), or other noise at least, than it is reported by.
What is finished is not done again: a command that was stopped, or whose rows failed, goes on when it is given
again. OUT then has TABLE.md, TABLE.csv (a line a row and seed), TABLE_curves.csv (the evaluations of each
run) and, of figure5, TABLE.png; and the runs, scores and logs, which tables share.
"""

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from paper_tables import Report
from table_runs import Inputs, Work, devices

from cgt.catalog import did_you_mean
from cgt.cli.demo import GENERATED
from cgt.cli.transfer import chosen
from cgt.config import load, read, shipped
from cgt.data.manifest import open_shards
from cgt.errors import RunError, UserError
from cgt.files import write_json
from cgt.models.folder import find_model
from cgt.progress import stderr_console, work_progress
from cgt.report.paper import TABLES, Run, Scale, Table
from cgt.training.settings import PretrainConfig, TransferConfig

SHAPES_OVERRIDES = ("eval.images=500",)
OWNED = ("data", "eval.data", "eval.features", "eval.weights", "eval.metrics", "eval.best")
"""Keys that a table's runs get from it."""
GIVEN = ("data", "reference", "source")
"""What the scale `paper` needs for each data set."""


def reproduce(options: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit code.

    Raises:
        UserError: something that is needed is missing.
        RunError: what all rows need failed.
    """
    scale: Scale = options.scale
    table = load(Table, str(table_file(options.table)))
    runs = table.runs(scale, options.seeds)
    if not runs:
        raise UserError(f"no column of {options.table} has configs for --scale {scale}.")
    inputs, features, images = {}, options.features, options.images
    overrides = list(options.set)
    if scale == "paper":
        inputs = given_inputs(options, sorted({run.dataset for run in runs}))
        images = images or 5000
    else:
        refuse_given(options)
        features = features or str(options.out / "features")
        images = images or GENERATED
        overrides = [*SHAPES_OVERRIDES, *overrides]
    check_configs(runs, overrides, scale, pretrains=scale == "shapes" and not options.source)
    settings = {"scale": scale, "features": features, "weights": options.weights, "images": images}
    settings |= {"set": options.set} | {f"inputs of {name}": vars(of) for name, of in inputs.items()}
    settings |= {} if inputs else {"source": options.source}
    note_settings(options.out, settings)
    work = Work(options.out, inputs, features, options.weights, images, overrides, devices(options.jobs))
    preface = [f"{images:,} generated pictures of each run; features: {features}."]
    try:
        with work_progress("runs", options.table) as progress:
            if scale == "shapes":
                preface.append(work.prepare_shapes(next(iter(options.source), None), progress))
            progress.reach(0, len(runs))
            results, failures = work.all_of(runs, progress)
    finally:
        work.stop()
    report = Report(table, scale, options.seeds, results, failures, preface)
    written = report.write(options.out, Path(options.table).stem)
    print(report.markdown())
    stderr_console().print(f"written: {', '.join(map(str, written))}")
    return 1 if failures else 0


def table_file(table: str) -> Path:
    """The file of the table that was named.

    Raises:
        UserError: there is none.
    """
    known = {file.stem: file for file in sorted(TABLES.glob("*.yaml"))}
    if table in known:
        return known[table]
    if not Path(table).is_file():
        raise UserError(
            f"there is no table {table!r}{did_you_mean(table, known)}: name one of {', '.join(known)}, or a "
            "YAML file like those in cgt/report/tables."
        )
    return Path(table)


def check_configs(runs: Sequence[Run], overrides: Sequence[str], scale: Scale, *, pretrains: bool) -> None:
    """Read all configs once, so that a mistake in them ends the command before any work.

    Raises:
        UserError: naming the config, what is wrong in it, and the override that set it; a config that is not
            shipped, or of other pictures; or an override of what makes a table's runs comparable.
    """
    keys = [override.partition("=")[0] for override in overrides]
    if owned := [key for key in keys if key == "seed" or key.startswith(OWNED)]:
        raise UserError(f"--set {', '.join(owned)}: the table sets this itself, for each of its runs.")
    known = [name for name in shipped() if scale == "paper" or name.startswith("shapes/")]
    if foreign := {run.config for run in runs}.difference(known):
        raise UserError(
            f"{', '.join(sorted(foreign))}: at --scale {scale} the rows of a table name configs that `cgt` "
            f"ships{' in shapes/' if scale == 'shapes' else ''}: train others by `cgt transfer`, or change "
            "keys of all runs with --set."
        )
    for config in dict.fromkeys(run.config for run in runs):
        chosen(read(TransferConfig, config, ["data=the new classes", *overrides]))
    if pretrains:
        load(PretrainConfig, "shapes/pretrain", ["data=the old classes", *overrides])


def given_inputs(options: argparse.Namespace, datasets: Sequence[str]) -> dict[str, Inputs]:
    """The inputs that the scale `paper` is given, all of which must be there.

    Raises:
        UserError: naming everything that is missing.
    """
    given = {key: by_dataset(getattr(options, key), datasets) for key in (*GIVEN, "choice")}
    missing = [f"--{key} {name}=..." for name in datasets for key in GIVEN if name not in given[key]]
    missing += [] if options.features else ["--features inception-tf (or what `cgt features train` made)"]
    if missing:
        raise UserError(
            "--scale paper trains on your pictures, from your source model, and these are not named: "
            f"{', '.join(missing)}. Make shards with `cgt shards build`, and a source with `cgt pretrain` or "
            "`cgt convert`; --scale shapes needs none of this."
        )
    given["choice"] = given["reference"] | given["choice"]
    for path in {path for key in ("data", "reference", "choice") for path in given[key].values()}:
        open_shards(path)
    for path in set(given["source"].values()):
        find_model(path)
    return {name: Inputs(**{key: paths[name] for key, paths in given.items()}) for name in datasets}


def by_dataset(values: Sequence[str], datasets: Sequence[str]) -> dict[str, str]:
    """What an option says for each data set, as `SET=PATH` or, for all others, as `PATH`."""
    found: dict[str, str] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if equals and name in datasets:
            found[name] = path
        else:
            found = dict.fromkeys(datasets, value) | found
    return found


def refuse_given(options: argparse.Namespace) -> None:
    """Refuse what the scale `shapes` would not use, and a source that is no model.

    Raises:
        UserError: naming it.
    """
    for source in options.source:
        find_model(source)
    if given := [f"--{key}" for key in ("data", "reference", "choice", "weights") if getattr(options, key)]:
        raise UserError(f"{', '.join(given)}: shapes are drawn; give your own pictures with --scale paper.")


def note_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder whose results come of other settings, which would be taken for those of this command.

    Raises:
        UserError: naming what differs.
    """
    file = out / "settings.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    differing = [key for key in settings if key in before and before[key] != settings[key]]
    if differing:
        told = "; ".join(f"{key} was {before[key]!r}, now {settings[key]!r}" for key in differing)
        raise UserError(f"{out} has results of other settings ({told}): name another folder with --out.")
    write_json(file, {**before, **settings})


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    about, _, more = (__doc__ or "").partition("\n")
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, epilog=more, formatter_class=style)
    add = parser.add_argument
    names = ", ".join(sorted(file.stem for file in TABLES.glob("*.yaml")))
    add("table", metavar="TABLE", help=f"{names}, or a YAML file like those in cgt/report/tables")
    add("--scale", choices=get_args(Scale), default="shapes", help="default: shapes")
    add("--out", type=Path, default=Path("reproduction"), metavar="DIR", help="default: reproduction")
    add("--seeds", type=positive, default=3, metavar="N", help="seeds 0 to N-1 of each row; default: 3")
    add("--jobs", type=positive, metavar="J", help="runs at once; default: one on each GPU, or each core")
    for option, what in (
        ("source", "the model that is extended"),
        ("data", "shards of the new classes to train on"),
        ("reference", "shards to report by"),
        ("choice", "shards to choose the best models by; default: the reference, with other noise"),
    ):
        add(f"--{option}", action="append", default=[], metavar="[SET=]PATH", help=what)
    add("--features", metavar="NAME|FOLDER", help="feature extractor, as in cgt eval")
    add("--weights", metavar="FILE", help="its weights, likewise")
    add("--images", type=positive, metavar="N", help="generated pictures behind each number reported")
    add(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="set a key in the configs of all runs"
    )
    return parser.parse_args(words)


def positive(text: str) -> int:
    """A number of the command line that must be 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def main(words: Sequence[str] | None = None) -> int:
    """Run the command `words`, by default the process's own, and return the exit code."""
    try:
        return reproduce(arguments(words))
    except (UserError, RunError) as error:
        stderr_console().print(f"error: {error}")
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        stderr_console().print("interrupted: the same command goes on")
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
