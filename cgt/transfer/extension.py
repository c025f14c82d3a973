"""Methods that append a bank to a frozen generator, and what may follow."""

import copy
from typing import ClassVar, Literal, TypeVar

from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.models.naming import BankKind
from cgt.models.norm import Bank
from cgt.transfer.base import Method, MethodConfig
from cgt.transfer.starting import continued, fine_tuned_discriminator, require_tables

C = TypeVar("C", bound=MethodConfig)


class Extension(Method[C]):
    """A transfer that appends a bank to a frozen generator, and fine-tunes D with a new class embedding."""

    @property
    def keeps_old_classes(self) -> bool:
        """Always: nothing of theirs is touched."""
        return True

    def networks(self) -> tuple[Generator, Discriminator]:
        """The source's generator, folded, with `new_bank` appended; its D, with a new class embedding."""
        return self.extended(), fine_tuned_discriminator(self.task)

    def extended(self) -> Generator:
        """The source's generator, folded and frozen, with `new_bank` appended."""
        require_tables(self.task.given_source.generator)
        generator = copy.deepcopy(self.task.given_source.generator)
        generator.fold()
        generator.requires_grad_(False)
        generator.append(self.new_bank(generator))
        return generator

    def new_bank(self, generator: Generator) -> Bank:
        """The bank to train, for the task's classes, given the folded source generator."""
        raise NotImplementedError

    def finished(self, generator: Generator) -> Generator:
        """The source as it was saved, every tensor of it, with the trained bank as it is stored.

        Of a folded source all is folded, the new bank too.
        """
        source = self.task.given_source.generator
        extended = copy.deepcopy(source).to(next(generator.parameters()).device)
        new = generator.last_bank
        extended.append(new.baked() if source.folded else new.stored())
        extended.eval()
        if source.folded:
            extended.fix_norms()
        return extended


class StagedConfig(MethodConfig):
    """Options of a method that can be followed by fine-tuning."""

    stage: Literal["transfer", "finetune"] = "transfer"
    """transfer: the generator is frozen, and the old classes stay. finetune: from a finished transfer (its
    run is the source, its data the data) all of the generator is trained, and the old classes are given up;
    options of how a transfer starts mean nothing then."""


S = TypeVar("S", bound=StagedConfig)


class StagedExtension(Extension[S]):
    """An extension that fine-tuning may follow."""

    finished_kind: ClassVar[BankKind] = "tables"
    """Of the banks that its transfers end in."""

    @property
    def keeps_old_classes(self) -> bool:
        """Until all of the generator is trained."""
        return self.config.stage == "transfer"

    def networks(self) -> tuple[Generator, Discriminator]:
        """An extended generator, or the finished one with its new classes alone; with their D."""
        if self.config.stage == "transfer":
            return super().networks()
        generator, discriminator = continued(self.task, self.finished_kind)
        generator.requires_grad_(True)
        generator.banks[0] = self.tuned_bank(generator)
        return generator, discriminator

    def tuned_bank(self, generator: Generator) -> Bank:
        """The bank to go on with when all of the generator is trained; it has the finished one alone."""
        return generator.last_bank

    def finished(self, generator: Generator) -> Generator:
        """All old classes and the new bank; or, after fine-tuning, the new classes alone."""
        if self.config.stage == "transfer":
            return super().finished(generator)
        generator.banks[0] = generator.last_bank.stored()
        return generator
