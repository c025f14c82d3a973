"""The networks of a run with all that trains them: built, saved, and looked at from outside."""

from dataclasses import dataclass
from typing import Any, cast

import torch

from cgt import rng
from cgt.distributed import World
from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.models.layers import plain
from cgt.models.norm import Bank, synchronise
from cgt.training.ema import EMA
from cgt.training.feedback import Feedback
from cgt.training.optim import ParameterGroup
from cgt.training.settings import RunConfig
from cgt.training.strategies.base import Trainable
from cgt.training.strategies.choice import trainable
from cgt.transfer.base import Method
from cgt.transfer.supervised import SupervisedExtension


@dataclass
class Trainer:
    """Everything that a step reads and changes."""

    config: RunConfig
    method: Method[Any]
    world: World
    of_generator: Trainable
    of_discriminator: Trainable
    ema: EMA
    feedback: Feedback

    @property
    def generator(self) -> Generator:
        """The network alone: for losses that do not train it, and between steps."""
        return cast(Generator, self.of_generator.network)

    @property
    def discriminator(self) -> Discriminator:
        """The network alone, likewise."""
        return cast(Discriminator, self.of_discriminator.network)

    @property
    def generator_optimiser(self) -> torch.optim.Optimizer:
        """G's; its groups hold the learning rates."""
        return self.of_generator.optimiser

    @property
    def discriminator_optimiser(self) -> torch.optim.Optimizer:
        """D's; its groups hold the learning rates."""
        return self.of_discriminator.optimiser

    @property
    def bank(self) -> Bank:
        """The bank that is trained."""
        return self.generator.last_bank

    @property
    def batches_per_step(self) -> int:
        """Batches of real pictures that a step takes."""
        adversarial = not isinstance(self.method, SupervisedExtension)
        return self.config.optim.discriminator_steps if adversarial else 1

    @property
    def micro_batches(self) -> int:
        """Forward passes per update on each process."""
        share = self.config.batch_size // self.world.size
        return share // (self.config.micro_batch or share)

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint must hold: whole tensors and plain values, by part.

        It is the same for all strategies and numbers of processes, which call it together.
        """
        state = {}
        for name, part in self._networks().items():
            for key, value in part.state_dict().items():
                state[_key(name, key)] = value
        return {**state, "ema": self.ema.state_dict(), "feedback": self.feedback.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state, whatever strategy and number of processes it comes from."""
        for name, part in self._networks().items():
            part.load_state_dict({key: state[_key(name, key)] for key in ("network", "optimiser", "scaler")})
        self.ema.load_state_dict(state["ema"])
        if "feedback" in state:  # else it was saved when no run had any use for it
            self.feedback.load_state_dict(state["feedback"])

    def _networks(self) -> dict[str, Trainable]:
        return {"generator": self.of_generator, "discriminator": self.of_discriminator}


def _key(network: str, part: str) -> str:
    return network if part == "network" else f"{network}_{part}"


def build_trainer(config: RunConfig, method: Method[Any], world: World) -> Trainer:
    """The networks of `method` on this process's device, with their optimisers and the average.

    That the processes can share the batch, and train by the config's strategies, was checked
    (`RunConfig.check_share`, `choice.check`). All ranks call this together.
    """
    with world.together():
        generator, discriminator = method.networks()
    for network in (generator, discriminator):
        _made_by_rank_0(network, world)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return trainer_of(generator, discriminator, config, method, world)


def trainer_of(
    generator: Generator, discriminator: Discriminator, config: RunConfig, method: Method[Any], world: World
) -> Trainer:
    """The same of networks that lie on this process's device already, as they are to lie there."""
    for network in (generator, discriminator):
        network.gradient_checkpointing = config.gradient_checkpointing
    method.prepare(generator)
    discriminator.train()
    synchronise(generator, world.sum_ if config.synchronised_norm and world.size > 1 else None)
    groups = method.trainable(generator, config.optim.class_lr_scale)
    # The average takes the weights as they are before a strategy may divide them.
    ema = EMA([parameter for group in groups for parameter in group.parameters], config.ema, world)
    for part in method.frozen(discriminator):
        part.requires_grad_(False).eval()
    of_discriminator = [ParameterGroup([p for p in discriminator.parameters() if p.requires_grad])]
    optim, strategy = config.optim, config.strategy
    trainer = Trainer(
        config=config,
        method=method,
        world=world,
        of_generator=trainable(strategy.generator)(generator, groups, optim.generator_lr, optim, world),
        of_discriminator=trainable(strategy.of_discriminator)(
            discriminator, of_discriminator, optim.discriminator_lr, optim, world
        ),
        ema=ema,
        feedback=Feedback(config.augment, optim.lecam, config.batch_size, world.device),
    )
    if config.compile:
        # A batch has one size in each use; a size that varies would keep CUDA graphs away.
        generator.compile(dynamic=False)
        discriminator.compile(dynamic=False)
    return trainer


@torch.no_grad()
def _made_by_rank_0(network: torch.nn.Module, world: World) -> None:
    """Give all ranks the same weights, whatever the last bits of what each of them computed to get there."""
    network.to(world.device)
    for tensor in network.state_dict().values():
        world.sum_(tensor if world.is_main else tensor.zero_())


@torch.no_grad()
def snapshot(trainer: Trainer) -> Generator:
    """The averaged generator with statistics that fit it, as a plain one in eval mode.

    Training is not disturbed. All processes call it together, and each gets the same.
    """
    _share_statistics(trainer)
    with trainer.of_generator.whole(), trainer.ema.applied():
        generator = cast(Generator, trainer.of_generator.copy())
    if generator.training and (batches := trainer.config.ema.standing_batches):
        _accumulate_statistics(trainer, generator, batches)
    synchronise(generator, None)
    return trainer.method.finished(plain(generator)).eval()


def _share_statistics(trainer: Trainer) -> None:
    """Give processes that normalise each by its own pictures the mean of their running statistics.

    Nothing in training reads these, and their mean stays what it is.
    """
    world = trainer.world
    if trainer.config.synchronised_norm or world.size == 1:
        return
    for running_C in trainer.bank.statistics.buffers():
        world.sum_(running_C).div_(world.size)


def _accumulate_statistics(trainer: Trainer, generator: Generator, batches: int) -> None:
    """Standing statistics: the plain average over `batches` batches at fixed weights (Brock et al., 2019)."""
    bank, first, classes = generator.last_bank, generator.first_of_last_bank, len(generator.last_bank.classes)
    size, seed, world = trainer.config.batch_size, trainer.config.seed, trainer.world
    synchronise(generator, world.sum_ if world.size > 1 else None)
    generator.train()
    count = 0
    for i in range(batches):
        z_NZ = world.share(rng.normal((size, generator.dim_z), seed, "standing latents", i))
        y_N = world.share(rng.integers(size, classes, seed, "standing labels", i)) + first
        chunks = (share.unflatten(0, (-1, trainer.micro_batches)).unbind(1) for share in (z_NZ, y_N))
        for z, y in zip(*chunks, strict=True):
            count += 1
            for site in bank.site_statistics():
                site.momentum = 1 / count
            with world.autocast():
                generator(z, y)
