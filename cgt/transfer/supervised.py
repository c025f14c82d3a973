"""Methods without a discriminator: something beside the frozen generator is trained by a loss of its own.

The source's discriminator is carried along as it was, so that later transfers may start from it.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.transfer.base import MethodConfig
from cgt.transfer.extension import Extension


class SupervisedBatch(NamedTuple):
    """A micro-batch of n samples, on the run's device."""

    x_n3RR: Tensor
    """Real pictures in [-1, 1]."""
    y_n: Tensor
    """Their classes, int64, indices into the task's."""
    draws: Sequence[Tensor]
    """The samples' part of the method's own draws."""
    all_draws: Sequence[Tensor]
    """Those of the global batch: what is no mean over samples is worked out of them, alike on all ranks."""
    augmented: Callable[[Tensor, Tensor], Tensor]
    """n pictures in [-1, 1] and n others, joined, as the run's augmentation shows them: (2n, 3, R, R)."""


C = TypeVar("C", bound=MethodConfig)


class SupervisedExtension(Extension[C]):
    """A transfer that appends a bank to a frozen generator and trains it without a discriminator.

    The generator works by running statistics, as in evaluation.
    """

    def networks(self) -> tuple[Generator, Discriminator]:
        """The source's generator, folded, with `new_bank` appended; its D, with its own classes."""
        return self.extended(), copy.deepcopy(self.task.given_source.discriminator)

    def frozen(self, discriminator: Discriminator) -> Sequence[nn.Module]:
        """All of it."""
        return (discriminator,)

    def prepare(self, generator: Generator) -> None:
        """Fix batch norm at its running statistics."""
        generator.eval()

    def draws(self, pictures: int, step: int) -> Sequence[Tensor]:
        """What is drawn for the global batch of a step: tensors with one entry a picture, on the CPU."""
        raise NotImplementedError

    def terms(
        self, generator: Generator, draw: Callable[[Tensor, Tensor], Tensor], batch: SupervisedBatch
    ) -> Mapping[str, Tensor]:
        """The loss of a micro-batch, as terms by name, each with its weight; means over its samples.

        Args:
            generator: the network that is trained.
            draw: makes pictures in [-1, 1] of z (n, Z) and class ids, with gradient to what is trained.
            batch: the samples.
        """
        raise NotImplementedError
