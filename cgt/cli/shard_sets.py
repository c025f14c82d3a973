"""`cgt shards merge | split`: shard folders out of shard folders."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgt.cli.options import OVERWRITE
from cgt.errors import UserError
from cgt.wording import counted

if TYPE_CHECKING:
    from cgt.data.manifest import Manifest


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The shard folder to make.")],
    folders: Annotated[
        list[str],
        typer.Argument(metavar="FOLDER FOLDER...", help="Shard folders, or URLs of them, in this order."),
    ],
    overwrite: OVERWRITE = False,
) -> None:
    """Make one shard folder out of several, such as those of a build's tasks.

    Pictures are copied as they are, and so all must have one size and encoding. Where the lists of classes
    differ, OUT has the classes of all. The same folders give the same bytes. An interrupted merge goes on
    when the command is run again.
    """
    from cgt.data.merge import merge_shards
    from cgt.progress import work_progress

    with work_progress("pictures", "merging") as progress:
        manifest = merge_shards(folders, out, overwrite=overwrite, progress=progress.reach)
    typer.echo(summary(out, manifest))
    if tasks := manifest.build.get("task"):
        typer.echo(f"{out} has the tasks {tasks} of a build: the pictures of others are missing.", err=True)


def split(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A shard folder, or the URL of one.")],
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="The shard folder for what is split off.")],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="The shard folder for the rest.")],
    classes: Annotated[
        str | None,
        typer.Option(metavar="A,B|FILE", help="FIRST gets these: names, or a text file with one a line."),
    ] = None,
    share: Annotated[
        float | None, typer.Option(metavar="X", help="FIRST gets this share of each class's pictures.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="With --share: another one, another choice.")] = 0,
    overwrite: OVERWRITE = False,
) -> None:
    """Make two shard folders out of one, by classes or by a share of each class's pictures.

    Pictures are copied as they are. With --share, a hash of the encoded pictures decides, so that equal ones
    are never on both sides. The same folder and options give the same bytes. An interrupted split goes on
    when the command is run again.
    """
    from cgt.data.selection import class_names
    from cgt.data.split import split_by_classes, split_by_share
    from cgt.progress import work_progress

    if (classes is None) == (share is None):
        raise UserError(f"say how {folder} is split: with --classes or with --share, and not with both.")
    with work_progress("pictures", "splitting") as progress:
        if classes is not None:
            made = split_by_classes(
                folder, first, second, class_names(classes), overwrite=overwrite, progress=progress.reach
            )
        else:
            assert share is not None
            made = split_by_share(
                folder, first, second, share, seed=seed, overwrite=overwrite, progress=progress.reach
            )
    for out, manifest in zip((first, second), made, strict=True):
        typer.echo(summary(out, manifest))


def summary(out: Path, manifest: "Manifest") -> str:
    """What was written, in a line."""
    return (
        f"{out}: {counted(manifest.samples, 'picture')} of {counted(len(manifest.classes), 'class')}, "
        f"{manifest.size} px, {counted(len(manifest.shards), 'shard')}, {manifest.bytes / 1e6:,.1f} MB"
    )
