"""`cgt convert`: a published checkpoint as a model folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cgt import catalog
from cgt.cli.options import OVERWRITE

if TYPE_CHECKING:
    from rich.table import Table

    from cgt.models.biggan import Generator
    from cgt.models.discriminator import Discriminator

FORMATS = ", ".join(catalog.names("cgt.interop"))
FORMAT = Annotated[
    str, typer.Argument(metavar="FORMAT", help=f"What wrote the checkpoint, one of: {FORMATS}.")
]
INPUT = Annotated[
    Path, typer.Argument(metavar="INPUT", help="The checkpoint's folder, or a generator's file.")
]
OUT = Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to write.")]
WEIGHTS = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="The generator's file in INPUT. [default: G_ema.pth, else G.pth]",
        show_default=False,
    ),
]
CLASSES = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="A,B|FILE",
        help="Class names in the order of the labels: a list, or a text file with one a line. "
        "[default: class_000 and so on]",
        show_default=False,
    ),
]


def convert(
    format: FORMAT,  # noqa: A002 - what the command line calls it
    input: INPUT,  # noqa: A002
    out: OUT,
    weights: WEIGHTS = None,
    classes: CLASSES = None,
    overwrite: OVERWRITE = False,
) -> None:
    """Turn a published checkpoint into a model folder.

    Resolution, channels, classes and conditioning are read off the tensors; nothing in the files is executed.
    """
    from rich.console import Console

    from cgt.data.selection import class_names
    from cgt.files import refuse_existing
    from cgt.models.folder import KIND, save_model

    program = catalog.load("cgt.interop", format, kind="checkpoint format")
    refuse_existing(out, overwrite=overwrite, kind=KIND, inputs=(input, weights))
    names = None if classes is None else class_names(classes)
    generator, discriminator, provenance = program.convert(input, weights=weights, classes=names)
    save_model(out, generator, discriminator, provenance=provenance, overwrite=overwrite)
    console = Console()
    console.print(_summary(generator, discriminator, provenance))
    console.print(f"wrote {out}", highlight=False, markup=False, soft_wrap=True)


def _summary(
    generator: "Generator", discriminator: "Discriminator | None", provenance: dict[str, Any]
) -> "Table":
    """What was read off the tensors."""
    from rich import box
    from rich.table import Table
    from rich.text import Text
    from torch import nn

    def size(network: nn.Module | None) -> str:
        return (
            f"{sum(p.numel() for p in network.parameters()):,} parameters" if network is not None else "none"
        )

    config, names = generator.config, generator.classes
    conditioning = "an embedding per layer"
    if config.shared_dim:
        latent = f", hierarchical z in chunks of {generator.latent_width}" if config.hierarchical else ""
        conditioning = f"a shared embedding of {config.shared_dim}{latent}"
    unused = [f"{count} {name}" for name, count in provenance["unused_keys"].items()]
    rows = {
        "files": ", ".join(provenance["files"]),
        "resolution": f"{generator.resolution} px",
        "channels": ", ".join(map(str, config.widths(generator.resolution))),
        "attention": ", ".join(f"{size} px" for size in config.attention) or "none",
        "classes": f"{len(names)}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}",
        "conditioning": conditioning,
        "latent": f"{generator.dim_z}",
        "generator": size(generator),
        "discriminator": size(discriminator),
        "keys not used": ", ".join(unused) or "none",
    }
    table = Table(box=box.SIMPLE, show_header=False)
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table
