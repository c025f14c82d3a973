"""`cgt sample`: pictures of a model's classes, as a grid, a film, single files or shards."""

import math
import os
import re
from pathlib import Path
from typing import Annotated

import typer

from cgt.cli.options import MODEL, OVERWRITE, SEED
from cgt.errors import UserError
from cgt.wording import counted

NOT_WRITTEN = re.compile(r"\.(jpe?g|bmp|tiff?|pdf|svg|apng|avif|mp4|webm|avi|mov|mkv|tar|zip)", re.IGNORECASE)
"""Suffixes by which people ask for a file of a kind that there is not."""
FRAMES = 24
FPS = 12.0
THREADS = min(8, os.cpu_count() or 1)


def sample(
    model: MODEL,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE.png|FILE.webp|FILE.gif|DIR",
            help="A grid, one row a class; a film from class to class and back; or a folder of single "
            "pictures, with a subfolder NNN-NAME a class.",
        ),
    ],
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            help="old, new, all, names (a,b), or a text file of names. A mix of classes is "
            "NAME:WEIGHT+NAME:WEIGHT, such as a:0.5+b:0.5. [default: all]",
            show_default=False,
        ),
    ] = None,
    per_class: Annotated[
        int, typer.Option("--per-class", min=1, help="Pictures of each class; of a film, in each frame.")
    ] = 8,
    seed: SEED = 0,
    truncation: Annotated[
        float | None,
        typer.Option(
            "--truncation",
            min=0.01,
            help="Draw latents from N(0, 1) cut off at +-T: less variety, better pictures. [default: none]",
            show_default=False,
        ),
    ] = None,
    shards: Annotated[
        bool, typer.Option("--shards", help="Write the shard folder DIR, to train on or to measure.")
    ] = False,
    jpeg_quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Write single pictures as JPEG of this quality, not as PNG."),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Of a film: from each class to the next.")] = FRAMES,
    fps: Annotated[float, typer.Option(min=0.1, max=1000, help="Of a film: frames a second.")] = FPS,
    moving: Annotated[
        bool,
        typer.Option("--moving", help="Of a film: let the latents move, too; else the class alone does."),
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures made at once. They are the same ones for any number.")
    ] = 64,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads that encode and write single pictures meanwhile.",
            show_default="one per core, at most 8",
        ),
    ] = None,
    overwrite: OVERWRITE = False,
) -> None:
    """Draw pictures of a model's classes: a grid, a film, single files, or a shard folder.

    A folder has a samples.json that names the classes of its subfolders, the model and the options. The
    columns of a grid are of one latent each; single pictures have latents of their own, which depend on the
    seed, the class and the picture's number.
    """
    from cgt.cli.classes import chosen_mixes
    from cgt.cli.sample_outputs import (
        KIND,
        LATENTS_OF_ONE,
        Order,
        write_film,
        write_folder,
        write_grid,
        write_shards,
    )
    from cgt.data.partial import refuse_output
    from cgt.distributed import device
    from cgt.files import refuse_existing
    from cgt.images import FILMS
    from cgt.models.folder import find_model, load_generator
    from cgt.models.sampling import latent_range

    suffix = out.suffix.lower()
    film = suffix in FILMS
    if not film and (moving or frames != FRAMES or fps != FPS):
        raise UserError(
            f"--frames, --fps and --moving are of films, and --out {out} is none: name a .webp or .gif, or "
            "leave them out."
        )
    _check(
        out,
        as_file=film or suffix == ".png",
        shards=shards,
        truncation=truncation,
        jpeg_quality=jpeg_quality,
        workers=workers,
    )
    folder = find_model(model)
    if shards:
        refuse_output(out, (str(folder),), overwrite=overwrite)
    else:
        single = not film and suffix != ".png"
        refuse_existing(out, overwrite=overwrite, kind=KIND if single else None, inputs=(folder,))
    generator = load_generator(folder).to(device())
    latent_range(generator, truncation)  # refuses what it has no statistics for
    mixes = chosen_mixes(generator, classes)
    order = Order(folder, generator, tuple(mixes), per_class, seed, truncation, batch_size)
    if film:
        write_film(out, order, frames, fps, moving=moving)
    elif suffix == ".png":
        write_grid(out, order)
    elif shards:
        write_shards(out, order, jpeg_quality, workers or THREADS, overwrite=overwrite)
    else:
        write_folder(out, order, jpeg_quality, workers or THREADS)
    ways = len(mixes) if len(mixes) > 1 else LATENTS_OF_ONE
    shown = counted(frames * ways, "frame") if film else counted(len(mixes) * per_class, "picture")
    typer.echo(f"{shown} of {counted(len(mixes), 'class')}: {out}", err=True)


def _check(
    out: Path,
    *,
    as_file: bool,
    shards: bool,
    truncation: float | None,
    jpeg_quality: int | None,
    workers: int | None,
) -> None:
    """Refuse options that contradict each other.

    Raises:
        UserError: naming them.
    """
    if NOT_WRITTEN.fullmatch(out.suffix):
        raise UserError(
            f"--out {out}: a grid is written as .png and a film as .webp or .gif; name such a file, or a "
            "folder for single pictures."
        )
    if shards and as_file:
        raise UserError(f"--out {out}: --shards writes a folder: name one, or leave --shards out.")
    for option, value in (("--jpeg-quality", jpeg_quality), ("--workers", workers)):
        if value is not None and as_file:
            raise UserError(
                f"{option} is for single pictures, and --out {out} is one file: name a folder, or leave it "
                "out."
            )
    if truncation is not None and not math.isfinite(truncation):
        raise UserError(f"--truncation {truncation}: give a number above 0, such as 0.5.")
