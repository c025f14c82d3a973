"""`cgt eval`: how good a model's pictures are, against real ones of the same classes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cgt import catalog
from cgt.cli.options import LAUNCH, OVERWRITE, PROCESSES
from cgt.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

    from cgt.distributed import World
    from cgt.metrics.subjects import PictureSet
    from cgt.metrics.suite import Evaluator
MANY_PAIRS = 10**8
"""Pairs of pictures whose comparing takes seconds, so that it is shown."""
METRIC_NAMES = ", ".join(catalog.names("cgt.metrics"))
ARROWS = {"lower": "lower is better", "higher": "higher is better", "neither": ""}

MEASURED = Annotated[
    Path | None,
    typer.Argument(
        metavar="MODEL",
        help="A model folder, a run folder (its best, then latest, model), or pictures: shards, or a folder "
        "of files with a subfolder for each class. It may be left out with --save-stats.",
        show_default=False,
    ),
]
DATA = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="SHARDS",
        help="Real pictures: a shard folder or its URL, or a file that --save-stats wrote.",
    ),
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
        metavar="NAME|FOLDER",
        help="Feature extractor: inception-tf, inception-torchvision, clean, dinov2, or what `cgt features "
        "train` made.",
    ),
]
WEIGHTS = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Weights of a named extractor; `download` fetches them. [default: torch's hub cache]",
        show_default=False,
    ),
]
METRICS = Annotated[
    str | None,
    typer.Option(metavar="A,B", help=f"Any of {METRIC_NAMES}. [default: fid,kmmd]", show_default=False),
]
IMAGES = Annotated[
    int | None,
    typer.Option(
        min=2,
        metavar="N",
        help="Pictures to generate. [default: 5000; of a folder of pictures, all]",
        show_default=False,
    ),
]
SEED = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, help="Seed of the latents that a model is given. [default: 0]", show_default=False
    ),
]
SAVE_STATS = Annotated[
    Path | None,
    typer.Option(
        "--save-stats",
        metavar="FILE",
        help="Write the statistics of the real pictures, of which --data gives the Frechet distance without "
        "them.",
    ),
]
CACHE = Annotated[
    bool,
    typer.Option(
        help="Keep the features of the real pictures in $CGT_CACHE or ~/.cache/cgt, for the next measurement."
    ),
]
BATCH_SIZE = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", help="Pictures at once; the scores depend on it by no more than rounding."
    ),
]
JSON = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the result to FILE too, or to stdout alone for -."),
]


def evaluate(
    data: DATA,
    model: MEASURED = None,
    classes: CLASSES = "all",
    features: FEATURES = "inception-tf",
    weights: WEIGHTS = None,
    metrics: METRICS = None,
    images: IMAGES = None,
    seed: SEED = None,
    batch_size: BATCH_SIZE = 64,
    save_stats: SAVE_STATS = None,
    cache: CACHE = True,
    json: JSON = None,
    overwrite: OVERWRITE = False,
    processes: PROCESSES = None,
    launch: LAUNCH = None,
) -> None:
    """Measure how near a model's pictures are to real ones of the same classes.

    Scores compare only where features, data, classes and the number of pictures are the same.
    """
    from rich.console import Console

    from cgt.launching import spread

    spread(processes, launch)
    from cgt.cli.measured import named, open_measured
    from cgt.distributed import launched_world
    from cgt.errors import UserError
    from cgt.files import put_json, refuse_existing
    from cgt.metrics.feature_cache import FeatureCache, cache_folder
    from cgt.metrics.features import load_extractor
    from cgt.metrics.settings import EvalConfig, directions
    from cgt.metrics.statistics import open_reference, save_statistics
    from cgt.metrics.suite import Evaluator
    from cgt.progress import stderr_console

    if model is None:
        _require_statistics_alone(save_stats, metrics=metrics, images=images, seed=seed, json=json)
    if save_stats is not None and save_stats.suffix != ".safetensors":
        raise UserError(f"--save-stats {save_stats}: statistics are written as FILE.safetensors.")
    to_stdout = json == Path("-")
    for output in (json, save_stats):
        if output not in (None, Path("-")):
            refuse_existing(output, overwrite=overwrite, inputs=(model, data, features, weights))
    metric_names = EvalConfig().metrics if metrics is None else [name.strip() for name in metrics.split(",")]
    if model is None:
        metric_names = ()
    better = directions(metric_names)
    world = launched_world()
    with world.together():
        measured = None if model is None else open_measured(model)
        names = measured.classes(classes) if measured else named(classes)
        made = 0 if measured is None else measured.images(images, names)
        drawn_by = None if measured is None else measured.seed(seed)
        evaluator = Evaluator(
            open_reference(data, names),
            load_extractor(features, None if weights is None else str(weights), world.device),
            metric_names,
            made,
            drawn_by or 0,
            batch_size,
            names,
            rank=world.rank,
            world=world.size,
            together=world.together,
            cache=FeatureCache(cache_folder()) if cache else None,
        )
        if measured is not None:
            measured.check(evaluator)
    world.agree({"model": measured.digest if measured else "", "data": evaluator.digest})
    pictures = measured.pictures if measured else None
    with _measuring(world, evaluator, pictures) as on_batch:
        if save_stats is not None:
            statistics = evaluator.statistics(on_batch)
            if world.is_main:
                save_statistics(save_stats, *statistics)
        scores = {} if measured is None else measured.scores(evaluator, on_batch)
    if not world.is_main:
        return
    if save_stats is not None:
        stderr_console().print(f"statistics of {evaluator.real_images:,} pictures: {save_stats}")
    if measured is None:
        return
    result = {
        "model": str(measured.path),
        "data": {"shards": data, "sha256": evaluator.digest, "pictures": evaluator.real_images},
        "classes": list(evaluator.classes),
        "features": evaluator.extractor.protocol,
        "images": made,
        "seed": drawn_by,
        "metrics": scores,
        "better": dict(better),
    }
    if json is not None:
        put_json(json, result)
    Console(stderr=to_stdout).print(_table(result))


def _require_statistics_alone(save_stats: Path | None, **of_measuring: object) -> None:
    """Refuse what means nothing where no model is named.

    Raises:
        UserError: naming it.
    """
    from cgt.errors import UserError

    if save_stats is None:
        raise UserError("name the MODEL to measure or, with --save-stats, a file for the data's statistics.")
    if given := [f"--{name}" for name, value in of_measuring.items() if value is not None]:
        raise UserError(
            f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} about a model's pictures, and there is "
            "no MODEL: name one, or leave out all but what --save-stats needs."
        )


@contextmanager
def _measuring(
    world: "World", evaluator: "Evaluator", pictures: "PictureSet | None"
) -> Iterator[Callable[[], None]]:
    """A block in which the ranks are watched over and rank 0 shows how far it is; yields what to call after
    each batch, of `pictures` or of what a generator makes.
    """
    import contextlib
    import itertools

    from cgt.progress import StepsProgress, WorkProgress, steps_progress, work_progress
    from cgt.training.watchdog import Watch

    at_once = evaluator.batch_size * world.size
    steps = -(-evaluator.batches(pictures) // world.size)
    done = itertools.count(1)
    with Watch(world.aside(), unit="batch") as watch, contextlib.ExitStack() as shown:
        bar: StepsProgress | None = None
        comparing: WorkProgress | None = None
        if world.is_main:
            bar = shown.enter_context(steps_progress(steps, 0, pictures_per_step=at_once, task="measuring"))

        def on_batch() -> None:
            watch.reached(next(done))
            if bar:
                bar.advance({})

        def on_pairs(pairs: int, total: int) -> None:
            nonlocal comparing
            watch.reached(next(done))
            if not world.is_main or total < MANY_PAIRS:
                return
            if comparing is None:
                shown.close()  # the bar of the batches
                comparing = shown.enter_context(work_progress("pairs", "comparing"))
            comparing.reach(pairs, total)

        evaluator.on_pairs = on_pairs
        yield on_batch


def _table(result: dict[str, Any]) -> "Table":
    """The scores, and what they are about."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    features = result["features"]
    count = result["data"]["pictures"]
    real = "an unknown number of" if count is None else f"{count:,}"
    caption = (
        f"{result['images']:,} generated and {real} real pictures of "
        f"{counted(len(result['classes']), 'class')}; features: {features['name']} {features['sha256'][:12]}"
    )
    table = Table(
        "score", "value", "", box=box.SIMPLE, title=Text(result["model"]), caption=Text(caption), min_width=60
    )
    table.columns[1].justify = "right"
    for name, value in result["metrics"].items():
        table.add_row(name.replace("_", " "), f"{value:.5g}", ARROWS[result["better"][name]])
    return table
