"""`cgt launch memory`: what a run needs of each process's memory, before there is one."""

import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cgt.cli.options import CONFIG, OVERRIDES
from cgt.wording import counted

if TYPE_CHECKING:
    from cgt.models.record import ModelRecord
    from cgt.training.memory import Need
    from cgt.training.settings import RunConfig
    from cgt.transfer.base import Method, MethodConfig, Source

LEGEND = (
    "GiB on each process at the worst moment of a step. D update, G update: activations, and what else comes "
    "and goes, at the worst moment of each; the total has those of the heavier one, with the gradients and "
    "buffers (messages, ZeRO's copies) of that moment. A GPU's own needs come on top: its context, the work "
    "space of convolutions, and gaps between tensors."
)
NO_SHARDS = "none"
"""In place of `data` where the options say what it would."""


def memory(
    config: CONFIG,
    overrides: OVERRIDES = None,
    source: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="Of a transfer: the pretrained model; its weights are not read.",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[
        str, typer.Option(metavar="N,...", help="Numbers of processes to compute for.")
    ] = "1,2,8",
    classes: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of classes. [default: data's]", show_default=False),
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="R", help="Of the pictures. [default: data's, or the source's]", show_default=False
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write it in bytes as JSON to FILE, or to stdout for -."),
    ] = None,
) -> None:
    """Compute the memory that a pretraining or transfer needs on each process, by strategy.

    CONFIG is what the training verb would take. Neither pictures nor GPUs are needed, nor the memory:

        cgt launch memory imagenet/biggan128 --classes 1000 --resolution 128 --processes 1,8 precision=bf16
    """
    from cgt.errors import UserError
    from cgt.training.memory import needs
    from cgt.training.strategies.choice import Strategy

    strategies: tuple[Strategy, ...] = typing.get_args(Strategy)
    try:
        numbers = [int(number) for number in processes.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise UserError(f"--processes is {processes!r}, and must be numbers from 1 on, as in 1,2,8.")
    settings, shape, method = _plan(config, overrides or [], source, classes, resolution)
    try:
        found = [
            need for n in numbers for need in needs(settings, method, strategies if n > 1 else ("ddp",), n)
        ]
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"the networks don't fit {shape}: {error}.") from error
    micro_batch = f" in micro-batches of {settings.micro_batch} a process" if settings.micro_batch else ""
    title = f"{config}: {shape}, batch {settings.batch_size}{micro_batch}, {settings.precision}"
    if json is None:
        _show(title, found)
    else:
        _write(json, found)


def _plan(
    config: str, overrides: Sequence[str], source: Path | None, classes: int | None, resolution: int | None
) -> "tuple[RunConfig, str, Callable[[], Method[Any]]]":
    """The settings, the shape of the task in words, and what makes the method where tensors have no content.

    Raises:
        UserError: the config, the source or the shards are wrong, or nothing says what pictures there are.
    """
    from cgt.cli.transfer import chosen
    from cgt.config import read
    from cgt.data import open_pictures
    from cgt.errors import UserError
    from cgt.models.folder import find_model
    from cgt.models.record import read_record
    from cgt.training.settings import PretrainConfig, TransferConfig
    from cgt.transfer.base import Method, MethodConfig, Task
    from cgt.transfer.supervised import SupervisedExtension

    draft = read(PretrainConfig if source is None else TransferConfig, config, overrides)
    if source is None and "method" in draft.values:
        raise UserError(f"the config {config} is a transfer's: name what it starts from with --source MODEL.")
    record = None if source is None else read_record(find_model(source))
    resolution = record.resolution if record else resolution
    if classes and resolution:
        draft.values.setdefault("data", {}).setdefault("shards", NO_SHARDS)
    elif not draft.values.get("data", {}).get("shards"):
        raise UserError(
            "how many classes there are, and of what size, is not known: name the shards with data=SHARDS, "
            "or say it with --classes and --resolution."
        )
    settings: RunConfig
    make: Callable[[Sequence[str], int], Method[Any]]
    if record is None:
        settings = pretraining = draft.check(PretrainConfig)

        def make(names: Sequence[str], size: int) -> Method[Any]:
            task = Task(names, size, pretraining.generator, pretraining.discriminator, pretraining.seed)
            return Method(MethodConfig(name="pretraining"), task)
    else:
        kind, transferring = chosen(draft)
        if issubclass(kind, SupervisedExtension):
            raise UserError(
                f"the memory of {transferring.method.name} is not computed, for it trains no discriminator: "
                "try a few steps of it."
            )
        settings = transferring

        def make(names: Sequence[str], size: int) -> Method[Any]:
            pair = _source(record)
            shapes = pair.generator.config, pair.discriminator.config
            options = _started_without_pictures(transferring.method)
            return kind(options, Task(names, size, *shapes, transferring.seed, pair))

    if classes and resolution:
        names, size = [f"new class {number}" for number in range(classes)], resolution
    else:
        # The reader that opens without reading the pictures.
        pictures = open_pictures(settings.data.model_copy(update={"reader": "stream"}))
        names, size = list(pictures.classes), pictures.resolution
    return settings, f"{counted(len(names), 'class')} at {size} px", lambda: make(names, size)


def _source(record: "ModelRecord") -> "Source":
    """The pair, without the weights of its files.

    Raises:
        UserError: it has no discriminator.
    """
    from cgt.errors import UserError
    from cgt.models.folder import undrawn
    from cgt.transfer.base import Source

    generator, discriminator = undrawn(record)
    if discriminator is None:
        raise UserError("the source has no discriminator, which a transfer trains: use one that has.")
    return Source(generator.eval(), discriminator.eval())


def _started_without_pictures(method: "MethodConfig") -> "MethodConfig":
    """The same method, starting not from the nearest classes, which takes as much memory."""
    if not getattr(method, "start", "").startswith("nearest"):
        return method
    starts = typing.get_args(type(method).model_fields["start"].annotation)
    return method.model_copy(
        update={"start": next(start for start in starts if not start.startswith("nearest"))}
    )


def _write(json: Path, found: Sequence["Need"]) -> None:
    """All figures in bytes."""
    from cgt.files import put_json

    rows = [
        {
            "strategy": need.strategy,
            "processes": need.processes,
            "standing": need.standing,
            "total": need.peak.total,
            **need.peak._asdict(),
            "discriminator_activations": need.discriminator_activations,
            "generator_activations": need.generator_activations,
        }
        for need in found
    ]
    put_json(json, rows)


def _show(title: str, found: Sequence["Need"]) -> None:
    from rich.console import Console
    from rich.table import Table

    def gib(size: int) -> str:
        return f"{size / 2**30:.2f}"

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("processes", justify="right")
    table.add_column("strategy")
    for name in ("weights", "gradients", "Adam", "EMA", "buffers", "D update", "G update", "total"):
        table.add_column(name, justify="right")
    for before, need in zip((None, *found), found, strict=False):
        if before and before.processes != need.processes:
            table.add_row()
        peak = need.peak
        sizes = (peak.weights, peak.gradients, peak.adam, peak.ema, peak.buffers)
        activations = (need.discriminator_activations, need.generator_activations)
        figures = (gib(size) for size in (*sizes, *activations, peak.total))
        table.add_row(str(need.processes), need.strategy, *figures)
    console = Console()
    console.print(title, highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    console.print(f"\n{LEGEND}", highlight=False, markup=False)
