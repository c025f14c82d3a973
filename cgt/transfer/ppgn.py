"""PPGN (Nguyen et al., "Plug & Play Generative Networks", CVPR 2017) on a class-conditional generator.

Nothing of the generator is trained: pictures are looked for in its latent and class spaces, with a classifier
of the new classes (`cgt.models.steered`). The classifier is given, and then only its temperature is trained;
or it is trained here, on the new pictures and, as one class more, on the generator's own pictures of the old
classes. The sampling is slow: every picture takes `iterations` passes forward and back.

Shapes: n of a micro-batch, Z latent size.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cgt import rng
from cgt.errors import UserError
from cgt.images import to_float
from cgt.models.biggan import Generator
from cgt.models.classifier import Classifier, widths
from cgt.models.norm import Bank
from cgt.models.steered import SteeredBank
from cgt.transfer.base import MethodConfig, Task
from cgt.transfer.starting import source_space
from cgt.transfer.supervised import SupervisedBatch, SupervisedExtension


class PPGNConfig(MethodConfig):
    """Options of PPGN."""

    classifier: str | None = None
    """Folder of a classifier that knows the new classes (`cgt features train`); None to train one."""
    iterations: int = Field(200, ge=1)
    """Moves of a picture."""
    step: float = Field(0.02, gt=0)
    """Mean change of a number of (z, class vector), in standard deviations, in one of them."""
    prior: float = Field(0.01, ge=0)
    """Weight of the prior's score beside the classifier's gradient."""


class PPGN(SupervisedExtension[PPGNConfig]):
    """A classifier to sample by.

    Raises:
        UserError: the given classifier is of another kind or picture size, or does not know a new class.
    """

    Config = PPGNConfig

    def __init__(self, config: PPGNConfig, task: Task) -> None:
        super().__init__(config, task)
        self._given = self._classifier(config.classifier) if config.classifier else None

    def new_bank(self, generator: Generator) -> Bank:
        """The classifier, given or fresh, over the source's classes."""
        space, tables = source_space(self.task, generator)
        n_source, size = space.vectors_SQ.shape
        given, names = self._given or (None, self.task.classes)
        stages = given.widths if given else widths(generator.resolution)
        with rng.seeded_globally(self.task.seed, "classifier"):
            bank = SteeredBank(
                self.task.classes,
                **generator.bank_shape,
                space=size,
                source_classes=n_source,
                stages=stages,
                outputs=len(names) if given else len(names) + 1,
                targets=[names.index(name) for name in self.task.classes],
                iterations=self.config.iterations,
                step=self.config.step,
                prior=self.config.prior,
            )
        bank.take(space, tables, cast(Bank, generator.banks[0]))
        bank.requires_grad_(False)
        bank.log_temperature.requires_grad_(True)
        if given:
            bank.classifier.load_state_dict(given.state_dict())
        else:
            bank.classifier.requires_grad_(True)
            self._calibrate(bank.classifier, generator)
        return bank

    def draws(self, pictures: int, step: int) -> Sequence[Tensor]:
        """Latents and old classes of the generator's own pictures."""
        source, seed = self.task.given_source.generator, self.task.seed
        return (
            rng.normal((pictures, source.dim_z), seed, "old pictures' latents", step),
            rng.integers(pictures, len(source.classes), seed, "old pictures' classes", step),
        )

    def terms(
        self, generator: Generator, draw: Callable[[Tensor, Tensor], Tensor], batch: SupervisedBatch
    ) -> Mapping[str, Tensor]:
        """The cross-entropy of the classes of real pictures, and of old ones as a class of their own."""
        bank = cast(SteeredBank, generator.last_bank)
        output_n = bank.class_outputs[batch.y_n]
        if self._given is not None:
            return {"cross_entropy": -bank.log_probability(batch.x_n3RR, output_n).mean()}
        with torch.no_grad():
            old_n3RR = draw(*batch.draws).float()
        none_n = torch.full_like(output_n, len(bank.classes))
        seen = batch.augmented(batch.x_n3RR, old_n3RR)
        return {"cross_entropy": -bank.log_probability(seen, torch.cat([output_n, none_n])).mean()}

    @torch.no_grad()
    def _calibrate(self, classifier: Classifier, generator: Generator) -> None:
        """Fix the statistics of a fresh classifier's batch norm at those of new pictures and of old ones.

        So it trains alike on any number of processes, and its average is a classifier as good as itself.
        """
        assert self.task.pictures is not None
        device = self.task.device
        generator = copy.deepcopy(generator).to(device)
        classifier.train().to(device)
        for norm in classifier.norms:
            cast(nn.BatchNorm2d, norm).momentum = None  # the plain mean over the batches
        for step, (x_uint8, _) in enumerate(self.task.pictures()):
            z_NZ, y_N = (draw.to(device) for draw in self.draws(len(x_uint8), step))
            classifier(torch.cat([to_float(x_uint8.to(device)), generator(z_NZ, y_N)]))
        classifier.eval().cpu()

    def _classifier(self, folder: str) -> tuple[Classifier, tuple[str, ...]]:
        """The given one, and the names of its outputs."""
        extractor = self.task.perception("classifier", folder)
        if extractor.classifier is None or extractor.classes is None:
            raise UserError(
                f"method.classifier {folder} is not a classifier of pictures of one's own: give the folder "
                "of one that `cgt features train` made, or leave it out."
            )
        unknown = [name for name in self.task.classes if name not in extractor.classes]
        if unknown:
            raise UserError(
                f"method.classifier {folder} does not know {', '.join(unknown)}: train one on the new "
                "classes, or leave it out."
            )
        return extractor.classifier, extractor.classes


METHOD = PPGN
