"""`cgt sample`: pictures of a model's classes."""

import re
from pathlib import Path
from typing import Annotated

import typer

from cgt.cli.options import MODEL, OVERWRITE, SEED
from cgt.files import FolderKind

RECORD = "samples.json"
OTHER_PICTURES = {".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".pdf", ".svg"}
KIND = FolderKind("a folder of samples", (RECORD,), ("[0-9]*/[0-9]*.png",))


def sample(
    model: MODEL,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE.png|DIR",
            help="A grid, one row a class; or a folder of single PNGs, with a subfolder NNN-NAME a class.",
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
    """Draw pictures of a model's classes, as a grid or one by one.

    A folder has a samples.json that names the classes of its subfolders, the model and the options.
    """
    import torch

    from cgt.cli.classes import chosen_classes
    from cgt.distributed import device
    from cgt.errors import UserError
    from cgt.files import refuse_existing, replacing_folder, write_bytes, write_json
    from cgt.images import encode_png, save_grid
    from cgt.models.folder import find_model, load_generator
    from cgt.models.sampling import grid_zoom, sample_class

    folder = find_model(model)
    as_grid = out.suffix.lower() == ".png"
    if out.suffix.lower() in OTHER_PICTURES:
        raise UserError(
            f"--out {out}: a grid is written as .png; name FILE.png, or a folder for single pictures."
        )
    refuse_existing(out, overwrite=overwrite, kind=None if as_grid else KIND, inputs=(folder,))
    generator = load_generator(folder).to(device())
    names = chosen_classes(generator, classes)
    pictures = {
        name: sample_class(generator, name, per_class, seed=seed, truncation=truncation) for name in names
    }
    if as_grid:
        sheet = torch.cat(list(pictures.values()))
        save_grid(out, sheet, per_class, labels=names, zoom=grid_zoom(generator))
    else:
        subfolders = {subfolder(generator.classes.index(name), name): name for name in names}
        record = {
            "model": str(folder),
            "classes": subfolders,
            "per_class": per_class,
            "seed": seed,
            "truncation": truncation,
        }
        with replacing_folder(out) as temporary:
            write_json(temporary / RECORD, record)
            for part, name in subfolders.items():
                for i, x_3RR in enumerate(pictures[name]):
                    write_bytes(temporary / part / f"{i:05d}.png", encode_png(x_3RR))
    typer.echo(f"{len(names) * per_class} pictures of {len(names)} classes: {out}", err=True)


def subfolder(number: int, name: str) -> str:
    """A name for the folder of a class: its id and what of its name is safe on any disk."""
    return f"{number:03d}-{re.sub(r'[^A-Za-z0-9]+', '-', name)[:60].strip('-')}".rstrip("-")
