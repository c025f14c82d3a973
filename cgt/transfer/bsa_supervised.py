"""BSA as it was published (Noguchi & Harada, "Image Generation From Small Datasets via Batch Statistics
Adaptation", ICCV 2019): without a discriminator.

Every training picture has a latent of its own. Latents and the new classes' tables are learned together, so
that the frozen generator reproduces the pictures: the mean absolute difference of pixels, and of the maps of
a network that the user names (published: VGG16; the source's discriminator if none is named). The latents are
kept like N(0, 1) by a distance to samples of it, and the tables by weight decay. Here the tables are a
class's own; the published program has one class. To sample, latents are drawn with truncation (published: 0.3
to 0.5).

Shapes: P training pictures, N of the global batch, n of a micro-batch, S samples, Z latent size, R
resolution.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cgt import rng
from cgt.errors import UserError
from cgt.images import to_float
from cgt.models.biggan import Generator
from cgt.models.norm import Bank, ClassBank
from cgt.training.optim import ParameterGroup
from cgt.transfer.base import MethodConfig, Task
from cgt.transfer.nearest import nearest_classes
from cgt.transfer.starting import start_bank
from cgt.transfer.supervised import SupervisedBatch, SupervisedExtension

LATENT_NOISE = 0.01
"""Standard deviation of what is added to a picture's latent at every step."""
SAMPLES = 10
"""Draws from N(0, 1) to each latent that they are compared with."""


class BSASupervisedConfig(MethodConfig):
    """Options of the published BSA; but for `perceptual`, weights are those of its BigGAN configuration."""

    start: Literal["mean", "nearest"] = "mean"
    """Where the tables start: at the mean of all source classes, or at the nearest by D's features (ours)."""
    features: str | None = None
    """The network of the perceptual loss: a feature extractor's name or folder; None for the source's D."""
    perceptual: float = Field(0.1, ge=0)
    """Weight of the difference of each of its maps (published: 0.001 for those of VGG16 on pictures in
    0..255)."""
    earth_mover: float = Field(0.1, ge=0)
    """Weight of the latents' distance to N(0, 1)."""
    weight_decay: float = Field(0.02, ge=0)
    """Weight of the tables' mean square, as offsets from gamma = 1 and beta = 0."""
    latent_lr_scale: float = Field(100.0, gt=0)
    """Factor on generator_lr for the latents (published: 0.05 beside 0.0005)."""


class PictureBank(ClassBank):
    """A bank of plain tables, with a latent for every training picture, (P, Z)."""

    z_PZ: nn.Parameter


class BSASupervised(SupervisedExtension[BSASupervisedConfig]):
    """Reconstruction of the training pictures, which are all held in memory.

    Raises:
        UserError: the named network is not there, has no maps, or is for pictures of another size.
    """

    Config = BSASupervisedConfig

    def __init__(self, config: BSASupervisedConfig, task: Task) -> None:
        super().__init__(config, task)
        assert task.pictures is not None
        self._x_P3RR, self._y_P = (torch.cat(parts) for parts in zip(*task.pictures(), strict=True))
        self._perception = self._network()

    def new_bank(self, generator: Generator) -> Bank:
        """Tables at their start with the source's statistics, and latents at zero."""
        bank = PictureBank(self.task.classes, **generator.bank_shape)
        start_bank(bank, generator, nearest_classes(self.task) if self.config.start == "nearest" else None)
        bank.take_statistics(cast(Bank, generator.banks[0]))
        bank.z_PZ = nn.Parameter(torch.zeros(len(self._y_P), generator.dim_z))
        return bank

    def trainable(self, generator: Generator, class_lr_scale: float) -> list[ParameterGroup]:
        """The tables, and the latents at a rate of their own."""
        bank = cast(PictureBank, generator.last_bank)
        tables = [parameter for parameter in bank.parameters() if parameter is not bank.z_PZ]
        return [
            ParameterGroup(tables, class_lr_scale),
            ParameterGroup([bank.z_PZ], self.config.latent_lr_scale),
        ]

    def draws(self, pictures: int, step: int) -> Sequence[Tensor]:
        """Which training pictures, noise on their latents, and samples that the latents are compared with."""
        seed, dim_z = self.task.seed, self.task.given_source.generator.dim_z
        return (
            rng.integers(pictures, len(self._y_P), seed, "reconstructed pictures", step),
            rng.normal((pictures, dim_z), seed, "latent noise", step),
            rng.normal((pictures, SAMPLES, dim_z), seed, "latent samples", step),
        )

    def terms(
        self, generator: Generator, draw: Callable[[Tensor, Tensor], Tensor], batch: SupervisedBatch
    ) -> Mapping[str, Tensor]:
        """The published loss of some training pictures, those of the batch aside."""
        index_n, noise_nZ, _ = batch.draws
        bank = cast(PictureBank, generator.last_bank)
        z_nZ = F.embedding(index_n, bank.z_PZ)
        index = index_n.cpu()
        target = to_float(self._x_P3RR[index].to(index_n.device))
        y_n = self._y_P[index].to(index_n.device) + generator.first_of_last_bank
        made = draw(z_nZ + LATENT_NOISE * noise_nZ, y_n).float()
        tables = bank.tables()
        terms = {"pixels": F.l1_loss(made, target)}
        if self.config.perceptual:
            maps = zip(self._perception(made), self._perception(target), strict=True)
            differences = torch.stack([F.l1_loss(own, wanted.detach()) for own, wanted in maps])
            terms["perceptual"] = self.config.perceptual * differences.sum()
        if self.config.earth_mover:
            index_N, _, samples_NSZ = batch.all_draws
            z_NZ = F.embedding(index_N, bank.z_PZ)
            terms["earth_mover"] = self.config.earth_mover * earth_mover(z_NZ, samples_NSZ.flatten(0, 1))
        if self.config.weight_decay:
            squares = torch.stack([table.square().mean() for table in tables.of_classes])
            terms["weight_decay"] = self.config.weight_decay * squares.sum()
        return terms

    def _network(self) -> Callable[[Tensor], Iterator[Tensor]]:
        if self.config.features is None:
            discriminator = copy.deepcopy(self.task.given_source.discriminator).eval().requires_grad_(False)
            return lambda x: discriminator.to(x.device).maps(x)
        extractor = self.task.perception("features", self.config.features)
        if not extractor.has_maps:
            raise UserError(
                f"method.features {self.config.features} makes one vector of a picture, and pictures are "
                "compared by maps here: take inception-tf, or what `cgt features train` made."
            )
        return extractor.maps


def earth_mover(z_NZ: Tensor, samples_SZ: Tensor) -> Tensor:
    """How far latents are from samples of N(0, 1): the mean square distance of each to the nearest of the
    others, from both sides. So the published program estimates the earth mover's distance.
    """
    square_NS = torch.cdist(z_NZ, samples_SZ, compute_mode="donot_use_mm_for_euclid_dist").square()
    return square_NS.amin(0).mean() + square_NS.amin(1).mean()


METHOD = BSASupervised
