"""TransferGAN (Wang et al., "Transferring GANs: generating images from limited data", ECCV 2018).

All of G and D goes on from the source, with new class tables and a new class embedding, and is fine-tuned.
The old classes are given up.

Shapes: N source classes, M new classes, C numbers of a class at one place.
"""

from typing import Literal, TypeVar, cast

import torch

from cgt.models.biggan import Discriminator, Generator
from cgt.models.norm import Bank, EmbeddedBank
from cgt.transfer.base import Method, MethodConfig, fine_tuned_discriminator, fine_tuned_generator
from cgt.transfer.nearest import nearest_classes


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
        if self.config.start != "fresh":
            self._start(generator.last_bank)
        return generator, fine_tuned_discriminator(self.task)

    @torch.no_grad()
    def _start(self, bank: Bank) -> None:
        first = cast(Bank, self.task.given_source.generator.banks[0])
        if isinstance(bank, EmbeddedBank):
            assert isinstance(first, EmbeddedBank)
            pairs = [(bank.embedding.weight, first.embedding.weight)]
        else:
            own, source = bank.tables(), first.tables()
            pairs = list(zip(own.scale + own.shift, source.scale + source.shift, strict=True))
        nearest_M = None
        if self.config.start == "nearest":
            nearest_M = nearest_classes(self.task, among=len(first.classes))
        for new_MC, source_NC in pairs:
            new_MC.copy_(source_NC.mean(0) if nearest_M is None else source_NC[nearest_M])


METHOD = TransferGAN
