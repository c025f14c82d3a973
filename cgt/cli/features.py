"""`cgt features train`: a small classifier of one's own pictures, as a feature extractor for `cgt eval`."""

from pathlib import Path
from typing import Annotated

import typer

from cgt.cli.options import OVERWRITE, SEED
from cgt.wording import counted

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Feature extractors of one's own pictures."
)

CLASSES = Annotated[
    str | None,
    typer.Option(
        metavar="A,B|FILE",
        help="Classes to tell apart: names, or a text file of names. [default: all]",
        show_default=False,
    ),
]
PER_CLASS = Annotated[
    int | None,
    typer.Option(
        min=2,
        metavar="N",
        help="At most so many pictures of each class; all are held in memory. [default: all]",
        show_default=False,
    ),
]
STEPS = Annotated[int, typer.Option(min=1, metavar="N", help="Training steps, 64 pictures each.")]
FLIP = Annotated[bool, typer.Option("--flip", help="Mirror pictures at random.")]
SHIFT = Annotated[
    int, typer.Option(min=0, metavar="PIXELS", help="Move pictures at random by up to so many pixels.")
]


@app.command()
def train(
    shards: Annotated[str, typer.Argument(metavar="SHARDS", help="A shard folder or its URL.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The extractor's folder, for --features.")],
    classes: CLASSES = None,
    per_class: PER_CLASS = None,
    steps: STEPS = 300,
    flip: FLIP = False,
    shift: SHIFT = 0,
    seed: SEED = 0,
    overwrite: OVERWRITE = False,
) -> None:
    """Train a small classifier of the pictures in SHARDS.

    A tenth of each class is held out to measure its accuracy by. `cgt eval --features OUT` then compares
    pictures by what the classifier sees in them, and --metrics accuracy asks it for their classes.
    """
    import torch

    from cgt.data import DataConfig, open_pictures
    from cgt.distributed import device
    from cgt.files import refuse_existing
    from cgt.metrics.features import cnn
    from cgt.metrics.features.cnn_training import BATCH, CnnTraining
    from cgt.metrics.features.cnn_training import train as train_cnn
    from cgt.progress import steps_progress

    refuse_existing(out, overwrite=overwrite, kind=cnn.KIND, inputs=(shards,))
    pictures = open_pictures(DataConfig(shards=shards, classes=classes, per_class=per_class))
    x, y = (torch.cat(parts) for parts in zip(*pictures.once(256), strict=True))
    training = CnnTraining(steps=steps, seed=seed, flip=flip, shift=shift)
    with steps_progress(steps, 0, pictures_per_step=BATCH) as progress:
        model, description = train_cnn(
            x, y, pictures.classes, training, lambda loss: progress.advance({"loss": loss}), device()
        )
    provenance = {**description.provenance, "data": shards, "data_sha256": pictures.digest}
    cnn.save(out, model, description.model_copy(update={"provenance": provenance}))
    typer.echo(
        f"{out}: {model.dim} features, {counted(len(pictures.classes), 'class')}; accuracy "
        f"{description.held_out_accuracy:.3f} on {description.provenance['held_out']:,} held-out pictures, "
        f"{description.training_accuracy:.3f} on the others"
    )
