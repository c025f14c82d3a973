"""FreezeD (Mo et al., "Freeze the Discriminator: a Simple Baseline for Fine-Tuning GANs", 2020).

TransferGAN with the blocks of D that are next to the picture frozen. The old classes are given up.
"""

from collections.abc import Sequence

from pydantic import Field
from torch import nn

from cgt.errors import UserError
from cgt.models.discriminator import Discriminator
from cgt.transfer.base import Task
from cgt.transfer.transfergan import TransferGAN, TransferGANConfig


class FreezeDConfig(TransferGANConfig):
    """Options of FreezeD."""

    frozen_blocks: int = Field(3, ge=1)
    """Blocks of D that are not trained, from the picture on."""


class FreezeD(TransferGAN[FreezeDConfig]):
    """Fine-tuning of all but the first blocks of D.

    Raises:
        UserError: D has fewer blocks than are to be frozen.
    """

    Config = FreezeDConfig

    def __init__(self, config: FreezeDConfig, task: Task) -> None:
        super().__init__(config, task)
        self.frozen_blocks = config.frozen_blocks
        blocks = len(task.given_source.discriminator.blocks)
        if self.frozen_blocks > blocks:
            raise UserError(
                f"method.frozen_blocks is {self.frozen_blocks}, and the source's discriminator has {blocks} "
                "blocks: freeze fewer."
            )

    def frozen(self, discriminator: Discriminator) -> Sequence[nn.Module]:
        """The first blocks, with the attention that follows on any of them."""
        return discriminator.first_blocks(self.frozen_blocks)


METHOD = FreezeD
