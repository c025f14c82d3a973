"""MineGAN (Wang et al., "MineGAN: Effective Knowledge Transfer From GANs to Target Domains With Few Images",
CVPR 2020), as it is done on BigGAN.

Every new class has a miner: linear layers that move z to where the frozen generator makes pictures like the
class's, and others that make a class vector of z. D's class embedding is removed where there is one new
class. Several classes need it, for each miner to be told its own pictures from the others'; the published
method has one class. The stage "finetune" goes on with all of G (the published 300 steps of mining first are
the stage "transfer"; the rows "no fine-tuning" and "fine-tuned" are its ends).

Where the source has tables and no embedding, class vectors mix its classes' tables. Miners give them in
spreads of the source's class vectors from their mean, so that mining starts among these.
"""

from typing import cast

from pydantic import Field
from torch import Tensor

from cgt import rng
from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.models.mined import MinedBank
from cgt.models.norm import Bank
from cgt.training.losses import softplus_discriminator, softplus_generator
from cgt.transfer.extension import StagedConfig, StagedExtension
from cgt.transfer.starting import fine_tuned_discriminator, source_space


class MineGANConfig(StagedConfig):
    """Options of MineGAN."""

    depth: int = Field(4, ge=1)
    """Layers of each stack."""


class MineGAN(StagedExtension[MineGANConfig]):
    """Miners on a frozen generator; then, in the second stage, on one that is trained with them."""

    Config = MineGANConfig
    finished_kind = "mined"

    def networks(self) -> tuple[Generator, Discriminator]:
        """G with miners; D without a class embedding, or with a fresh one where there are several classes."""
        generator, discriminator = super().networks()
        if self.config.stage == "transfer":
            several = len(self.task.classes) > 1
            discriminator = fine_tuned_discriminator(self.task, projection=several)
        return generator, discriminator

    def new_bank(self, generator: Generator) -> Bank:
        """Random miners, over the source's classes."""
        space, tables = source_space(self.task, generator)
        with rng.seeded_globally(self.task.seed, "miners"):
            bank = MinedBank(
                self.task.classes,
                **generator.bank_shape,
                space=space.vectors_SQ.shape[1],
                dim_z=generator.dim_z,
                depth=self.config.depth,
            )
        bank.take(space, tables, cast(Bank, generator.banks[0]))
        bank.requires_grad_(False)
        bank.miners.requires_grad_(True)
        return bank

    def discriminator_loss(self, real_N: Tensor, fake_N: Tensor) -> Tensor:
        """Softplus, as published."""
        return softplus_discriminator(real_N, fake_N)

    def generator_loss(self, fake_N: Tensor) -> Tensor:
        """Softplus, as published."""
        return softplus_generator(fake_N)


METHOD = MineGAN
