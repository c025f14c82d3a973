"""`cgt eval`: how good a model's pictures are, against real ones of the same classes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cgt import catalog
from cgt.cli.options import LAUNCH, MODEL, OVERWRITE, PROCESSES, SEED

if TYPE_CHECKING:
    from rich.table import Table

METRIC_NAMES = ", ".join(catalog.names("cgt.metrics"))
ARROWS = {"lower": "lower is better", "higher": "higher is better", "neither": ""}

DATA = Annotated[
    str, typer.Option("--data", metavar="SHARDS", help="Real pictures: a shard folder or its URL.")
]
CLASSES = Annotated[
    str,
    typer.Option(
        metavar="new|old|all|A,B", help="new are those of the last transfer; a text file of names will do."
    ),
]
FEATURES = Annotated[
    str,
    typer.Option(
        metavar="NAME|FOLDER", help="Feature extractor: inception-tf, or what `cgt features train` made."
    ),
]
WEIGHTS = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Weights of inception-tf. [default: the file in torch's hub cache]",
        show_default=False,
    ),
]
METRICS = Annotated[str, typer.Option(metavar="A,B", help=f"Any of {METRIC_NAMES}.")]
IMAGES = Annotated[int, typer.Option(min=2, metavar="N", help="Pictures to generate.")]
BATCH_SIZE = Annotated[
    int, typer.Option(min=1, metavar="N", help="Pictures at once; the scores don't depend on it.")
]
JSON = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the result to FILE too, or to stdout alone for -."),
]


def evaluate(
    model: MODEL,
    data: DATA,
    classes: CLASSES = "all",
    features: FEATURES = "inception-tf",
    weights: WEIGHTS = None,
    metrics: METRICS = "fid,kmmd",
    images: IMAGES = 5000,
    seed: SEED = 0,
    batch_size: BATCH_SIZE = 64,
    json: JSON = None,
    overwrite: OVERWRITE = False,
    processes: PROCESSES = None,
    launch: LAUNCH = None,
) -> None:
    """Measure how near a model's pictures are to real ones of the same classes.

    Scores compare only where features, data, classes and the number of pictures are the same.
    """
    import contextlib
    import itertools

    from rich.console import Console

    from cgt.launching import spread

    spread(processes, launch)
    from cgt.cli.classes import chosen_classes
    from cgt.data import DataConfig, open_pictures
    from cgt.distributed import launched_world
    from cgt.files import put_json, refuse_existing, sha256
    from cgt.metrics.features import load_extractor
    from cgt.metrics.suite import Evaluator, directions
    from cgt.models.folder import find_model, load_generator
    from cgt.progress import steps_progress
    from cgt.training.watchdog import Watch

    folder = find_model(model)
    to_stdout = json == Path("-")
    if json is not None and not to_stdout:
        refuse_existing(json, overwrite=overwrite, inputs=(folder, data, features, weights))
    metric_names = [name.strip() for name in metrics.split(",")]
    better = directions(metric_names)
    world = launched_world()
    with world.together():
        generator = load_generator(folder).to(world.device)
        names = chosen_classes(generator, classes)
        pictures = open_pictures(DataConfig(shards=data, classes=tuple(names)))
        extractor = load_extractor(features, None if weights is None else str(weights), world.device)
        evaluator = Evaluator(
            pictures,
            extractor,
            metric_names,
            images,
            seed,
            batch_size,
            rank=world.rank,
            world=world.size,
            together=world.together,
        )
    world.agree({"model": sha256(folder / "generator.safetensors"), "data": pictures.digest})
    with Watch(world.aside(), unit="batch") as watch, contextlib.ExitStack() as shown:
        advance, done = None, itertools.count(1)
        if world.is_main:
            batches = -(-evaluator.batches // world.size)
            advance = shown.enter_context(
                steps_progress(batches, 0, pictures_per_step=batch_size * world.size, task="measuring")
            ).advance

        def on_batch() -> None:
            watch.reached(next(done))
            if advance:
                advance({})

        scores = evaluator(generator, on_batch)
    if not world.is_main:
        return
    result = {
        "model": str(folder),
        "data": {"shards": data, "sha256": pictures.digest, "pictures": evaluator.real_images},
        "classes": names,
        "features": {"name": extractor.name, "sha256": extractor.sha256},
        "images": images,
        "seed": seed,
        "metrics": scores,
        "better": dict(better),
    }
    Console(stderr=to_stdout).print(_table(result))
    if json is not None:
        put_json(json, result)


def _table(result: dict[str, Any]) -> "Table":
    """The scores, and what they are about."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    features = result["features"]
    caption = (
        f"{result['images']:,} generated and {result['data']['pictures']:,} real pictures of "
        f"{len(result['classes'])} classes; features: {features['name']} {features['sha256'][:12]}"
    )
    table = Table(
        "score", "value", "", box=box.SIMPLE, title=Text(result["model"]), caption=Text(caption), min_width=60
    )
    table.columns[1].justify = "right"
    for name, value in result["metrics"].items():
        table.add_row(name.replace("_", " "), f"{value:.5g}", ARROWS[result["better"][name]])
    return table
