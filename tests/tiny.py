"""The smallest networks and pictures that behave like real ones."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cgt import rng
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.discriminator import Discriminator, DiscriminatorConfig
from cgt.training.settings import PretrainConfig, TransferConfig
from cgt.transfer.base import MethodConfig, Source, Task

RESOLUTION = 8
OLD = ("ant", "bee", "cat", "dog")
NEW = ("elk", "fox", "gnu")

PER_LAYER = GeneratorConfig(channels=(12, 8, 8), dim_z=6, init="orthogonal")
HIERARCHICAL = GeneratorConfig(
    channels=(12, 8, 8), dim_z=9, shared_dim=5, hierarchical=True, attention=(4,), init="orthogonal"
)
DEEP = GeneratorConfig(
    channels=(32, 32, 16, 16, 8),
    deep=True,
    dim_z=6,
    shared_dim=5,
    hierarchical=True,
    attention=(4,),
    init="orthogonal",
)
DISCRIMINATOR = DiscriminatorConfig(channels=(8, 12), init="orthogonal")
DEEP_DISCRIMINATOR = DiscriminatorConfig(
    channels=(8, 16, 16, 32, 32), deep=True, attention=(4,), init="orthogonal"
)
CONDITIONINGS = {"per-layer": PER_LAYER, "hierarchical": HIERARCHICAL, "deep": DEEP}
"""Generators of each way that classes and z reach the layers."""

RUN = {
    "data": {"shards": "in memory"},
    "steps": 4,
    "batch_size": 8,
    "log_every": 1,
    "eval_every": 2,
    "save_every": 2,
    "optim": {"discriminator_steps": 2, "generator_lr": 1e-2, "discriminator_lr": 1e-2, "mode_seeking": 0.1},
    "ema": {"decay": 0.5, "start": 1, "standing_batches": 2},
    "augment": {"policy": ["translation", "cutout", "color"]},
}


class MemoryPictures:
    """`Pictures` of random noise, a different mean colour for each class."""

    resolution = RESOLUTION
    digest = "none"

    def __init__(self, classes: Sequence[str], per_class: int = 10) -> None:
        self.classes = tuple(classes)
        self.skipped: dict[tuple[str, int], str] = {}
        self.counts = (per_class,) * len(self.classes)
        self.y_P = torch.arange(len(self.classes)).repeat(per_class)
        noise = rng.integers(len(self.y_P) * 3 * RESOLUTION**2, 64, 0, "tiny pictures")
        shade_K3 = rng.integers(3 * len(self.classes), 192, 0, "tiny shades").unflatten(0, (-1, 3))
        self.x_P3RR = (noise.view(-1, 3, RESOLUTION, RESOLUTION) + shade_K3[self.y_P][:, :, None, None]).to(
            torch.uint8
        )

    def __len__(self) -> int:
        return len(self.y_P)

    def batches(
        self, batch_size: int, *, seed: int, first: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batch number i draws its pictures from (seed, i)."""
        while True:
            index = rng.integers(batch_size, len(self), seed, "tiny batches", first)
            yield self.x_P3RR[index], self.y_P[index]
            first += 1

    def once(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Every picture once."""
        yield from zip(self.x_P3RR.split(batch_size), self.y_P.split(batch_size), strict=True)


def discriminator(config: GeneratorConfig) -> DiscriminatorConfig:
    """The discriminator that goes with a generator."""
    return DEEP_DISCRIMINATOR if config.deep else DISCRIMINATOR


def source(config: GeneratorConfig) -> Source:
    """A pretrained-looking pair of the old classes: random weights, and statistics that are not the initial
    ones.
    """
    with rng.seeded_globally(0, "tiny source"):
        generator = Generator(config, RESOLUTION, OLD)
        critic = Discriminator(discriminator(config), RESOLUTION, OLD)
        generator.train()
        with torch.no_grad():
            for _ in range(3):
                generator(torch.randn(16, config.dim_z), torch.randint(len(OLD), (16,)))
    return Source(generator.eval(), critic.eval())


def task(config: GeneratorConfig, classes: Sequence[str] = NEW, *, transfer: bool = True) -> Task:
    """What a method is given."""
    pictures = MemoryPictures(classes)
    return Task(
        classes=classes,
        resolution=RESOLUTION,
        generator=config,
        discriminator=discriminator(config),
        seed=0,
        source=source(config) if transfer else None,
        pictures=lambda: pictures.once(16),
    )


def pretrain_config(generator: GeneratorConfig = PER_LAYER, **changes: object) -> PretrainConfig:
    """A run of a few tiny steps."""
    return PretrainConfig.model_validate(
        {**RUN, "generator": generator, "discriminator": discriminator(generator), **changes}
    )


def transfer_config(method: MethodConfig, **changes: object) -> TransferConfig[MethodConfig]:
    """A transfer of a few tiny steps."""
    values = {**RUN, "method": method.model_dump(), **changes}
    return TransferConfig[type(method)].model_validate(values)  # type: ignore[misc]


SHORT_RUN = [
    "steps=3",
    "batch_size=8",
    "log_every=1",
    "eval_every=2",
    "save_every=2",
    "ema.standing_batches=2",
]
"""Overrides that make a shipped config a run of moments."""
SMALL_NETWORKS = [
    "generator.channels=[12,8,8]",
    "generator.dim_z=6",
    "discriminator.channels=[8,12]",
]
"""Overrides for networks of 16 px."""
