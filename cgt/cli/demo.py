"""`cgt demo`: the whole path on built-in pictures, by the same verbs and configs that anyone's own pictures
take.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cgt.cli.options import OVERWRITE

METHODS = ("cgantransfer", "bsa")
METRICS = "fid,kmmd,accuracy"
GENERATED = 1500
"""Pictures behind each number of the table."""

SHARDS: dict[str, dict[str, dict[str, Any]]] = {
    "shapes": {
        "source": {"classes": "shapes/source_classes.txt"},
        "new": {"classes": "shapes/new_classes.txt", "per_class": 25},
        "reference": {"split": "test"},
    },
    "digits": {"source": {"split": "train"}, "new": {"split": "train"}, "reference": {"split": "all"}},
}
"""The shard folders of each demo and how they are built: the source's classes, the new ones with few
pictures, and fresh pictures of all classes to measure against."""


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
    shards = {name: str(out / "shards" / name) for name in SHARDS[data]}
    stage("a classifier of the pictures, whose features the metrics use")
    train_features(shards["reference"], out / "features")
    measured = [
        f"eval.data={shards['reference']}",
        f"eval.features={out / 'features'}",
        f"eval.metrics=[{METRICS}]",
        "eval.images=750",
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
            out / run,
            shards["reference"],
            classes=classes,
            features=str(out / "features"),
            metrics=METRICS,
            images=GENERATED,
            seed=1,
            json=results / f"{run}.json",
        )
    for classes in ("old", "new"):
        for method in METHODS:
            sample(out / method, results / f"{method}-{classes}.png", classes)
    report(out, results)


def report(out: Path, results: Path) -> None:
    """Print the table, and where everything is; the table is kept as results/table.json."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from cgt.errors import RunError
    from cgt.files import write_json
    from cgt.models.folder import find_model, load_generator

    table = Table(
        "method",
        "steps",
        "Frechet distance",
        "KMMD",
        "accuracy",
        title="the new classes, by their best model",
    )
    rows = []
    for method in METHODS:
        result = json.loads((results / f"{method}.json").read_text(encoding="utf-8"))
        steps = json.loads((find_model(out / method) / "config.json").read_text(encoding="utf-8"))[
            "provenance"
        ]["step"]
        rows.append({"method": method, "steps": steps, **result["metrics"]})
        scores = result["metrics"]
        table.add_row(
            method, str(steps), f"{scores['fid']:.2f}", f"{scores['kmmd']:.3f}", f"{scores['accuracy']:.3f}"
        )
    write_json(results / "table.json", rows)

    source, extended = (
        load_generator(find_model(out / "pretrain")),
        load_generator(find_model(out / METHODS[0])),
    )
    old = len(source.classes)
    z_NZ, y_N = torch.randn(4 * old, source.dim_z), torch.arange(4 * old) % old
    if not torch.equal(source(z_NZ, y_N), extended(z_NZ, y_N)):
        raise RunError(
            "the extended generator makes other pictures of the old classes than its source: this is a "
            "defect of cgt."
        )
    console = Console()
    console.print(table)
    console.print(f"all {old} old classes: identical to the source's, to the bit")
    console.print(f"grids: {results}/*.png", highlight=False)
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
    from cgt.files import refuse_existing

    refuse_existing(out, overwrite=overwrite)
    if not out.exists():
        return
    written = {"shards", "features", "pretrain", "results", *METHODS}
    if others := sorted({path.name for path in out.iterdir()} - written):
        raise UserError(
            f"{out} holds {', '.join(others)}, which no demo wrote, so --overwrite does not clear it: name "
            "another folder with --out."
        )
    shutil.rmtree(out)
