"""`cgt banks show | remove | merge`: the class banks of model folders."""

import json as json_text
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cgt.cli.options import MODEL, OVERWRITE
from cgt.errors import UserError
from cgt.wording import counted

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from cgt.models.biggan import Generator

app = typer.Typer(
    no_args_is_help=True,
    help="Look at, remove and merge class banks: the groups of classes that a model got one after another.",
)

OUT = Annotated[Path, typer.Argument(metavar="OUT", help="The model folder to make.")]


@app.command()
def show(
    model: MODEL,
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write it all to FILE too, or to stdout alone for -."),
    ] = None,
    overwrite: OVERWRITE = False,
) -> None:
    """Show a model's banks, to see what can be removed and what was added when.

    `numbers` are what a bank holds: class tables, or what makes them, latent projections and batch-norm
    statistics.
    """
    from rich.console import Console

    from cgt.files import put_json, refuse_existing
    from cgt.models.banks import banks_of
    from cgt.models.folder import find_model, load_model
    from cgt.models.record import read_record

    folder = find_model(model)
    to_stdout = json == Path("-")
    if json is not None and not to_stdout:
        refuse_existing(json, overwrite=overwrite, inputs=(model, folder))
    generator, discriminator = load_model(folder)
    facts = {
        "model": str(folder),
        "banks": [
            {"bank": number, "kind": bank.kind, "classes": list(bank.classes), "numbers": _numbers(bank)}
            for number, bank in enumerate(banks_of(generator))
        ],
        "other_numbers": _numbers(generator) - _numbers(generator.banks),
        "discriminator": discriminator and discriminator.classes,
        "provenance": read_record(folder).provenance,
    }
    _show(facts, Console(stderr=to_stdout))
    if json is not None:
        put_json(json, facts)


@app.command()
def remove(
    model: MODEL,
    out: OUT,
    bank: Annotated[
        int | None,
        typer.Option(
            "--bank", min=0, metavar="K", help="The bank's number, as `cgt banks show` has it, from 0."
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="A,B|FILE",
            help="Or all of the bank's classes: names, or a text file with one a line.",
        ),
    ] = None,
    overwrite: OVERWRITE = False,
) -> None:
    """Make a model without one of its banks, such as of classes that turned out badly or are not wanted.

    The other classes stay what they are, to the bit; the ids of those after the bank move up. A bank goes
    only as a whole. The discriminator, which further transfers need, is copied, unless its classes are those
    removed.
    """
    from cgt.data.selection import class_names
    from cgt.files import refuse_existing
    from cgt.models.banks import bank_with_classes, banks_of, without_bank
    from cgt.models.folder import KIND, find_model, load_model, save_model
    from cgt.models.naming import choose

    if (bank is None) == (classes is None):
        raise UserError("say which bank goes: with --bank or with --classes, and not with both.")
    folder = find_model(model)
    refuse_existing(out, overwrite=overwrite, kind=KIND, inputs=(model, folder))
    generator, discriminator = load_model(folder)
    try:
        if classes is not None:
            bank = bank_with_classes(generator, choose(generator.classes, class_names(classes), str(folder)))
        assert bank is not None
        rest = without_bank(generator, bank)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from None
    removed = banks_of(generator)[bank].classes
    orphaned = discriminator is not None and not set(removed).isdisjoint(discriminator.classes)
    kept = None if orphaned else discriminator
    provenance = {
        "made_by": f"cgt banks remove, of bank {bank} of {folder}",
        "sources": _sources([folder]),
        "removed": list(removed),
    }
    save_model(out, rest, kept, provenance=provenance, overwrite=overwrite)
    typer.echo(_summary(out, rest))
    if orphaned:
        _tell_of_no_discriminator(out, f"that of {folder} knows the classes removed")


@app.command()
def merge(
    out: OUT,
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL MODEL...", help="Model folders, or run folders, in this order."),
    ],
    overwrite: OVERWRITE = False,
) -> None:
    """Make one model of several that extend the same source, such as by transfers run side by side.

    OUT has the banks of the first model, then those that each of the others adds; what they have in common
    is taken once. Every class stays what it is, to the bit. The discriminator, which further transfers need,
    is copied if all have the same.
    """
    from cgt.files import refuse_existing
    from cgt.models.banks import merged, one_discriminator
    from cgt.models.folder import KIND, find_model, load_model, save_model

    folders = [find_model(model) for model in models]
    refuse_existing(out, overwrite=overwrite, kind=KIND, inputs=(*models, *folders))
    generators, discriminators = zip(*(load_model(folder) for folder in folders), strict=True)
    try:
        generator = merged(generators, [str(folder) for folder in folders])
    except ValueError as error:
        raise UserError(str(error)) from None
    discriminator = one_discriminator(discriminators)
    provenance = {
        "made_by": f"cgt banks merge, of {' and '.join(map(str, folders))}",
        "sources": _sources(folders),
    }
    save_model(out, generator, discriminator, provenance=provenance, overwrite=overwrite)
    typer.echo(_summary(out, generator))
    if discriminator is None and any(discriminators):
        _tell_of_no_discriminator(out, "the models don't all have the same")


def _numbers(part: "nn.Module") -> int:
    """How many numbers a model folder holds of a part of a network: parameters and buffers."""
    return sum(tensor.numel() for tensor in part.state_dict().values())


def _sources(folders: Sequence[Path]) -> list[dict[str, str]]:
    """What a model was made of."""
    from cgt.files import sha256

    return [
        {"model": str(folder), "generator_sha256": sha256(folder / "generator.safetensors")}
        for folder in folders
    ]


def _summary(out: Path, generator: "Generator") -> str:
    """What was written, in a line."""
    return (
        f"{out}: {counted(len(generator.classes), 'class')} in {counted(len(generator.banks), 'bank')}, "
        f"{_numbers(generator):,} numbers"
    )


def _tell_of_no_discriminator(out: Path, reason: str) -> None:
    typer.echo(f"{out} has no discriminator ({reason}), so no transfer can start from it.", err=True)


def _show(facts: dict[str, Any], console: "Console") -> None:
    """A table of the banks, and lines of the rest."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from cgt.models.naming import listed

    table = Table("bank", "kind", "classes", "", "numbers", box=box.SIMPLE, title=Text(facts["model"]))
    for column in (0, 2, 4):
        table.columns[column].justify = "right"
    for bank in facts["banks"]:
        names = bank["classes"]
        table.add_row(
            str(bank["bank"]), bank["kind"], str(len(names)), Text(listed(names)), f"{bank['numbers']:,}"
        )
    console.print(table)
    lines = {"numbers of no bank": f"{facts['other_numbers']:,}"}
    lines["discriminator"] = f"of {listed(facts['discriminator'])}" if facts["discriminator"] else "none"
    lines |= {
        key: value if isinstance(value, str) else json_text.dumps(value, ensure_ascii=False)
        for key, value in facts["provenance"].items()
    }
    for key, value in lines.items():
        console.print(Text(f"{key}: {value}"), soft_wrap=True)
