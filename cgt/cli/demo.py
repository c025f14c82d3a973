"""`cgt demo`: the whole path on built-in pictures, by the verbs and configs that all pictures take."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cgt.cli.options import OVERWRITE

METHODS = ("cgantransfer", "bsa")
METRICS = "fid,kmmd,accuracy"
GENERATED = 1500
"""Pictures behind each number of the table."""
PAGE = "report.html"

SHARDS: dict[str, dict[str, dict[str, Any]]] = {
    "shapes": {
        "source": {"classes": "shapes/source_classes.txt"},
        "new": {"classes": "shapes/new_classes.txt", "per_class": 25},
        "choice": {"split": "test", "seed": 1, "per_class": 60},
        "reference": {"split": "test"},
    },
    "digits": {"source": {"split": "train"}, "reference": {"split": "test"}},
}
"""The shard folders of each demo, and how they are built.

The source's classes; the new ones with few pictures; pictures of all classes to train the classifier on and
to choose each run's best model by; and fresh ones to report by. The digits' configs pick classes from one
folder.
"""


def demo(
    out: Annotated[Path, typer.Option("--out", help="Where everything goes.")] = Path("demo"),
    data: Annotated[
        Literal["shapes", "digits"], typer.Option("--data", help="Drawn shapes, or handwritten digits.")
    ] = "shapes",
    overwrite: OVERWRITE = False,
) -> None:
    """Pretrain on built-in pictures, add classes by two methods, measure and show: some minutes on 2 cores.

    Drawn shapes: 15 classes as the source, then 5 new classes of 25 pictures each, of which every one is the
    shape of some old class in the style of another. Handwritten digits: 0 to 7, then 8 and 9.
    """
    from cgt.cli.eval import evaluate
    from cgt.cli.features import train as train_features
    from cgt.cli.pretrain import pretrain
    from cgt.cli.report import report
    from cgt.cli.sample import sample
    from cgt.cli.shards import build
    from cgt.cli.transfer import transfer
    from cgt.progress import stderr_console

    console = stderr_console()

    def stage(title: str) -> None:
        console.print(f"\n== {title}")

    clear(out, overwrite=overwrite)
    for name, options in SHARDS[data].items():
        stage(f"shards: {name}")
        build(data, "-", out / "shards" / name, **options)
    shards = {
        name: str(out / "shards" / (name if name in SHARDS[data] else "source"))
        for name in ("source", "new", "choice", "reference")
    }
    stage("a classifier of the pictures, whose features the metrics use")
    train_features(shards["choice"], out / "features", steps=200)
    measured = [
        f"eval.data={shards['choice']}",
        f"eval.features={out / 'features'}",
        f"eval.metrics=[{METRICS}]",
        "eval.images=500",
    ]
    stage("pretrain: the source's classes")
    pretrain(f"{data}/pretrain", [f"data={shards['source']}", *measured], out / "pretrain")
    for method in METHODS:
        stage(f"transfer: the new classes by {method}")
        transfer(f"{data}/{method}", out / "pretrain", [f"data={shards['new']}", *measured], out / method)

    stage("results")
    results = out / "results"
    for run, classes in (("pretrain", "all"), *((method, "new") for method in METHODS)):
        evaluate(
            data=shards["reference"],
            model=out / run,
            classes=classes,
            features=str(out / "features"),
            metrics=METRICS,
            images=GENERATED,
            json=results / f"{run}.json",
        )
    for classes in ("old", "new"):
        for method in METHODS:
            sample(out / method, results / f"{method}-{classes}.png", classes)
    report([out / run for run in ("pretrain", *METHODS)], out / PAGE)
    conclude(out, results)


def conclude(out: Path, results: Path) -> None:
    """Print the table, and where everything is; the table is kept as results/table.json."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from cgt import rng
    from cgt.errors import RunError
    from cgt.files import write_json
    from cgt.models.folder import find_model, load_generator

    title = "the new classes, by the best model of each run"
    table = Table("method", "steps", "Frechet distance", "KMMD", "accuracy", title=title)
    rows = []
    for method in METHODS:
        result = json.loads((results / f"{method}.json").read_text(encoding="utf-8"))
        card = json.loads((find_model(out / method) / "config.json").read_text(encoding="utf-8"))
        steps = card["provenance"]["step"]
        rows.append({"method": method, "steps": steps, **result["metrics"]})
        scores = result["metrics"]
        table.add_row(
            method, str(steps), f"{scores['fid']:.2f}", f"{scores['kmmd']:.3f}", f"{scores['accuracy']:.3f}"
        )
    write_json(results / "table.json", rows)

    source, extended = (load_generator(find_model(out / run)) for run in ("pretrain", METHODS[0]))
    old = len(source.classes)
    z_NZ, y_N = rng.normal((4 * old, source.dim_z), 0, "demo"), torch.arange(4 * old) % old
    if not torch.equal(source(z_NZ, y_N), extended(z_NZ, y_N)):
        raise RunError(
            "the extended generator makes other pictures of the old classes than its source: this is a "
            "defect of cgt."
        )
    console = Console()
    console.print(table)
    console.print(f"all {old} old classes: identical to the source's, to the bit")
    console.print(f"grids: {results}/*.png", highlight=False)
    console.print(f"all of it on a page: {out / PAGE}", highlight=False)
    console.print(
        f"one generator with all {len(extended.classes)} classes: {find_model(out / METHODS[0])}",
        highlight=False,
    )


def clear(out: Path, *, overwrite: bool) -> None:
    """Make room for the demo: only what an earlier demo wrote is removed.

    Raises:
        UserError: `out` exists and `overwrite` is false, or it holds something else.
    """
    import shutil

    from cgt.errors import UserError

    if out.is_file():
        raise UserError(f"{out} is a file, and the demo needs a folder: name another with --out.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{out} exists already: name another folder with --out, or add --overwrite.")
    written = {"shards", "features", "pretrain", "results", PAGE, *METHODS}
    others = sorted({path.name for path in out.iterdir()} - written)
    if others or Path.cwd().resolve().is_relative_to(out.resolve()):
        holds = f"holds {', '.join(others[:3])}, which no demo wrote" if others else "is the present folder"
        raise UserError(f"{out} {holds}, so --overwrite does not clear it: name another with --out.")
    shutil.rmtree(out)
