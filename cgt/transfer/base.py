"""What a method is. The defaults are pretraining: a fresh pair of networks, all of it trained, hinge loss.

A method says which networks there are, what of the generator is trained, and how the trained generator
becomes a plain one. The training step, the data and the measuring are the same for all.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from cgt import rng
from cgt.config import Section
from cgt.models.biggan import Discriminator, DiscriminatorConfig, Generator, GeneratorConfig
from cgt.models.norm import Bank, ClassTables, EmbeddedBank
from cgt.training.losses import hinge_discriminator, hinge_generator
from cgt.training.optim import ParameterGroup


class MethodConfig(Section):
    """Which method; each adds its own options."""

    shorthand: ClassVar[str | None] = "name"

    name: str


@dataclass(frozen=True)
class Source:
    """The pretrained pair that a transfer starts from, as it was saved; methods copy what they change."""

    generator: Generator
    discriminator: Discriminator


@dataclass(frozen=True)
class Task:
    """What a method is to learn."""

    classes: Sequence[str]
    resolution: int
    generator: GeneratorConfig
    discriminator: DiscriminatorConfig
    seed: int
    source: Source | None = None
    pictures: Callable[[], Iterator[tuple[Tensor, Tensor]]] | None = None
    """Every real picture once: batches of x uint8 (n, 3, R, R) and y int64 (n,)."""

    def fresh_generator(self) -> Generator:
        """A generator of these classes with seeded random weights."""
        with rng.seeded_globally(self.seed, "generator"):
            return Generator(self.generator, self.resolution, self.classes)

    def fresh_discriminator(self) -> Discriminator:
        """A discriminator of these classes with seeded random weights."""
        with rng.seeded_globally(self.seed, "discriminator"):
            return Discriminator(self.discriminator, self.resolution, self.classes)

    @property
    def given_source(self) -> Source:
        """The source, of a task that has one."""
        assert self.source is not None
        return self.source


C = TypeVar("C", bound=MethodConfig)


class Method(Generic[C]):
    """Pretraining, and what every transfer method changes of it."""

    Config: type[MethodConfig] = MethodConfig
    keeps_old_classes: ClassVar[bool] = False
    """Whether the finished generator makes the source's classes as the source does, to the bit."""

    def __init__(self, config: C, task: Task) -> None:
        self.config = config
        self.task = task

    def networks(self) -> tuple[Generator, Discriminator]:
        """The pair to train. G's last bank holds the task's classes, and so does D."""
        return self.task.fresh_generator(), self.task.fresh_discriminator()

    def trainable(self, generator: Generator, class_lr_scale: float) -> list[ParameterGroup]:
        """The generator parameters that are trained.

        Class parameters are a group of their own, with `class_lr_scale` times the network's learning rate.
        """
        of_classes = {id(parameter) for parameter in generator.banks.parameters()}
        trunk = [parameter for parameter in generator.parameters() if id(parameter) not in of_classes]
        return [ParameterGroup(trunk), ParameterGroup(list(generator.banks.parameters()), class_lr_scale)]

    def frozen(self, discriminator: Discriminator) -> Sequence[nn.Module]:
        """The parts of D that are not trained, and that not even a forward pass changes."""
        return ()

    def discriminator_loss(self, real_N: Tensor, fake_N: Tensor) -> Tensor:
        """D's adversarial loss of the logits."""
        return hinge_discriminator(real_N, fake_N)

    def generator_loss(self, fake_N: Tensor) -> Tensor:
        """G's adversarial loss of the logits."""
        return hinge_generator(fake_N)

    def penalties(self, generator: Generator) -> Mapping[str, Tensor]:
        """Further terms of G's loss, by name, each with its weight."""
        return {}

    def finished(self, generator: Generator) -> Generator:
        """A plain generator to evaluate and save, made of `generator`, a copy of the trained one."""
        return generator


class Extension(Method[C]):
    """A transfer that appends a bank to a frozen generator, and fine-tunes D with a new class embedding."""

    keeps_old_classes = True

    def networks(self) -> tuple[Generator, Discriminator]:
        """The source's generator, folded, with `new_bank` appended; its D, with a new class embedding."""
        source = self.task.given_source
        generator = copy.deepcopy(source.generator)
        generator.fold()
        generator.requires_grad_(False)
        bank = self.new_bank(generator)
        generator.append(bank)
        return generator, fine_tuned_discriminator(self.task)

    def new_bank(self, generator: Generator) -> Bank:
        """The bank to train, for the task's classes, given the folded source generator."""
        raise NotImplementedError

    def trainable(self, generator: Generator, class_lr_scale: float) -> list[ParameterGroup]:
        """What of the last bank asks for a gradient."""
        trained = [p for p in generator.last_bank.parameters() if p.requires_grad]
        return [ParameterGroup(trained, class_lr_scale)]

    def finished(self, generator: Generator) -> Generator:
        """The source as it was saved, every tensor of it, with the trained bank as plain tables."""
        extended = copy.deepcopy(self.task.given_source.generator).to(next(generator.parameters()).device)
        extended.append(generator.last_bank.baked())
        return extended.eval()


def source_tables(generator: Generator) -> ClassTables:
    """The tables of all classes of all banks, with the latent projections of the first bank."""
    banks = [cast(Bank, bank).tables() for bank in generator.banks]
    return ClassTables(
        tuple(torch.cat(tables) for tables in zip(*(bank.scale for bank in banks), strict=True)),
        tuple(torch.cat(tables) for tables in zip(*(bank.shift for bank in banks), strict=True)),
        banks[0].latent_scale,
        banks[0].latent_shift,
    )


def start_classes(own: Iterable[Tensor], source: Iterable[Tensor], nearest_M: Tensor | None) -> None:
    """Set tables of new classes, (M, C), in place: to the nearest classes' rows of the source's, (N, C), or
    where none are given to the mean of all.
    """
    for own_MC, source_NC in zip(own, source, strict=True):
        own_MC.copy_(source_NC.mean(0) if nearest_M is None else source_NC[nearest_M])


def fine_tuned_generator(task: Task) -> Generator:
    """The source's generator with one bank, for the task's classes in place of the source's.

    What is of classes alone is fresh: tables, or the embedding. Statistics, and the layers that make tables
    of an embedding, go on from the source's first bank.
    """
    generator, source = task.fresh_generator(), task.given_source.generator
    generator.linear.load_state_dict(source.linear.state_dict())
    generator.blocks.load_state_dict(source.blocks.state_dict())
    generator.attention.load_state_dict(source.attention.state_dict())
    generator.output_affine.load_state_dict(source.output_affine.state_dict())
    generator.to_rgb.load_state_dict(source.to_rgb.state_dict())
    bank, first = generator.last_bank, source.banks[0]
    bank.statistics.load_state_dict(cast(Bank, first).statistics.state_dict())
    if isinstance(bank, EmbeddedBank) and isinstance(first, EmbeddedBank):
        bank.scale.load_state_dict(first.scale.state_dict())
        bank.shift.load_state_dict(first.shift.state_dict())
    return generator


def fine_tuned_discriminator(task: Task) -> Discriminator:
    """The source's discriminator but for its class embedding, which is fresh for the task's classes."""
    discriminator, source = task.fresh_discriminator(), task.given_source.discriminator
    discriminator.blocks.load_state_dict(source.blocks.state_dict())
    discriminator.attention.load_state_dict(source.attention.state_dict())
    discriminator.linear.load_state_dict(source.linear.state_dict())
    return discriminator
