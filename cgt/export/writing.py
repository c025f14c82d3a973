"""What all targets have in common: the model is read, the folder written whole or not at all, with a card."""

from pathlib import Path
from types import ModuleType

from cgt import catalog
from cgt.export.base import Model, Options, Written
from cgt.export.card import write_card
from cgt.files import refuse_existing, replacing_folder
from cgt.models.folder import load_generator, load_model

PACKAGE = "cgt.export"


def target_of(name: str) -> ModuleType:
    """The module of a target.

    Raises:
        UserError: there is none of that name.
    """
    return catalog.load(PACKAGE, name, kind="export format")


def read_model(folder: Path, target: str) -> Model:
    """A model folder, to be exported; a discriminator that the target has no use for need not be there.

    Raises:
        UserError: no such target, no model folder, or a damaged one.
    """
    if target_of(target).WITH_DISCRIMINATOR:
        generator, discriminator = load_model(folder)
    else:
        generator, discriminator = load_generator(folder, fold=False), None
    return Model(folder, generator, discriminator, generator.provenance)


def write_export(
    model: Model, out: Path, target: str, options: Options, *, overwrite: bool = False
) -> Written:
    """Write what `target` makes of a model, with a card, as a folder: whole or not at all.

    Args:
        model: what is exported.
        out: the folder.
        target: a name of the catalog.
        options: those that the target takes, and others at their defaults.
        overwrite: replace a folder of that target that stands there.

    Raises:
        UserError: no such target, an option that it does not take, `out` exists and may not be replaced or
            can't be written, or the model can't be exported so.
        RunError: what was written makes other pictures than the model, or the disk is full.
    """
    module = target_of(target)
    options.refuse_others(target, module.OPTIONS)
    refuse_existing(out, overwrite=overwrite, kind=module.KIND, inputs=(model.folder,))
    with replacing_folder(out) as folder:
        written: Written = module.export(model, folder, options)
        write_card(folder, target, model, written)
    return written
