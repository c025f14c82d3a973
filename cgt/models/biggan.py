"""BigGAN's generator; BigGAN-deep's is this one with other blocks.

Brock et al., "Large Scale GAN Training for High Fidelity Natural Image Synthesis", 2019.

Shapes: N samples, Z latent size, R resolution, C channels, H rows, W columns, K latent chunk, F outputs of
the first layer.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgt.models import biggan_deep
from cgt.models.conditions import Conditions, evaluation_conditions, located, training_conditions
from cgt.models.interface import GeneratorInterface, check_inputs
from cgt.models.layers import (
    Conv2d,
    Linear,
    SpectralNormalised,
    attention_by_block,
    draw_weight,
    initialise,
)
from cgt.models.layouts import GeneratorConfig
from cgt.models.norm import (
    Bank,
    ClassBank,
    ClassTables,
    Condition,
    ConditionalBatchNormReLU,
    EmbeddedBank,
    Latents,
)
from cgt.models.recompute import called, recomputed

__all__ = ["Generator", "GeneratorConfig"]


class GeneratorBlock(nn.Module):
    """Residual block that doubles the size; its two norms are conditional."""

    def __init__(self, inputs: int, outputs: int, eps: float) -> None:
        super().__init__()
        self.site_widths = (inputs, outputs)
        self.norm1 = ConditionalBatchNormReLU(eps)
        self.conv1 = Conv2d(inputs, outputs, 3)
        self.norm2 = ConditionalBatchNormReLU(eps)
        self.conv2 = Conv2d(outputs, outputs, 3)
        self.shortcut = Conv2d(inputs, outputs, 1)

    @property
    def doubling(self) -> Conv2d | None:
        """The convolution that the size doubles at."""
        return self.conv1

    def forward(self, x_NCHW: Tensor, first: Condition, second: Condition) -> Tensor:
        """A map of twice the size, (N, outputs, 2H, 2W), under the conditions of the two norms."""
        h: Tensor = self.conv1.of_doubled(self.norm1(x_NCHW, first))
        h = self.conv2(self.norm2(h, second))
        # A 1x1 convolution and nearest-neighbour enlargement commute; this order costs a quarter.
        return h.add_(F.interpolate(self.shortcut(x_NCHW), scale_factor=2))


Block = GeneratorBlock | biggan_deep.DeepGeneratorBlock


class OutputAffine(nn.Module):
    """Gain and bias of the output norm: shared by all classes, while its statistics belong to each bank."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))


class Generator(GeneratorInterface, nn.Module):
    """G(z, y): one generator with one or more class banks.

    A source, a converted and an extended generator are all this class.

    Args:
        config: its shape.
        resolution: R in pixels.
        classes: names of the first bank's classes.

    Raises:
        ValueError: a shape that the resolution does not allow, or a class name given twice.
    """

    def __init__(self, config: GeneratorConfig, resolution: int, classes: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.resolution = resolution
        widths, doublings = config.widths(resolution), config.doublings(resolution)
        self.bottom = resolution >> doublings
        if self.bottom < 1 or self.bottom << doublings != resolution:
            raise ValueError(
                f"{doublings} blocks that double the size can't end at {resolution} px: give other channels"
            )
        chunk, first = config.chunk(resolution), widths[0] * self.bottom**2
        self.first_width = first if config.deep else 0
        """F where the first layer is a site of the banks, as in BigGAN-deep; else 0."""
        self.linear: nn.Module
        if config.deep:
            self.linear = biggan_deep.FirstBias(first, config.shared_dim + chunk)
            self.blocks = nn.ModuleList(biggan_deep.generator_blocks(widths, config.bn_eps))
        else:
            self.linear = Linear(chunk, first)
            self.blocks = nn.ModuleList(
                GeneratorBlock(inputs, outputs, config.bn_eps)
                for inputs, outputs in itertools.pairwise(widths)
            )
        every = 2 if config.deep else 1
        sizes = [self.bottom << (i + 1) // every for i in range(len(self.blocks))]
        self.attention = attention_by_block(config.attention, sizes, widths[1:])
        self.output_norm = ConditionalBatchNormReLU(config.bn_eps)
        self.output_affine = OutputAffine(widths[-1])
        self.to_rgb = Conv2d(widths[-1], 3, 3)
        self.banks = nn.ModuleList([self._new_bank(classes)])
        initialise(self, config.init)
        bank = self.banks[0]
        if isinstance(bank, ClassBank):
            for table in (*bank.scale, *bank.shift):
                draw_weight(table, config.init)

    @property
    def classes(self) -> list[str]:
        """The names of all classes, bank by bank: the class ids y count along it."""
        return [name for bank in self.banks for name in cast(Bank, bank).classes]

    @property
    def dim_z(self) -> int:
        """Latent size Z."""
        return self.config.dim_z

    @property
    def last_bank(self) -> Bank:
        """The bank that was appended last: the one that is trained, and the new classes of a transfer."""
        return cast(Bank, self.banks[-1])

    @property
    def first_of_last_bank(self) -> int:
        """The id of the last bank's first class; ids below it belong to the banks before."""
        return len(self.classes) - len(self.last_bank.classes)

    @property
    def site_widths(self) -> list[int]:
        """C_l of every conditional site, from the image's far end to the near one."""
        return [width for block in self.blocks for width in cast(Block, block).site_widths]

    def first_site(self, block: int) -> int:
        """The number of the first site of a block."""
        return sum(len(cast(Block, before).site_widths) for before in self.blocks[:block])

    @property
    def levelled(self) -> bool:
        """Whether the statistics of any bank go by the truncation of z."""
        return any(cast(Bank, bank).levels > 1 for bank in self.banks)

    def level(self, truncation: float | None) -> float:
        """The `truncation` to call it with when z is drawn with that one: 1 where no statistics go by it."""
        return truncation if self.levelled and truncation is not None else 1.0

    @property
    def latent_width(self) -> int:
        """K, the size of the chunk of z that reaches a site; 0 where none does."""
        return self.config.chunk(self.resolution) if self.config.hierarchical else 0

    def new_class_bank(self, classes: Sequence[str]) -> ClassBank:
        """An empty bank of plain tables that fits this generator."""
        return ClassBank(classes, **self.bank_shape)

    @property
    def bank_shape(self) -> dict[str, Any]:
        """What every bank that fits this generator is built by, beside its classes."""
        return {
            "widths": self.site_widths,
            "output_width": self.output_affine.gain.numel(),
            "latent": self.latent_width,
            "first": self.first_width,
        }

    def append(self, bank: Bank) -> None:
        """Add a bank: its classes come after all others. Nothing that stands is touched.

        Raises:
            ValueError: a class of that name is there already.
        """
        doubles = sorted(set(self.classes) & set(bank.classes))
        if doubles:
            raise ValueError(
                f"the generator has classes called {', '.join(map(repr, doubles))} already: "
                "give the new ones other names."
            )
        self.banks.append(bank)

    @property
    def folded(self) -> bool:
        """Whether no spectral norm is left: what was folded can't be trained on as it was before."""
        return all(layer.u is None for layer in self.modules() if isinstance(layer, SpectralNormalised))

    def fold(self) -> None:
        """Fix the spectral norms and bake every bank (plain tables, where its classes have any), in place.

        The pictures stay the same, and every forward is less work. A second time changes nothing, to the bit.
        """
        training = self.training
        self.eval()
        self.banks = nn.ModuleList(cast(Bank, bank).baked() for bank in self.banks)
        self.fix_norms()
        self.train(training)

    def keep_kernels(self, pictures: float = math.inf) -> None:
        """Make the kernels of enlargements once for all, in a folded generator whose weights stay.

        No state has them; another call makes them anew.

        Args:
            pictures: of a batch; those that don't pay for so many are not kept.
        """
        size = self.bottom
        for block in self.blocks:
            if layer := cast(Block, block).doubling:
                layer.keep_doubling_kernel(pictures * size**2)
                size *= 2

    def fix_norms(self) -> None:
        """Fix the spectral norms alone, in place, in eval mode."""
        for module in self.modules():
            if isinstance(module, SpectralNormalised):
                module.fold()

    def forward(
        self, z_NZ: Tensor, y_N: Tensor, tables: ClassTables | None = None, *, truncation: float = 1.0
    ) -> Tensor:
        """Pictures (N, 3, R, R) in [-1, 1].

        In eval mode y counts over the classes of all banks, and a batch may mix them. In training mode batch
        statistics are used, all samples belong to the last bank and y counts over all banks just the same.

        Args:
            z_NZ: latents, N(0, 1) in training.
            y_N: int64 class ids, indices into `classes`.
            tables: of the last bank, where the caller has built them already.
            truncation: in (0, 1], of the z that are given; banks whose statistics go by it take those of it.

        Raises:
            ValueError: z is not `dim_z` wide, the truncation is out of its range, or on the CPU y has an id
                that no class has.
        """
        first = self.first_of_last_bank if self.training else 0
        check_inputs(z_NZ, y_N, self.dim_z, range(first, len(self.classes)))
        tables = self.last_bank.tables() if tables is None else tables
        if not self.training:
            return self.synthesise(self._evaluation(z_NZ, y_N, tables, truncation))
        y_N = y_N - first
        latents = self.last_bank.latents(z_NZ, y_N, self)
        return self.synthesise(training_conditions(self.last_bank, tables, self._affine, latents, y_N))

    def interpolate(
        self, z_NZ: Tensor, y_NJ: Tensor, weight_NJ: Tensor, *, truncation: float = 1.0
    ) -> Tensor:
        """Pictures (N, 3, R, R) in [-1, 1] between J classes of any banks, in eval mode.

        A class is one scale and shift a channel at each site, with statistics folded in; these are mixed, and
        so is what banks make of z. So a weight of 1 gives the class itself, to the bit.

        Args:
            z_NZ: latents.
            y_NJ: int64 class ids, indices into `classes`.
            weight_NJ: of each class, usually from 0 to 1 with the sum 1; beyond that they extrapolate.
            truncation: as in `forward`.

        Raises:
            ValueError: as `forward`.
        """
        check_inputs(z_NZ, y_NJ, self.dim_z, range(len(self.classes)))
        assert not self.training, "classes are mixed by their running statistics, in eval mode"
        tables = self.last_bank.tables()
        parts = [self._evaluation(z_NZ, y_N, tables, truncation) for y_N in y_NJ.unbind(1)]
        weights = weight_NJ[:, :, None].unbind(1)

        def mixed(values: Sequence[Tensor]) -> Tensor:
            return torch.stack([w * value for w, value in zip(weights, values, strict=True)]).sum(0)

        of_sites = zip(*(part.sites for part in parts), strict=True)
        conditions = [
            Condition(mixed([part.scale_NC for part in site]), mixed([part.shift_NC for part in site]), None)
            for site in of_sites
        ]
        return self.synthesise(Conditions(mixed([part.first for part in parts]), conditions))

    def split(self, z_NZ: Tensor) -> Latents:
        """z, divided among the layers: sites of a block get the block's chunk, of BigGAN-deep all of z."""
        if self.config.deep:
            return Latents(z_NZ, [z_NZ] * len(self.site_widths))
        first, *others = z_NZ.split(self.config.chunk(self.resolution), dim=1)
        return Latents(first, [z for z in others for _ in range(2)])

    def draw(self, bank: Bank, latents: Latents, y_N: Tensor) -> Tensor:
        """Pictures of one bank's classes y, counted within it, by its running statistics."""
        eps = self.config.bn_eps
        return self.synthesise(
            evaluation_conditions([bank], [bank.tables()], self._affine, [latents], located([bank], y_N), eps)
        )

    @property
    def _affine(self) -> tuple[Tensor, Tensor]:
        return self.output_affine.gain, self.output_affine.bias

    def _evaluation(self, z_NZ: Tensor, y_N: Tensor, tables: ClassTables, truncation: float) -> Conditions:
        """The conditions of a batch that may mix banks."""
        if not 0 < truncation <= 1:
            raise ValueError(
                f"truncation is {truncation}, and must be above 0 and at most 1: give 1 for none"
            )
        banks = [cast(Bank, bank) for bank in self.banks]
        of_banks = [bank.tables() for bank in banks[:-1]] + [tables]
        place = located(banks, y_N)
        latents = [bank.latents(z_NZ, place.within(number, -1), self) for number, bank in enumerate(banks)]
        return evaluation_conditions(
            banks, of_banks, self._affine, latents, place, self.config.bn_eps, truncation
        )

    def synthesise(self, conditions: Conditions) -> Tensor:
        """Pictures (N, 3, R, R) in [-1, 1] under the conditions of the layers."""
        call = recomputed if self.gradient_checkpointing and self.training else called
        h = self.linear(conditions.first).unflatten(1, (-1, self.bottom, self.bottom))
        of_sites = iter(conditions.sites)
        for i, block in enumerate(self.blocks):
            h = call(block, h, *itertools.islice(of_sites, len(cast(Block, block).site_widths)))
            if str(i) in self.attention:
                h = call(self.attention[str(i)], h)
        return call(self._to_pictures, h, next(of_sites))

    def _to_pictures(self, h_NCRR: Tensor, condition: Condition) -> Tensor:
        return torch.tanh(self.to_rgb(self.output_norm(h_NCRR, condition)))

    def _new_bank(self, classes: Sequence[str]) -> Bank:
        if not self.config.shared_dim:
            return self.new_class_bank(classes)
        return EmbeddedBank(classes, shared=self.config.shared_dim, **self.bank_shape)
