"""The networks of a run with all that trains them: built, saved, and looked at from outside."""

import copy
from dataclasses import dataclass
from typing import Any

import torch

from cgt import rng
from cgt.distributed import World
from cgt.models.biggan import Discriminator, Generator
from cgt.models.norm import Bank
from cgt.training.ema import EMA
from cgt.training.optim import ParameterGroup, adam
from cgt.training.settings import RunConfig
from cgt.transfer.base import Method


@dataclass
class Trainer:
    """Everything that a step reads and changes."""

    config: RunConfig
    method: Method[Any]
    world: World
    generator: Generator
    discriminator: Discriminator
    generator_optimiser: torch.optim.Adam
    discriminator_optimiser: torch.optim.Adam
    generator_scaler: torch.amp.GradScaler
    discriminator_scaler: torch.amp.GradScaler
    ema: EMA

    @property
    def bank(self) -> Bank:
        """The bank that is trained."""
        return self.generator.last_bank

    @property
    def micro_batches(self) -> int:
        """Forward passes per update on this rank."""
        return self.config.batch_size // (self.config.micro_batch or self.config.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint must hold: tensors and plain values, by part."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "generator_optimiser": self.generator_optimiser,
            "discriminator_optimiser": self.discriminator_optimiser,
            "generator_scaler": self.generator_scaler,
            "discriminator_scaler": self.discriminator_scaler,
            "ema": self.ema,
        }


def build_trainer(config: RunConfig, method: Method[Any], world: World) -> Trainer:
    """The networks of `method` on this rank's device, with their optimisers and the average."""
    generator, discriminator = method.networks()
    for network in (generator, discriminator):
        network.train().to(world.device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    groups = method.trainable(generator, config.optim.class_lr_scale)
    if config.compile:
        generator.compile()
        discriminator.compile()
    return Trainer(
        config=config,
        method=method,
        world=world,
        generator=generator,
        discriminator=discriminator,
        generator_optimiser=adam(groups, config.optim.generator_lr, config.optim),
        discriminator_optimiser=adam(
            [ParameterGroup(list(discriminator.parameters()))], config.optim.discriminator_lr, config.optim
        ),
        generator_scaler=world.scaler(),
        discriminator_scaler=world.scaler(),
        ema=EMA([parameter for group in groups for parameter in group.parameters], config.ema),
    )


@torch.no_grad()
def snapshot(trainer: Trainer) -> Generator:
    """The averaged generator with statistics that fit it, as a plain one in eval mode.

    Training is not disturbed.
    """
    with trainer.ema.applied():
        generator = copy.deepcopy(trainer.generator)
    if batches := trainer.config.ema.standing_batches:
        _accumulate_statistics(trainer, generator, batches)
    return trainer.method.finished(generator).eval()


def _accumulate_statistics(trainer: Trainer, generator: Generator, batches: int) -> None:
    """Standing statistics: the plain average over `batches` batches at fixed weights (Brock et al., 2019)."""
    bank, first, classes = generator.last_bank, generator.first_of_last_bank, len(generator.last_bank.classes)
    size, seed = trainer.config.batch_size, trainer.config.seed
    generator.train()
    count = 0
    for i in range(batches):
        z_NZ = rng.normal((size, generator.dim_z), seed, "standing latents", i).to(trainer.world.device)
        y_N = rng.integers(size, classes, seed, "standing labels", i).to(trainer.world.device) + first
        chunks = (share.chunk(trainer.micro_batches) for share in (z_NZ, y_N))
        for z, y in zip(*chunks, strict=True):
            count += 1
            for site in bank.site_statistics():
                site.momentum = 1 / count
            with trainer.world.autocast():
                generator(z, y)
