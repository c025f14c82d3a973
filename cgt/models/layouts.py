"""The shapes that BigGAN comes in: published layouts, and configs of generators and discriminators."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

GENERATOR_LAYOUTS = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
"""Widths in units of `ch`, from the first linear layer to the last block; every block doubles the size.

BigGAN-deep has two blocks in place of each, of which the first one keeps width and size.
"""

DISCRIMINATOR_LAYOUTS = {
    32: ((4, 4, 4, 4), 2),
    64: ((1, 2, 4, 8, 16), 4),
    128: ((1, 2, 4, 8, 16, 16), 5),
    256: ((1, 2, 4, 8, 8, 16, 16), 6),
    512: ((1, 1, 2, 4, 8, 8, 16, 16), 7),
}
"""Widths in units of `ch` after every block, and how many of the blocks (the first ones) halve the size.

BigGAN-deep has a convolution in place of the first block, and two in place of each other, of which the second
one keeps width and size.
"""

BOTTLENECK = 4
"""Of BigGAN-deep: how many times narrower a block is inside."""

L = TypeVar("L")
Init = Literal["orthogonal", "normal"]


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The shape of a generator; resolution and classes come from the data.

    Raises:
        ValueError: values that don't fit together.
    """

    ch: int = 64
    """Channel multiplier of the published layout for the resolution."""
    channels: tuple[int, ...] | None = None
    """In place of the published layout: widths from the first linear layer to the last block.

    Every block doubles the size, of BigGAN-deep every second one.
    """
    deep: bool = False
    """BigGAN-deep: blocks with a bottleneck, two for each of BigGAN's; all of z and the class reach every
    layer."""
    dim_z: int = 128
    """Latent size. With `hierarchical` it is split evenly over the first layer and the blocks."""
    shared_dim: int = 0
    """Width of an embedding shared by all sites (ImageNet: 128); 0 for one class table per site (CIFAR)."""
    hierarchical: bool = False
    """Give every block its own chunk of z (of BigGAN-deep: all of it), beside the shared embedding."""
    attention: tuple[int, ...] = ()
    """Resolutions after which self-attention stands."""
    init: Init = "normal"
    bn_eps: float = 1e-5

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def __post_init__(self) -> None:
        _require_at_least(1, ch=self.ch, dim_z=self.dim_z)
        _require_at_least(0, shared_dim=self.shared_dim)
        if self.channels is not None:
            _require_widths(self.channels, at_least=2)
        if not 0 < self.bn_eps < math.inf:
            raise ValueError(f"bn_eps is {self.bn_eps}, and must be above 0: leave it out (BigGAN: 1e-5)")
        if self.hierarchical and not self.shared_dim:
            raise ValueError(
                "hierarchical z needs a shared embedding: set shared_dim (BigGAN: 128), "
                "or hierarchical: false"
            )
        if self.deep and not self.hierarchical:
            raise ValueError(
                "BigGAN-deep gives z and a shared embedding to every block: set shared_dim (published: 128) "
                "and hierarchical: true, or deep: false"
            )
        if self.deep and self.channels is not None:
            _require_stages(self.channels, rising=False)

    def widths(self, resolution: int) -> tuple[int, ...]:
        """Channels from the first linear layer to the last block."""
        if self.channels is not None:
            return self.channels
        return tuple(self.ch * width for width in published_generator(resolution, deep=self.deep))

    def doublings(self, resolution: int) -> int:
        """How many blocks double the size."""
        return (len(self.widths(resolution)) - 1) // (2 if self.deep else 1)

    def chunk(self, resolution: int) -> int:
        """Size of one chunk of z (all of it where z is not split)."""
        if not self.hierarchical or self.deep:
            return self.dim_z
        chunks = len(self.widths(resolution))
        if self.dim_z % chunks:
            below = self.dim_z // chunks * chunks
            fitting = f"{below} or {below + chunks}" if below else f"{chunks}"
            raise ValueError(
                f"dim_z {self.dim_z} can't be split into {chunks} equal chunks at {resolution} px: "
                f"use {fitting}"
            )
        return self.dim_z // chunks


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The shape of a discriminator; resolution and classes come from the data.

    Raises:
        ValueError: a width below 1.
    """

    ch: int = 64
    """Channel multiplier of the published layout for the resolution."""
    channels: tuple[int, ...] | None = None
    """In place of the published layout: widths after every block; all blocks but the last halve the size.

    Of BigGAN-deep: after the first convolution and after every block, of which every second one halves it.
    """
    deep: bool = False
    """BigGAN-deep: blocks with a bottleneck, two for each of BigGAN's."""
    attention: tuple[int, ...] = ()
    """Resolutions after which self-attention stands."""
    init: Init = "normal"
    projection: bool = True
    """Add to the logit the product of features and a class embedding; without, D does not look at classes."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def __post_init__(self) -> None:
        _require_at_least(1, ch=self.ch)
        if self.channels is not None:
            _require_widths(self.channels, at_least=1)
            if self.deep:
                _require_stages(self.channels, rising=True)

    def layout(self, resolution: int) -> tuple[tuple[int, ...], int]:
        """Channels after every block, and how many of the first ones halve the size.

        Of BigGAN-deep: channels after the first convolution and every block, and how many pairs of blocks do.
        """
        if self.channels is not None:
            return self.channels, (len(self.channels) - 1) // (2 if self.deep else 1)
        widths, halvings = published_discriminator(resolution, deep=self.deep)
        return tuple(self.ch * width for width in widths), halvings


def published_generator(resolution: int, *, deep: bool) -> tuple[int, ...]:
    """Widths in units of `ch`, from the first linear layer to the last block.

    Raises:
        ValueError: there is no published layout for the resolution.
    """
    widths = _layout(GENERATOR_LAYOUTS, resolution)
    return (*(width for width in widths[:-1] for _ in range(2)), widths[-1]) if deep else widths


def published_discriminator(resolution: int, *, deep: bool) -> tuple[tuple[int, ...], int]:
    """`DiscriminatorConfig.layout`, in units of `ch`.

    Raises:
        ValueError: there is no published layout for the resolution.
    """
    widths, halvings = _layout(DISCRIMINATOR_LAYOUTS, resolution)
    return (widths[0], *(width for width in widths[1:] for _ in range(2))) if deep else widths, halvings


def multiplier(widths: Sequence[int], published: Sequence[int]) -> int:
    """The `ch` that makes these widths of published ones, which are in its units; 0 where there is none."""
    ch = widths[-1] // published[-1] if published else 0
    return ch if tuple(widths) == tuple(ch * unit for unit in published) else 0


def _require_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} is {value}, and must be at least {least}: raise it, or leave it out")


def _require_widths(channels: Sequence[int], at_least: int) -> None:
    if len(channels) < at_least or min(channels) < 1:
        raise ValueError(
            f"channels are {list(channels)}, and must be at least {at_least} widths of 1 or more: "
            "give more, or leave them out"
        )


def _require_stages(channels: Sequence[int], *, rising: bool) -> None:
    """Refuse widths that BigGAN-deep's shortcuts, which drop or add channels, can't have."""
    if len(channels) % 2 == 0 or len(channels) < 3:
        raise ValueError(
            f"channels are {list(channels)}, and BigGAN-deep has two blocks at every size: give an odd "
            "number of widths, 3 or more"
        )
    if list(channels) != sorted(channels, reverse=not rising):
        way = "wider" if rising else "narrower"
        raise ValueError(
            f"channels are {list(channels)}, and blocks of BigGAN-deep only get {way} from first to last: "
            "sort them"
        )
    if min(channels) < BOTTLENECK:
        raise ValueError(
            f"channels are {list(channels)}, and blocks of BigGAN-deep are {BOTTLENECK} times narrower "
            f"inside: give {BOTTLENECK} or more"
        )


def _layout(layouts: dict[int, L], resolution: int) -> L:
    if resolution not in layouts:
        raise ValueError(
            f"there is no published BigGAN at {resolution} px (there are {', '.join(map(str, layouts))}): "
            "give channels instead of ch"
        )
    return layouts[resolution]
