"""TransferGAN (Wang et al., "Transferring GANs: generating images from limited data", ECCV 2018).

All of G and D goes on from the source, with new class tables and a new class embedding, and is fine-tuned.
The old classes are given up.
"""

from typing import Literal, TypeVar, cast

import torch

from cgt.errors import UserError
from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.models.norm import Bank, EmbeddedBank
from cgt.transfer.base import Method, MethodConfig
from cgt.transfer.nearest import class_distances
from cgt.transfer.starting import fine_tuned_discriminator, fine_tuned_generator, start_classes


class TransferGANConfig(MethodConfig):
    """Options of TransferGAN."""

    start: Literal["fresh", "mean", "nearest"] = "fresh"
    """Where G's classes start: drawn anew, or at the mean of the source's first bank, or at its nearest class
    by D's features (ours)."""


C = TypeVar("C", bound=TransferGANConfig)


class TransferGAN(Method[C]):
    """Fine-tuning of everything."""

    Config = TransferGANConfig

    def networks(self) -> tuple[Generator, Discriminator]:
        """The source's pair, but for what is of classes."""
        generator = fine_tuned_generator(self.task)
        self.start_classes(generator.last_bank)
        return generator, fine_tuned_discriminator(self.task)

    @torch.no_grad()
    def start_classes(self, bank: Bank) -> None:
        """Set the classes of a fresh bank to where the config says.

        Raises:
            UserError: the bank has an embedding, and the source's first bank has none.
        """
        if self.config.start == "fresh":
            return
        first = cast(Bank, self.task.given_source.generator.banks[0])
        nearest_M = None
        if self.config.start == "nearest":
            nearest_M = class_distances(self.task)[:, : len(first.classes)].argmin(1)
        if isinstance(bank, EmbeddedBank):
            if not isinstance(first, EmbeddedBank):
                raise UserError(
                    f"method.start is {self.config.start!r}, which takes class vectors of the source's "
                    "embedding, and the source's first bank has plain tables (its embedding was removed): "
                    "set method.start to fresh, or use the source as it was before."
                )
            start_classes([bank.embedding.weight], [first.embedding.weight], nearest_M)
        else:
            own, source = bank.tables(), first.tables()
            start_classes(own.of_classes, source.of_classes, nearest_M)


METHOD = TransferGAN
