"""`cgt transfer`: add classes to a pretrained generator."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cgt.cli.options import CONFIG, LAUNCH, OVERRIDES, OVERWRITE_RUN, PROCESSES, RESUME, RUN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cgt.config import Draft
    from cgt.data import Pictures
    from cgt.training.settings import TransferConfig
    from cgt.transfer.base import Method, Source

SOURCE = Annotated[
    Path,
    typer.Option(
        "--source",
        metavar="MODEL",
        help="The pretrained model: a model folder, or a run folder.",
        show_default=False,
    ),
]


def transfer(
    config: CONFIG,
    source: SOURCE,
    overrides: OVERRIDES = None,
    run: RUN = None,
    resume: RESUME = False,
    overwrite: OVERWRITE_RUN = False,
    processes: PROCESSES = None,
    launch: LAUNCH = None,
) -> None:
    """Add the classes of some shards to a pretrained generator.

    CONFIG names the method and its options; every key can be set on the command line, as in

        cgt transfer shapes/cgantransfer --source runs/shapes/pretrain data=shards/new method.start=uniform
    """
    from cgt.launching import spread

    overrides = [*spread(processes, launch), *(overrides or [])]
    from cgt.cli.training_run import execute, meet, place_of, task_of
    from cgt.config import read
    from cgt.data import open_pictures
    from cgt.files import sha256
    from cgt.models.folder import find_model
    from cgt.runs import RunFolder
    from cgt.training.settings import TransferConfig

    kind, settings = chosen(read(TransferConfig, config, overrides))
    place, folder = place_of(config, run), find_model(source)
    inputs = [folder, source, Path(settings.data.shards)]
    RunFolder.check_place(place, resume=resume, overwrite=overwrite, inputs=inputs)
    world = meet(settings)
    with world.together():
        pair = _source(folder)
        pictures = open_pictures(settings.data)
        _check_size(pair, pictures, settings.data.shards)
        task = task_of(
            settings, pictures, pair.generator.config, pair.discriminator.config, pair, world.device
        )
        provenance = {
            "config": config,
            "method": settings.method.name,
            "method_options": settings.method.model_dump(mode="json", exclude={"name"}),
            "source": str(folder),
            "source_generator_sha256": sha256(folder / "generator.safetensors"),
            "source_discriminator_sha256": sha256(folder / "discriminator.safetensors"),
        }
        _check_stage(folder, provenance)
        method = kind(settings.method, task)
        if method.keeps_old_classes:
            _check_names(pair, pictures)
            provenance["old_classes"] = "as the source makes them, to the bit"
        else:
            provenance["old_classes"] = f"given up: {', '.join(method.given_up) or 'none that it had'}"
    execute(
        settings, method, pictures, place, world, resume=resume, overwrite=overwrite, provenance=provenance
    )


def chosen(draft: "Draft") -> "tuple[type[Method[Any]], TransferConfig[Any]]":
    """The method that a config names, and its settings.

    Raises:
        UserError: it names none, or one that there is not, or has another mistake.
    """
    from cgt import catalog
    from cgt.errors import UserError
    from cgt.training.settings import TransferConfig

    name = (draft.values.get("method") or {}).get("name")
    known = ", ".join(catalog.names("cgt.transfer"))
    if not isinstance(name, str):
        raise UserError(f"the config {draft.source} names no method: add method=NAME, one of {known}.")
    kind = catalog.load("cgt.transfer", name, kind="method").METHOD
    settings = draft.check(TransferConfig.of(kind))
    settings.check_method(kind)
    return kind, settings


def _check_stage(folder: Path, provenance: "Mapping[str, Any]") -> None:
    """Refuse to fine-tune what is not fresh from a transfer by the same method, as far as its folder says.

    Raises:
        UserError: naming what made the source.
    """
    from cgt.errors import UserError
    from cgt.models.record import read_record

    if provenance["method_options"].get("stage") != "finetune":
        return
    name, before = provenance["method"], read_record(folder).provenance
    fresh = before.get("method_options", {}).get("stage", "transfer") == "transfer"
    if before.get("method") != name or not fresh:
        made = f"{before.get('method', 'no transfer')}{'' if fresh else ', fine-tuned'}"
        raise UserError(
            f"method.stage=finetune goes on with a finished transfer by {name}, and {folder} was made by "
            f"{made}: name a run of {name} as --source."
        )


def _source(folder: Path) -> "Source":
    """The pair that the transfer starts from.

    Raises:
        UserError: the model folder is damaged, or has no discriminator.
    """
    from cgt.errors import UserError
    from cgt.models.folder import load_model
    from cgt.transfer.base import Source

    generator, discriminator = load_model(folder)
    if discriminator is None:
        raise UserError(
            f"{folder} has no discriminator.safetensors, and every transfer starts from the source's: "
            "use a source that has one."
        )
    return Source(generator, discriminator)


def _check_size(source: "Source", pictures: "Pictures", shards: str) -> None:
    """Refuse pictures of another size than the source's.

    Raises:
        UserError: they are.
    """
    from cgt.errors import UserError

    size = source.generator.resolution
    if pictures.resolution != size:
        raise UserError(
            f"{shards} has pictures of {pictures.resolution} px and the source makes {size} px: build the "
            f"shards with --size {size}."
        )


def _check_names(source: "Source", pictures: "Pictures") -> None:
    """Refuse new classes that are called as old ones, where these stay.

    Raises:
        UserError: naming them.
    """
    from cgt.errors import UserError

    doubles = sorted(set(pictures.classes) & set(source.generator.classes))
    if doubles:
        raise UserError(
            f"the source has classes called {', '.join(map(repr, doubles))} already: give the new ones "
            "other names, or leave them out with data.exclude."
        )
