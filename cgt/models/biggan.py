"""BigGAN's generator and discriminator.

Brock et al., "Large Scale GAN Training for High Fidelity Natural Image Synthesis", 2019.

Shapes: N samples, Z latent size, R resolution, C channels, H rows, W columns.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgt.models.layers import (
    Conv2d,
    Embedding,
    Linear,
    SelfAttention,
    SpectralNormalised,
    draw_weight,
    initialise,
)
from cgt.models.layouts import DiscriminatorConfig, GeneratorConfig
from cgt.models.naming import distinct
from cgt.models.norm import (
    Bank,
    ClassBank,
    ClassTables,
    Condition,
    ConditionalBatchNorm,
    EmbeddedBank,
    Latents,
    bank_of,
    evaluation_conditions,
    picked,
    training_conditions,
)
from cgt.models.recompute import recomputed

__all__ = ["Discriminator", "DiscriminatorConfig", "Generator", "GeneratorConfig"]


class GeneratorBlock(nn.Module):
    """Residual block that doubles the size; its two norms are conditional."""

    def __init__(self, inputs: int, outputs: int, eps: float) -> None:
        super().__init__()
        self.norm1 = ConditionalBatchNorm(eps)
        self.conv1 = Conv2d(inputs, outputs, 3)
        self.norm2 = ConditionalBatchNorm(eps)
        self.conv2 = Conv2d(outputs, outputs, 3)
        self.shortcut = Conv2d(inputs, outputs, 1)

    def forward(self, x_NCHW: Tensor, first: Condition, second: Condition) -> Tensor:
        """A map of twice the size, (N, outputs, 2H, 2W), under the conditions of the two norms."""
        h: Tensor = self.conv1(F.interpolate(F.relu(self.norm1(x_NCHW, first)), scale_factor=2))
        h = self.conv2(F.relu(self.norm2(h, second)))
        # A 1x1 convolution and nearest-neighbour enlargement commute; this order costs a quarter.
        return h + F.interpolate(self.shortcut(x_NCHW), scale_factor=2)


class OutputAffine(nn.Module):
    """Gain and bias of the output norm: shared by all classes, while its statistics belong to each bank."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))


class Generator(nn.Module):
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
        widths = config.widths(resolution)
        self.bottom = resolution >> (len(widths) - 1)
        if self.bottom < 1 or self.bottom << (len(widths) - 1) != resolution:
            raise ValueError(
                f"{len(widths) - 1} blocks that double the size can't end at {resolution} px: "
                "give other channels"
            )
        chunk = config.chunk(resolution)
        self.linear = Linear(chunk, widths[0] * self.bottom**2)
        self.blocks = nn.ModuleList(
            GeneratorBlock(inputs, outputs, config.bn_eps) for inputs, outputs in itertools.pairwise(widths)
        )
        sizes = [self.bottom << (i + 1) for i in range(len(self.blocks))]
        self.attention = _attention(config.attention, sizes, widths[1:])
        self.output_norm = ConditionalBatchNorm(config.bn_eps)
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
        widths = self.config.widths(self.resolution)
        return [width for inputs, outputs in itertools.pairwise(widths) for width in (inputs, outputs)]

    @property
    def latent_width(self) -> int:
        """K, the size of the chunk of z that reaches a site; 0 where none does."""
        return self.config.chunk(self.resolution) if self.config.hierarchical else 0

    def new_class_bank(self, classes: Sequence[str]) -> ClassBank:
        """An empty bank of plain tables that fits this generator."""
        return ClassBank(classes, self.site_widths, self.output_affine.gain.numel(), latent=self.latent_width)

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

    def fold(self) -> None:
        """Fix the spectral norms and bake every bank (plain tables, where its classes have any), in place.

        The pictures stay the same, and every forward is less work.
        """
        training = self.training
        self.eval()
        self.banks = nn.ModuleList(cast(Bank, bank).baked() for bank in self.banks)
        for module in self.modules():
            if isinstance(module, SpectralNormalised):
                module.fold()
        self.train(training)

    def forward(self, z_NZ: Tensor, y_N: Tensor, tables: ClassTables | None = None) -> Tensor:
        """Pictures (N, 3, R, R) in [-1, 1].

        In eval mode y counts over the classes of all banks, and a batch may mix them. In training mode batch
        statistics are used, all samples belong to the last bank and y counts over all banks just the same.

        Args:
            z_NZ: latents, N(0, 1) in training.
            y_N: int64 class ids, indices into `classes`.
            tables: of the last bank, where the caller has built them already.

        Raises:
            ValueError: z is not `dim_z` wide.
        """
        if z_NZ.shape[1] != self.dim_z:
            raise ValueError(
                f"z has {z_NZ.shape[1]} numbers a picture, and this generator takes {self.dim_z}: "
                "use its dim_z"
            )
        tables = self.last_bank.tables() if tables is None else tables
        if not self.training:
            return self._synthesise(*self._evaluation(z_NZ, y_N, tables))
        y_N = y_N - self.first_of_last_bank
        latents = self.last_bank.latents(z_NZ, y_N, self)
        conditions = training_conditions(self.last_bank, tables, self._affine, latents, y_N)
        return self._synthesise(latents.first_NK, conditions)

    def interpolate(self, z_NZ: Tensor, y_NJ: Tensor, weight_NJ: Tensor) -> Tensor:
        """Pictures (N, 3, R, R) in [-1, 1] between J classes of any banks, in eval mode.

        A class is one scale and shift a channel at each site, with statistics folded in; these are mixed, and
        so is what banks make of z. So a weight of 1 gives the class itself, to the bit.

        Args:
            z_NZ: latents.
            y_NJ: int64 class ids, indices into `classes`.
            weight_NJ: of each class, usually from 0 to 1 with the sum 1; beyond that they extrapolate.
        """
        assert not self.training, "classes are mixed by their running statistics, in eval mode"
        tables = self.last_bank.tables()
        parts = [self._evaluation(z_NZ, y_N, tables) for y_N in y_NJ.unbind(1)]
        weights = weight_NJ[:, :, None].unbind(1)

        def mixed(values: Sequence[Tensor]) -> Tensor:
            return torch.stack([w * value for w, value in zip(weights, values, strict=True)]).sum(0)

        of_sites = zip(*(conditions for _, conditions in parts), strict=True)
        conditions = [
            Condition(mixed([part.scale_NC for part in site]), mixed([part.shift_NC for part in site]), None)
            for site in of_sites
        ]
        return self._synthesise(mixed([first for first, _ in parts]), conditions)

    def split(self, z_NZ: Tensor) -> Latents:
        """z, divided among the layers; both sites of a block get the block's chunk."""
        first, *others = z_NZ.split(self.config.chunk(self.resolution), dim=1)
        return Latents(first, [z for z in others for _ in range(2)])

    def draw(self, bank: Bank, latents: Latents, y_N: Tensor) -> Tensor:
        """Pictures of one bank's classes y, counted within it, by its running statistics."""
        eps = self.config.bn_eps
        conditions = evaluation_conditions([bank], [bank.tables()], self._affine, [latents], y_N, eps)
        return self._synthesise(latents.first_NK, conditions)

    @property
    def _affine(self) -> tuple[Tensor, Tensor]:
        return self.output_affine.gain, self.output_affine.bias

    def _evaluation(self, z_NZ: Tensor, y_N: Tensor, tables: ClassTables) -> tuple[Tensor, list[Condition]]:
        """The first layer's input and all conditions of a batch that may mix banks."""
        banks = [cast(Bank, bank) for bank in self.banks]
        of_banks = [bank.tables() for bank in banks[:-1]] + [tables]
        bank_N = bank_of(banks, y_N)
        latents, first = [], 0
        for number, bank in enumerate(banks):
            latents.append(bank.latents(z_NZ, torch.where(bank_N == number, y_N - first, -1), self))
            first += len(bank.classes)
        conditions = evaluation_conditions(banks, of_banks, self._affine, latents, y_N, self.config.bn_eps)
        return picked([part.first_NK for part in latents], bank_N), conditions

    def _synthesise(self, z_NK: Tensor, conditions: Sequence[Condition]) -> Tensor:
        call = recomputed if self.gradient_checkpointing and self.training else _called
        h = self.linear(z_NK).unflatten(1, (-1, self.bottom, self.bottom))
        for i, block in enumerate(self.blocks):
            h = call(block, h, conditions[2 * i], conditions[2 * i + 1])
            if str(i) in self.attention:
                h = call(self.attention[str(i)], h)
        return call(self._to_pictures, h, conditions[-1])

    def _to_pictures(self, h_NCRR: Tensor, condition: Condition) -> Tensor:
        return torch.tanh(self.to_rgb(F.relu(self.output_norm(h_NCRR, condition))))

    def _new_bank(self, classes: Sequence[str]) -> Bank:
        if not self.config.shared_dim:
            return self.new_class_bank(classes)
        output_width = self.output_affine.gain.numel()
        return EmbeddedBank(
            classes, self.site_widths, output_width, shared=self.config.shared_dim, latent=self.latent_width
        )


class DiscriminatorBlock(nn.Module):
    """Residual block, pre-activated but for the first, that may halve the size."""

    def __init__(self, inputs: int, outputs: int, *, first: bool, halve: bool) -> None:
        super().__init__()
        self.first = first
        self.halve = halve
        self.conv1 = Conv2d(inputs, outputs, 3)
        self.conv2 = Conv2d(outputs, outputs, 3)
        self.shortcut = Conv2d(inputs, outputs, 1) if halve or inputs != outputs else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """A map of the same or half the size, (N, outputs, H', W')."""
        h: Tensor = self.conv1(x_NCHW if self.first else F.relu(x_NCHW))
        h = self.conv2(F.relu(h))
        # Averaging and a 1x1 convolution commute; this order costs a quarter.
        shortcut = x_NCHW
        if self.halve:
            h, shortcut = F.avg_pool2d(h, 2), F.avg_pool2d(shortcut, 2)
        return h + (self.shortcut(shortcut) if self.shortcut is not None else shortcut)


class Discriminator(nn.Module):
    """D(x, y): the projection discriminator (Miyato & Koyama, 2018) as BigGAN has it.

    Args:
        config: its shape.
        resolution: R in pixels.
        classes: names; y counts along them.

    Raises:
        ValueError: a shape that the resolution does not allow, or a class name given twice.
    """

    def __init__(self, config: DiscriminatorConfig, resolution: int, classes: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.resolution = resolution
        self.classes = list(distinct(classes))
        widths, halvings = config.layout(resolution)
        if resolution >> halvings < 1:
            raise ValueError(f"{halvings} halvings of {resolution} px leave nothing: give fewer channels")
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(inputs, outputs, first=i == 0, halve=i < halvings)
            for i, (inputs, outputs) in enumerate(zip((3, *widths), widths, strict=False))
        )
        sizes = [resolution >> min(i + 1, halvings) for i in range(len(self.blocks))]
        self.attention = _attention(config.attention, sizes, widths)
        self.linear = Linear(widths[-1], 1)
        self.embedding = Embedding(len(self.classes), widths[-1]) if config.projection else None
        initialise(self, config.init)

    def maps(self, x_N3RR: Tensor) -> Iterator[Tensor]:
        """What the blocks, with their attention, make of pictures in [-1, 1]."""
        call = recomputed if self.gradient_checkpointing and self.training else _called
        h = x_N3RR
        for i, block in enumerate(self.blocks):
            h = call(block, h)
            if str(i) in self.attention:
                h = call(self.attention[str(i)], h)
            yield h

    def features(self, x_N3RR: Tensor) -> Tensor:
        """Pooled features (N, C) of pictures in [-1, 1]: what the logit is a function of, classes aside."""
        last = deque(self.maps(x_N3RR), maxlen=1).pop()  # the others are let go
        return F.relu(last).sum((2, 3))

    def first_blocks(self, count: int) -> list[nn.Module]:
        """The blocks next to the picture, with the attention that follows on any of them."""
        attention = [self.attention[str(i)] for i in range(count) if str(i) in self.attention]
        return [*self.blocks[:count], *attention]

    def forward(self, x_N3RR: Tensor, y_N: Tensor) -> Tensor:
        """Logits (N,) of pictures in [-1, 1] and class ids in [0, classes)."""
        h_NC = self.features(x_N3RR)
        logit_N: Tensor = self.linear(h_NC).squeeze(1)
        if self.embedding is not None:
            logit_N = logit_N + (self.embedding(y_N) * h_NC).sum(1)
        return logit_N


def _called(block: Callable[..., Tensor], *inputs: Any) -> Tensor:
    return block(*inputs)


def _attention(resolutions: Sequence[int], sizes: Sequence[int], widths: Sequence[int]) -> nn.ModuleDict:
    """Attention by index of the block that it follows."""
    unknown = sorted(set(resolutions) - set(sizes))
    if unknown:
        raise ValueError(
            f"attention at {unknown} px is not possible: the blocks end at {sorted(set(sizes))} px; "
            "name some of these"
        )
    layers = {}
    for resolution in resolutions:
        block = sizes.index(resolution)
        if widths[block] < 8:
            raise ValueError(
                f"attention at {resolution} px needs at least 8 channels there, not {widths[block]}: "
                "widen the block, or leave it out"
            )
        if resolution < 2:
            raise ValueError(
                "attention at 1 px has nothing to attend to, it needs at least 2 px: leave it out"
            )
        layers[str(block)] = SelfAttention(widths[block])
    return nn.ModuleDict(layers)
