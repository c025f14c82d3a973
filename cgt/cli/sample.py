"""`cgt sample`: pictures of a model's classes."""

from pathlib import Path
from typing import Annotated

import typer

from cgt.cli.options import MODEL, OVERWRITE, SEED


def sample(
    model: MODEL,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE.png|DIR",
            help="A grid, one row a class; or a folder with one PNG a picture.",
        ),
    ],
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            help="old, new, all, names (a,b), or a text file of names. [default: all]",
            show_default=False,
        ),
    ] = None,
    per_class: Annotated[int, typer.Option("--per-class", min=1, help="Pictures of each class.")] = 8,
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
    overwrite: OVERWRITE = False,
) -> None:
    """Draw pictures of a model's classes, as a grid or one by one."""
    import torch

    from cgt.cli.classes import chosen_classes
    from cgt.files import refuse_existing, replacing_folder, write_bytes
    from cgt.images import encode_png, save_grid
    from cgt.models.folder import find_model, load_generator
    from cgt.models.sampling import sample_class

    refuse_existing(out, overwrite=overwrite)
    generator = load_generator(find_model(model))
    names = chosen_classes(generator, classes)
    pictures = {
        name: sample_class(generator, name, per_class, seed=seed, truncation=truncation) for name in names
    }
    if out.suffix.lower() == ".png":
        zoom = max(1, 64 // generator.resolution)
        save_grid(out, torch.cat(list(pictures.values())), per_class, labels=names, zoom=zoom)
    else:
        with replacing_folder(out) as folder:
            for name, x_K3RR in pictures.items():
                for i, x_3RR in enumerate(x_K3RR):
                    write_bytes(folder / name.replace("/", "_") / f"{i:05d}.png", encode_png(x_3RR))
    typer.echo(f"{len(names) * per_class} pictures of {len(names)} classes: {out}", err=True)
