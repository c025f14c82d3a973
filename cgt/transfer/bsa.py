"""Batch statistics adaptation (Noguchi & Harada, 2019), as the paper compares it (Sec. 5.2).

The generator is frozen; every new class has its own free scale and shift at every site, learned with the
adversarial loss. No class learns from another.
"""

from typing import Literal

from cgt.models.biggan import Generator
from cgt.models.norm import Bank
from cgt.transfer.base import MethodConfig
from cgt.transfer.extension import Extension
from cgt.transfer.nearest import nearest_classes
from cgt.transfer.starting import start_bank


class BSAConfig(MethodConfig):
    """Options of BSA."""

    start: Literal["mean", "nearest"] = "mean"
    """Where the tables start: at the mean of all source classes, or at the nearest by D's features (ours)."""


class BSA(Extension[BSAConfig]):
    """Free tables on a frozen generator."""

    Config = BSAConfig

    def new_bank(self, generator: Generator) -> Bank:
        """Plain tables at the start that the config names.

        Latent projections begin as the source's and are trained too.
        """
        bank = generator.new_class_bank(self.task.classes)
        start_bank(bank, generator, nearest_classes(self.task) if self.config.start == "nearest" else None)
        return bank


METHOD = BSA
