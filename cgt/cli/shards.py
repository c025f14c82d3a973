"""`cgt shards`: pictures on disk in the form that training reads."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cgt.cli import shard_sets
from cgt.cli.options import OVERWRITE, SEED
from cgt.errors import RunError, UserError
from cgt.launching import cores
from cgt.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

    from cgt.data.manifest import Manifest

CORES = cores()

app = typer.Typer(
    no_args_is_help=True, help="Make, look at and check shard folders: pictures as training reads them."
)


@app.command()
def build(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Where pictures come from: shapes, digits, cifar10, cifar100, folder, imagenet, places365, "
            "animalface or parquet.",
        ),
    ],
    path: Annotated[
        str, typer.Argument(metavar="INPUT", help="The source's archive or folder; - for shapes and digits.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The shard folder to make.")],
    split: Annotated[str | None, typer.Option(help="Part of the data set, such as train or test.")] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="A,B|FILE", help="Classes to take: names, or a text file with one a line."),
    ] = None,
    per_class: Annotated[
        int | None, typer.Option(min=1, help="At most so many pictures of each class.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=4, max=8192, help="Height and width, pixels. Default: 32, or 128 where pictures are larger."
        ),
    ] = None,
    seed: SEED = 0,
    shard_mb: Annotated[float, typer.Option(min=0.01, help="Size of a shard, MB.")] = 128,
    filter: Annotated[  # noqa: A002 - the option's name
        Literal["lanczos", "box", "bicubic"], typer.Option(help="What pictures are resized with.")
    ] = "lanczos",
    jpeg_quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Write JPEG of this quality; without it PNG, which loses nothing."),
    ] = None,
    holdout: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Hold out this share of the pictures, chosen by their content."),
    ] = None,
    part: Annotated[
        Literal["train", "holdout"],
        typer.Option(help="With --holdout: write the other pictures, or those held out."),
    ] = "train",
    task: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only the I-th of N parts of the work, for folders to be merged."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at a picture that can't be read; else it is left out.")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that load and encode.", show_default="one per core")
    ] = CORES,
    overwrite: OVERWRITE = False,
) -> None:
    """Build a shard folder from pictures.

    The same input and options give the same bytes. An interrupted build goes on when the command is run
    again. Pictures that can't be read are left out; OUT/report.json lists them, and duplicates.
    """
    from cgt.data.selection import class_names
    from cgt.data.write import BuildOptions, build_shards
    from cgt.progress import work_progress

    options = BuildOptions(
        source=source,
        split=split,
        classes=None if classes is None else class_names(classes),
        per_class=per_class,
        size=size,
        seed=seed,
        shard_mb=shard_mb,
        filter=filter,
        jpeg_quality=jpeg_quality,
        holdout=holdout,
        part=part,
        task=task,
        strict=strict,
    )
    remarks: list[str] = []
    with work_progress("pictures", "building") as progress:
        manifest = build_shards(
            options,
            path,
            out,
            workers=workers,
            overwrite=overwrite,
            progress=progress.reach,
            remark=remarks.append,
        )
    typer.echo(shard_sets.summary(out, manifest))
    for sentence in remarks:
        typer.echo(sentence, err=True)


@app.command()
def inspect(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A shard folder, or the URL of one.")],
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Write a contact sheet too: a row a class, at most 100 rows."),
    ] = None,
    per_class: Annotated[
        int, typer.Option(min=1, max=100, help="With --sheet: pictures of each class, the first ones.")
    ] = 8,
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write it all to FILE too, or to stdout alone for -."),
    ] = None,
    overwrite: OVERWRITE = False,
) -> None:
    """Show what a shard folder holds: classes, shards, and how it was built."""
    from rich.console import Console

    from cgt.data.manifest import open_shards
    from cgt.files import put_json, refuse_existing

    to_stdout = json == Path("-")
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet {sheet}: a contact sheet is written as .png; name FILE.png.")
    for out in (sheet, None if to_stdout else json):
        if out is not None:
            refuse_existing(out, overwrite=overwrite, inputs=(folder,))
    opened = open_shards(folder)
    if sheet is not None:
        from cgt.data.sheet import write_sheet

        shown = write_sheet(opened, sheet, per_class)
        rest = len(opened.manifest.classes) - shown
        note = f", the first {shown}; {rest:,} more are left out" if rest else ""
        typer.echo(f"{sheet}: pictures of {counted(shown, 'class')}{note}", err=True)
    _show(opened.manifest, Console(stderr=to_stdout))
    if json is not None:
        put_json(json, _facts(opened.manifest))


def _show(manifest: "Manifest", console: "Console") -> None:
    """Tables of the classes and of the shards, and a few lines of the rest."""
    from rich.table import Table
    from rich.text import Text

    classes = Table("label", "class", "pictures", title=counted(len(manifest.classes), "class"))
    for label, (name, count) in enumerate(manifest.counts().items()):
        classes.add_row(str(label), Text(name), f"{count:,}")
    shards = Table("shard", "pictures", "MB", "SHA-256", title=counted(len(manifest.shards), "shard"))
    for shard in manifest.shards:
        shards.add_row(shard.file, f"{shard.samples:,}", f"{shard.bytes / 1e6:,.2f}", shard.sha256[:16])
    for table in (classes, shards):
        for column in table.columns[1 if table is shards else 2 : 3]:
            column.justify = "right"
    console.print(classes, shards)
    console.print(
        Text(
            f"{counted(manifest.samples, 'picture')} of {manifest.size} x {manifest.size} px, "
            f"{manifest.encoding}, {manifest.bytes / 1e6:,.1f} MB; decoded "
            f"{manifest.samples * 3 * manifest.size**2 / 1e6:,.1f} MB"
        )
    )
    built = ", ".join(f"{key} {value}" for key, value in manifest.build.items() if value is not None)
    console.print(Text(f"built with {built}"))


def _facts(manifest: "Manifest") -> dict[str, Any]:
    """What the tables say."""
    return {
        "pictures": manifest.samples,
        "size": manifest.size,
        "encoding": manifest.encoding,
        "bytes": manifest.bytes,
        "classes": manifest.counts(),
        "shards": [
            {"file": shard.file, "pictures": shard.samples, "bytes": shard.bytes, "sha256": shard.sha256}
            for shard in manifest.shards
        ],
        "build": manifest.build,
    }


@app.command()
def verify(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A shard folder, or the URL of one.")],
    workers: Annotated[
        int, typer.Option(min=1, help="Processes, each with a shard at a time.", show_default="one per core")
    ] = CORES,
) -> None:
    """Check a shard folder down to every picture: hashes, counts, keys, and that all of it decodes."""
    from cgt.data.manifest import open_shards
    from cgt.data.verify import problems
    from cgt.progress import work_progress

    opened = open_shards(folder)
    with work_progress("pictures", "checking") as progress:
        found = problems(opened, progress.reach, workers=workers)
    for problem in found:
        typer.echo(problem)
    if found:
        raise RunError(
            f"{folder} is damaged in {counted(len(found), 'place')}, listed above: "
            "build it again with `cgt shards build`, or restore the files from a copy."
        )
    manifest = opened.manifest
    pictures, files = counted(manifest.samples, "picture"), counted(len(manifest.shards), "shard")
    typer.echo(f"{folder}: {pictures} in {files}, all sound")


app.command()(shard_sets.merge)
app.command()(shard_sets.split)
