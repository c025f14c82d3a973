"""What a method is. The defaults are pretraining: a fresh pair of networks, all of it trained, hinge loss.

A method says which networks there are, what of the generator is trained, and how the trained generator
becomes a plain one. The training step, the data and the measuring are the same for all.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

from torch import Tensor, nn

from cgt import rng
from cgt.config import Section
from cgt.errors import UserError
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.classifier import Classifier
from cgt.models.discriminator import Discriminator, DiscriminatorConfig
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


class Perception(Protocol):
    """What a method may ask of a feature extractor."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of its classifier's classes; None where it has no classifier, or one of no named classes."""

    @property
    def resolution(self) -> int | None:
        """The picture size it was made for; None for any."""

    @property
    def classifier(self) -> Classifier | None:
        """Of pictures in [-1, 1], where it is one of those that `cgt features train` makes."""

    @property
    def has_maps(self) -> bool:
        """Whether it has `maps`."""

    def maps(self, x_N3HW: Tensor, /) -> Iterator[Tensor]:
        """What it makes of pictures in [-1, 1], stage by stage, with gradient to them."""


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
    extractor: Callable[[str], Perception] | None = None
    """The feature extractor of that name, or in that folder."""
    device: str = "cpu"
    """Where the run computes, and what takes long before its first step is to be computed, too; networks are
    made on the CPU."""

    def fresh_generator(self) -> Generator:
        """A generator of these classes with seeded random weights."""
        with rng.seeded_globally(self.seed, "generator"):
            return Generator(self.generator, self.resolution, self.classes)

    def fresh_discriminator(self) -> Discriminator:
        """A discriminator of these classes with seeded random weights."""
        with rng.seeded_globally(self.seed, "discriminator"):
            return Discriminator(self.discriminator, self.resolution, self.classes)

    def perception(self, key: str, name: str) -> Perception:
        """The feature extractor `name`, which the option method.`key` names.

        Raises:
            UserError: it is not there, or for pictures of another size.
        """
        assert self.extractor is not None
        found = self.extractor(name)
        if found.resolution not in (None, self.resolution):
            raise UserError(
                f"method.{key} {name} is for pictures of {found.resolution} px, and the data has "
                f"{self.resolution} px: train one on pictures of that size."
            )
        return found

    @property
    def given_source(self) -> Source:
        """The source, of a task that has one."""
        assert self.source is not None
        return self.source


C = TypeVar("C", bound=MethodConfig)


class Method(Generic[C]):
    """Pretraining, and what every transfer method changes of it."""

    Config: type[MethodConfig] = MethodConfig

    def __init__(self, config: C, task: Task) -> None:
        self.config = config
        self.task = task

    @property
    def keeps_old_classes(self) -> bool:
        """Whether the finished generator makes the source's classes as the source does, to the bit."""
        return False

    @property
    def given_up(self) -> list[str]:
        """The classes of the source that the finished generator makes no longer."""
        source = self.task.source
        if source is None or self.keeps_old_classes:
            return []
        return [name for name in source.generator.classes if name not in self.task.classes]

    def networks(self) -> tuple[Generator, Discriminator]:
        """The pair to train. G's last bank holds the task's classes, and so does D where it is trained."""
        return self.task.fresh_generator(), self.task.fresh_discriminator()

    def trainable(self, generator: Generator, class_lr_scale: float) -> list[ParameterGroup]:
        """The generator parameters that are trained: of all, those that ask for a gradient.

        Class parameters are a group of their own, with `class_lr_scale` times the network's learning rate.
        """
        of_classes = {id(parameter) for parameter in generator.banks.parameters()}
        trained = [parameter for parameter in generator.parameters() if parameter.requires_grad]
        trunk = [parameter for parameter in trained if id(parameter) not in of_classes]
        classes = [parameter for parameter in trained if id(parameter) in of_classes]
        groups = [ParameterGroup(trunk), ParameterGroup(classes, class_lr_scale)]
        return [group for group in groups if group.parameters]

    def frozen(self, discriminator: Discriminator) -> Sequence[nn.Module]:
        """The parts of D that are not trained, and that not even a forward pass changes."""
        return ()

    def prepare(self, generator: Generator) -> None:
        """Put G's parts into the modes that they are trained in."""
        generator.train()

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
