"""What methods start from: the source's layers, its class tables, and its discriminator.

Shapes: N source classes, M new classes, C channels of a site.
"""

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.models.biggan import Generator
from cgt.models.class_space import ClassSpace, class_space
from cgt.models.discriminator import Discriminator
from cgt.models.naming import BankKind
from cgt.models.norm import Bank, ClassBank, ClassTables, EmbeddedBank, tables_of_all
from cgt.transfer.base import Task


def source_tables(generator: Generator) -> ClassTables:
    """The tables of all classes of all banks, with the latent projections of the first bank.

    Raises:
        UserError: as `require_tables` does.
    """
    require_tables(generator)
    return tables_of_all([cast(Bank, bank) for bank in generator.banks])


def source_space(task: Task, folded: Generator) -> tuple[ClassSpace, ClassTables]:
    """The class space of the task's source, and the tables of all its classes.

    Raises:
        UserError: as `require_tables` does.
    """
    tables = source_tables(folded)
    return class_space([cast(Bank, bank) for bank in task.given_source.generator.banks], tables), tables


def require_tables(generator: Generator) -> None:
    """Refuse a source that new classes can't start from.

    Raises:
        UserError: a bank's classes depend on z, so that they have no tables.
    """
    for bank in (cast(Bank, bank) for bank in generator.banks):
        if bank.kind not in ("tables", "embedding"):
            raise UserError(
                f"the source's classes {', '.join(bank.classes)} are {bank.kind} anew for every z, and have "
                "no tables for new classes to start from: use the model as it was before they were added."
            )


def require_raw_weights(generator: Generator) -> None:
    """Refuse a folded source, where all of it is to be trained.

    Raises:
        UserError: it is folded.
    """
    if generator.folded:
        raise UserError(
            "the source is folded for inference (its spectral norms are fixed and its class tables baked), "
            "and this method trains the weights as they were before: use the model that it was exported "
            "from, or a method that keeps the generator frozen, such as cgantransfer or bsa."
        )


def start_classes(own: Iterable[Tensor], source: Iterable[Tensor], nearest_M: Tensor | None) -> None:
    """Set tables of new classes, (M, C), in place: to the nearest classes' rows of the source's, (N, C), or
    where none are given to the mean of all.
    """
    for own_MC, source_NC in zip(own, source, strict=True):
        own_MC.copy_(source_NC.mean(0) if nearest_M is None else source_NC[nearest_M])


@torch.no_grad()
def start_bank(bank: ClassBank, generator: Generator, nearest_M: Tensor | None) -> None:
    """Set a bank of plain tables to where new classes start, and its latent projections to the source's."""
    own, source = bank.tables(), source_tables(generator)
    start_classes(own.of_classes, source.of_classes, nearest_M)
    for projection, of_source in zip(own.of_latents, source.of_latents, strict=True):
        projection.copy_(of_source)


def fine_tuned_generator(task: Task, first_block: int = 0) -> Generator:
    """The source's generator with one bank, for the task's classes in place of the source's.

    What is of classes alone is fresh: tables, or the embedding. Statistics, and the layers that make tables
    of an embedding, go on from the source's first bank.

    Args:
        task: with a source.
        first_block: blocks before this one, and if it is not 0 the first layer, are fresh too.

    Raises:
        UserError: as `require_tables` and `require_raw_weights` do.
    """
    require_tables(task.given_source.generator)
    require_raw_weights(task.given_source.generator)
    generator, source = task.fresh_generator(), task.given_source.generator
    if not first_block:
        generator.linear.load_state_dict(source.linear.state_dict())
    for i in range(first_block, len(source.blocks)):
        generator.blocks[i].load_state_dict(source.blocks[i].state_dict())
        if str(i) in source.attention:
            generator.attention[str(i)].load_state_dict(source.attention[str(i)].state_dict())
    generator.output_affine.load_state_dict(source.output_affine.state_dict())
    generator.to_rgb.load_state_dict(source.to_rgb.state_dict())
    bank, first = generator.last_bank, cast(Bank, source.banks[0])
    first_site = generator.first_site(first_block)
    bank.take_statistics(first, first_site)
    if isinstance(bank, EmbeddedBank) and isinstance(first, EmbeddedBank):
        if not first_block:
            bank.first.load_state_dict(first.first.state_dict())
        for site in range(first_site, len(first.scale)):
            bank.scale[site].load_state_dict(first.scale[site].state_dict())
            bank.shift[site].load_state_dict(first.shift[site].state_dict())
    return generator


def fine_tuned_discriminator(
    task: Task, blocks: int | None = None, *, projection: bool = True
) -> Discriminator:
    """The source's discriminator but for its class embedding, which is fresh for the task's classes.

    Args:
        task: with a source.
        blocks: so many of the first blocks are the source's, and what follows is fresh; None for all.
        projection: give it a class embedding at all.
    """
    task = replace(task, discriminator=replace(task.discriminator, projection=projection))
    discriminator, source = task.fresh_discriminator(), task.given_source.discriminator
    if discriminator.stem is not None and source.stem is not None:
        discriminator.stem.load_state_dict(source.stem.state_dict())
    for i in range(len(source.blocks) if blocks is None else blocks):
        discriminator.blocks[i].load_state_dict(source.blocks[i].state_dict())
        if str(i) in source.attention:
            discriminator.attention[str(i)].load_state_dict(source.attention[str(i)].state_dict())
    if blocks is None:
        discriminator.linear.load_state_dict(source.linear.state_dict())
    return discriminator


def continued(task: Task, kind: BankKind) -> tuple[Generator, Discriminator]:
    """The pair of a finished transfer to the task's classes, of which G keeps the last bank alone.

    Raises:
        UserError: the source's last bank, or its discriminator, is of other classes, or the bank of another
            kind; or as `require_raw_weights` does.
    """
    source = task.given_source
    require_raw_weights(source.generator)
    if source.generator.last_bank.kind != kind:
        raise UserError(
            f"method.stage=finetune goes on with a finished transfer by the same method, and the classes of "
            f"the source's last bank are {source.generator.last_bank.kind}, not {kind}: name another "
            "--source, or another method."
        )
    trained = {
        "the last bank of the source's generator": source.generator.last_bank.classes,
        "the source's discriminator": tuple(source.discriminator.classes),
    }
    for what, classes in trained.items():
        if classes != tuple(task.classes):
            raise UserError(
                f"method.stage=finetune goes on with a finished transfer, but {what} is of "
                f"{', '.join(classes)}, and the data of {', '.join(task.classes)}: name that transfer's run "
                "as --source, and its data."
            )
    generator = copy.deepcopy(source.generator)
    generator.banks = generator.banks[-1:]
    return generator, copy.deepcopy(source.discriminator)
