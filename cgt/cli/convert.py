"""`cgt convert`: a published checkpoint as a model folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cgt import catalog
from cgt.cli.options import OVERWRITE
from cgt.errors import UserError

if TYPE_CHECKING:
    from types import ModuleType

    from rich.table import Table

    from cgt.interop.originals import Difference
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
        help="The generator's file in INPUT. [default: G_ema.pth, else G.pth; for hf-biggan, "
        "pytorch_model.bin]",
        show_default=False,
    ),
]
CLASSES = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="A,B|FILE",
        help="Class names in the order of the labels, those of a transfer's source first: a list, or a text "
        "file with one a line. [default: class_000 and so on; old_000 and new_000 after a transfer]",
        show_default=False,
    ),
]
SOURCE = Annotated[
    Path | None,
    typer.Option(
        "--source",
        metavar="CHECKPOINT",
        help="cgantransfer: the biggan-pytorch checkpoint, folder or generator's file, that the transfer "
        "began from, to take the old classes from. [default: what is left of them in INPUT]",
        show_default=False,
    ),
]
CHECK = Annotated[
    Path | None,
    typer.Option(
        "--check",
        metavar="FILE.npz",
        help="What the original program gave: z, y and eval_images (and x, eval_logits_fake, "
        "eval_logits_real). OUT is written only if it gives the same to within 1e-4.",
        show_default=False,
    ),
]


def convert(
    format: FORMAT,  # noqa: A002 - what the command line calls it
    input: INPUT,  # noqa: A002
    out: OUT,
    weights: WEIGHTS = None,
    classes: CLASSES = None,
    source: SOURCE = None,
    check: CHECK = None,
    overwrite: OVERWRITE = False,
) -> None:
    """Turn a published checkpoint into a model folder.

    Resolution, channels, classes and conditioning are read off the tensors; nothing in the files is executed.
    """
    from rich.console import Console

    from cgt.data.selection import class_names
    from cgt.files import refuse_existing, replacing_folder
    from cgt.interop.originals import compare, read_originals
    from cgt.models.folder import KIND, save_model

    program = catalog.load("cgt.interop", format, kind="checkpoint format")
    refuse_existing(out, overwrite=overwrite, kind=KIND, inputs=(input, weights, source, check))
    names = None if classes is None else class_names(classes)
    options = _options(program, format, source=source)
    originals = None if check is None else read_originals(check)
    generator, discriminator, provenance = program.convert(input, weights=weights, classes=names, **options)
    _refuse_broken(generator, input)
    differences: dict[str, Difference] = {}
    if originals is None:
        save_model(out, generator, discriminator, provenance=provenance, overwrite=overwrite)
    else:
        with replacing_folder(out) as unchecked:
            save_model(unchecked, generator, discriminator, provenance=provenance)
            differences = compare(unchecked, originals)
    console = Console()
    console.print(_summary(generator, discriminator, provenance))
    for name, difference in differences.items():
        told = (
            f"checked: {name} differ by at most {difference.largest:.1e} from those of {check} "
            f"(limit: {difference.limit:.1e})"
        )
        console.print(told, highlight=False, markup=False, soft_wrap=True)
    console.print(f"wrote {out}", highlight=False, markup=False, soft_wrap=True)


def _refuse_broken(generator: "Generator", what: Path) -> None:
    """Refuse weights that no picture can be made of.

    Raises:
        UserError: some are not finite.
    """
    import torch

    from cgt.models.sampling import latent_range

    z_NZ = latent_range(generator, None).drawn((2, generator.dim_z), 0, "conversion")
    with torch.no_grad():
        x_N3RR = generator(z_NZ, torch.tensor([0, len(generator.classes) - 1]))
    if not x_N3RR.isfinite().all():
        raise UserError(
            f"the generator of {what} makes pictures with values that are not finite (NaN or infinity), "
            "though its weights are: its training had diverged, or the file is damaged (a variance below "
            "0?). Name another checkpoint."
        )


def _options(program: "ModuleType", name: str, **given: Path | None) -> dict[str, Path]:
    """The options that were given, all of which the format must take."""
    options = {option: value for option, value in given.items() if value is not None}
    for option in options.keys() - program.OPTIONS:
        takers = [
            other
            for other in catalog.names("cgt.interop")
            if option in catalog.load("cgt.interop", other, kind="checkpoint format").OPTIONS
        ]
        raise UserError(f"--{option} means nothing for {name} (only for {', '.join(takers)}): leave it out.")
    return options


def _summary(
    generator: "Generator", discriminator: "Discriminator | None", provenance: dict[str, Any]
) -> "Table":
    """What was read off the tensors."""
    from rich import box
    from rich.table import Table
    from rich.text import Text
    from torch import nn

    from cgt.models.card import architecture

    def size(network: nn.Module | None) -> str:
        return (
            f"{sum(p.numel() for p in network.parameters()):,} parameters" if network is not None else "none"
        )

    config, names = generator.config, generator.classes
    conditioning = "an embedding per layer"
    if config.shared_dim:
        latent = ""
        if config.deep:
            latent = ", and all of z at every layer"
        elif config.hierarchical:
            latent = f", hierarchical z in chunks of {generator.latent_width}"
        conditioning = f"a shared embedding of {config.shared_dim}{latent}"
    unused = [f"{count} {name}" for name, count in provenance["unused_keys"].items()]
    rows = {
        "files": ", ".join(provenance["files"]),
        "architecture": architecture(generator),
        "resolution": f"{generator.resolution} px",
        "channels": ", ".join(map(str, config.widths(generator.resolution))),
        "attention": ", ".join(f"{size} px" for size in config.attention) or "none",
        "classes": f"{len(names)}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}",
        "conditioning": conditioning,
        "latent": f"{generator.dim_z}",
        **({"statistics": f"for {generator.last_bank.levels} truncations"} if generator.levelled else {}),
        "generator": size(generator),
        "discriminator": size(discriminator),
        "norm epsilon": f"{config.bn_eps:g}",
        "keys not used": ", ".join(unused) or "none",
        "files left out": ", ".join(provenance["left_out"]) or "none",
    }
    if "old_classes" in provenance:
        rows["old classes"] = provenance["old_classes"]
    table = Table(box=box.SIMPLE, show_header=False)
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table
