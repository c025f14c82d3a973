"""`cgt export`: a model in the form that another program takes."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgt import catalog
from cgt.cli.options import MODEL, OVERWRITE
from cgt.wording import counted

if TYPE_CHECKING:
    from cgt.export.base import Written

FORMATS = ", ".join(catalog.names("cgt.export"))
OUT = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")]
FORMAT = Annotated[
    str,
    typer.Option("--format", metavar="FORMAT", help=f"The form, one of: {FORMATS}.", show_default=False),
]
CLASSES = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="new|old|all|A,B|FILE",
        help="Export these alone, in the model's order. [default: all]",
        show_default=False,
    ),
]
HALF = Annotated[bool, typer.Option("--half", help="Store numbers in half precision (safetensors).")]
MIXING = Annotated[
    bool,
    typer.Option(
        "--mixing", help="Also write a graph that takes a weight for every class (onnx, torch-export)."
    ),
]
TRUNCATION = Annotated[
    float | None,
    typer.Option(
        "--truncation",
        metavar="T",
        help="For latents cut off at plus and minus T. [default: for latents as in training]",
        show_default=False,
    ),
]
VERIFY = Annotated[
    bool,
    typer.Option(
        "--verify/--no-verify",
        help="Compare what was written with the model, and write nothing that differs by more than 1e-4.",
    ),
]


def export(
    model: MODEL,
    out: OUT,
    format: FORMAT,  # noqa: A002 - what the command line calls it
    classes: CLASSES = None,
    half: HALF = False,
    mixing: MIXING = False,
    truncation: TRUNCATION = None,
    verify: VERIFY = True,
    overwrite: OVERWRITE = False,
) -> None:
    """Write a model in the form that another program takes.

    OUT becomes a folder with the files and a card, which says what goes in and out, how it is run, and how
    near it is to the model.
    """
    from cgt.cli.classes import chosen_classes
    from cgt.errors import UserError
    from cgt.export.base import Options
    from cgt.export.writing import read_model, target_of, write_export
    from cgt.files import refuse_existing
    from cgt.models.folder import find_model

    if truncation is not None and not 0 < truncation < math.inf:
        raise UserError(f"--truncation {truncation}: give a number above 0, such as 0.5.")
    target = target_of(format)
    options = Options(half=half, mixing=mixing, truncation=truncation, verify=verify)
    options.refuse_others(format, target.OPTIONS)
    folder = find_model(model)
    refuse_existing(out, overwrite=overwrite, kind=target.KIND, inputs=(model, folder))
    read = read_model(folder, format)
    if classes not in (None, "all"):
        wanted = set(chosen_classes(read.generator, classes))
        names = tuple(name for name in read.generator.classes if name in wanted)
        options = dataclasses.replace(options, classes=names)
    written = write_export(read, out, format, options, overwrite=overwrite)
    typer.echo(_summary(out, written))


def _summary(out: Path, written: "Written") -> str:
    """What was written, in a line."""
    count = len(written.classes)
    agreement = "not compared with the model"
    if written.parity is not None:
        agreement = f"within {written.parity.greatest:.1e} of {written.compared_with}"
    notes = "".join(f"\n{what}: {fact}" for what, fact in written.notes.items())
    return f"{out}: {counted(count, 'class')}, {agreement}{notes}"
