"""`cgt transfer`: add classes to a pretrained generator."""

from pathlib import Path
from typing import Annotated

import typer

from cgt.cli.options import CONFIG, OVERRIDES, OVERWRITE_RUN, RESUME, RUN

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
) -> None:
    """Add the classes of some shards to a pretrained generator.

    CONFIG names the method and its options; every key can be set on the command line, as in

        cgt transfer shapes/cgantransfer --source runs/pretrain data=shards/new method.start=uniform
    """
    from cgt import catalog
    from cgt.cli.training_run import execute, task_of
    from cgt.config import read
    from cgt.data import open_pictures
    from cgt.errors import UserError
    from cgt.files import sha256
    from cgt.models.folder import find_model, load_model
    from cgt.training.settings import TransferConfig
    from cgt.transfer.base import Source

    draft = read(TransferConfig, config, overrides or [])
    name = (draft.values.get("method") or {}).get("name")
    known = ", ".join(catalog.names("cgt.transfer"))
    if not isinstance(name, str):
        raise UserError(f"the config {config} names no method: add method=NAME, one of {known}.")
    kind = catalog.load("cgt.transfer", name, kind="method").METHOD
    settings = draft.check(TransferConfig.of(kind))
    folder = find_model(source)
    generator, discriminator = load_model(folder)
    if discriminator is None:
        raise UserError(
            f"{folder} has no discriminator.safetensors, and a transfer trains the source's discriminator: "
            "use a source that has one."
        )
    pictures = open_pictures(settings.data)
    if pictures.resolution != generator.resolution:
        raise UserError(
            f"{settings.data.shards} has pictures of {pictures.resolution} px and the source makes "
            f"{generator.resolution} px: "
            f"build the shards with --size {generator.resolution}."
        )
    doubles = sorted(set(pictures.classes) & set(generator.classes))
    if doubles and kind.keeps_old_classes:
        raise UserError(
            f"the source has classes called {', '.join(map(repr, doubles))} already: give the new ones "
            "other names, or leave them out with data.exclude."
        )
    task = task_of(
        settings, pictures, generator.config, discriminator.config, Source(generator, discriminator)
    )
    provenance = {
        "method": name,
        "source": str(folder),
        "source_sha256": sha256(folder / "generator.safetensors"),
    }
    folder_of_run = run or Path("runs") / Path(config).stem
    execute(
        settings,
        kind(settings.method, task),
        pictures,
        folder_of_run,
        resume=resume,
        overwrite=overwrite,
        provenance=provenance,
    )
