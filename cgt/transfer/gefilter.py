"""GE filters (Zhao et al., "On Leveraging Pretrained GANs for Generation with Limited Data", ICML 2020).

The blocks next to the picture are general: G and D keep them from the source, frozen. What is farther from it
is learned anew, and G's frozen filters W are modulated to W' = a W + b with a pair of numbers for each output
and input channel (AdaFM). W' is spectrally normalised as W is in BigGAN. The old classes are given up.

Shapes: O output and I input channels, K x K pixels of a filter.
"""

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from cgt.errors import UserError
from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.models.layers import Conv2d
from cgt.transfer.base import Task
from cgt.transfer.starting import fine_tuned_discriminator, fine_tuned_generator
from cgt.transfer.transfergan import TransferGAN, TransferGANConfig


class GEFilterConfig(TransferGANConfig):
    """Options of GE filters."""

    generator_blocks: int = Field(2, ge=1)
    """Blocks of G that are the source's, from the picture on (published: 4 of 6)."""
    discriminator_blocks: int = Field(2, ge=1)
    """Blocks of D that are the source's, from the picture on (published: 2)."""


class FilterModulation(nn.Module):
    """a W + b, beginning at W."""

    def __init__(self, weight_OIKK: Tensor) -> None:
        super().__init__()
        outputs, inputs = weight_OIKK.shape[:2]
        self.factor_OI11 = nn.Parameter(torch.ones(outputs, inputs, 1, 1))
        self.offset_OI11 = nn.Parameter(torch.zeros(outputs, inputs, 1, 1))

    def forward(self, weight_OIKK: Tensor) -> Tensor:
        """The modulated filters."""
        return torch.addcmul(self.offset_OI11, weight_OIKK, self.factor_OI11)


class GEFilter(TransferGAN[GEFilterConfig]):
    """General filters of the source under a new head.

    Raises:
        UserError: a network has fewer blocks than are to be kept.
    """

    Config = GEFilterConfig

    def __init__(self, config: GEFilterConfig, task: Task) -> None:
        super().__init__(config, task)
        source = task.given_source
        for key, network in (
            ("generator_blocks", source.generator),
            ("discriminator_blocks", source.discriminator),
        ):
            kept, blocks = getattr(config, key), len(network.blocks)
            if kept > blocks:
                raise UserError(
                    f"method.{key} is {kept}, and the source has {blocks} blocks there: keep fewer."
                )

    def networks(self) -> tuple[Generator, Discriminator]:
        """The source's pair next to the picture, and a fresh one behind."""
        first_kept = len(self.task.given_source.generator.blocks) - self.config.generator_blocks
        generator = fine_tuned_generator(self.task, first_kept)
        self.start_classes(generator.last_bank)
        for part in _kept(generator, first_kept):
            part.requires_grad_(False)
            for layer in part.modules():
                if isinstance(layer, Conv2d):
                    layer.reparametrisation = FilterModulation(layer.weight)
        return generator, fine_tuned_discriminator(self.task, self.config.discriminator_blocks)

    def frozen(self, discriminator: Discriminator) -> Sequence[nn.Module]:
        """The blocks next to the picture, with the attention that follows on any of them."""
        return discriminator.first_blocks(self.config.discriminator_blocks)


def _kept(generator: Generator, first: int) -> Iterator[nn.Module]:
    """The parts from that block on."""
    for i in range(first, len(generator.blocks)):
        yield generator.blocks[i]
        if str(i) in generator.attention:
            yield generator.attention[str(i)]
    yield generator.output_affine
    yield generator.to_rgb


METHOD = GEFilter
