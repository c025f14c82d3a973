"""Networks of ours for the tensors of a checkpoint of BigGAN-PyTorch, or of a program that grew out of it."""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.interop.biggan_keys import DEEP, LOGS, NORM_COUNTERS, OUTPUT_EPS, PER_LAYER, SHARED, KeyMap
from cgt.interop.weights import Weights
from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.models.layouts import (
    GENERATOR_LAYOUTS,
    DiscriminatorConfig,
    GeneratorConfig,
    Init,
    multiplier,
    published_discriminator,
    published_generator,
)


class Layout(Protocol):
    """The published widths for a resolution, in units of `ch`."""

    def __call__(self, resolution: int, *, deep: bool) -> tuple[int, ...]:
        """From first to last."""


class GeneratorShape(NamedTuple):
    """What a generator is built by, beside the names of its classes."""

    config: GeneratorConfig
    resolution: int
    classes: int
    """Of its first bank."""


def generator_shape(found: Weights, trained: Mapping[str, Any]) -> GeneratorShape:
    """The shape of the generator that these tensors are of.

    Args:
        found: with statistics in the plain spelling (`plain_statistics`).
        trained: the options of the training run, as far as they are known: of what tensors can't tell.

    Raises:
        UserError: they are of no generator of this kind.
    """
    if (style := trained.get("norm_style", "bn")) != "bn":
        raise UserError(
            f"{found.path} was trained with --norm_style {style}, as its state_dict.pth says, and only batch "
            "norm (bn) can be converted: take another checkpoint."
        )
    blocks, deep = _blocks(found), _is_deep(found)
    rows, latent = found.shape("linear.weight", 2)
    first = found.shape("blocks.0.0.conv1.weight", 4)[1]
    bottom = round((rows / first) ** 0.5)
    if bottom**2 * first != rows:
        raise UserError(
            f"{found.path}: 'linear.weight' has {rows} rows, and they must be a square of pixels for each "
            f"of the {first} input channels of 'blocks.0.0.conv1.weight': {found.remedy}."
        )
    resolution = bottom << (blocks // 2 if deep else blocks)
    shared_dim = chunk = 0
    sites = found.shape("blocks.0.0.bn1.gain.weight", 2)
    if "shared.weight" in found.tensors:
        count, shared_dim = found.shape("shared.weight", 2)
        chunk = sites[1] - shared_dim
        latent -= shared_dim if deep else 0
        if chunk not in (0, latent):
            raise UserError(
                f"{found.path}: 'blocks.0.0.bn1.gain.weight' has {sites[1]} columns, and it must have the "
                f"{shared_dim} of 'shared.weight', or {shared_dim + latent} where z is hierarchical: "
                f"{found.remedy}."
            )
    else:
        count = sites[0]
    last = "conv4" if deep else "conv1"
    widths = (first, *(found.shape(f"blocks.{i}.0.{last}.weight", 4)[0] for i in range(blocks)))
    inits: dict[Any, Init] = {"ortho": "orthogonal", "N02": "normal"}
    eps = trained.get("BN_eps")
    with blaming(found.path):
        config = GeneratorConfig(
            deep=deep,
            **widths_option(published_generator, resolution, widths, deep=deep),
            dim_z=latent * (blocks + 1) if chunk and not deep else latent,
            shared_dim=shared_dim,
            hierarchical=chunk > 0,
            attention=tuple(
                bottom << ((i + 1) // 2 if deep else i + 1)
                for i in range(blocks)
                if f"blocks.{i}.1.theta.weight" in found.tensors
            ),
            # By default those of the ImageNet and of the CIFAR recipe.
            init=inits.get(str(trained.get("G_init")), "orthogonal" if shared_dim else "normal"),
            bn_eps=eps if isinstance(eps, float) else 1e-5,
        )
    return GeneratorShape(config, resolution, count)


def generator_keys(config: GeneratorConfig) -> KeyMap:
    """The names of a generator with one bank of its own kind."""
    if config.deep:
        return DEEP
    return SHARED if config.shared_dim else PER_LAYER


def filled_generator(
    found: Weights, shape: GeneratorShape, classes: Sequence[str], *, needless: re.Pattern[str] = LOGS
) -> tuple[Generator, Counter[str]]:
    """The generator with one bank, in eval mode, and the keys without use as `Weights.fill` counts them.

    `needless` matches keys that may be in the file without use.

    Raises:
        UserError: tensors that don't fit the shape, or class names that won't do.
    """
    with blaming(found.path):
        generator = Generator(shape.config, shape.resolution, classes)
    keys = generator_keys(shape.config)
    unused = found.fill(generator, keys.theirs(len(generator.blocks)), needless=needless)
    # All norms of ours have one epsilon: what the output norm's differs by becomes a part of its variance.
    generator.last_bank.site_statistics()[-1].var += OUTPUT_EPS - shape.config.bn_eps
    return generator.eval(), unused


def filled_discriminator(
    found: Weights, keys: KeyMap, like: GeneratorShape, classes: Sequence[str]
) -> tuple[Discriminator, Counter[str]]:
    """The discriminator of a generator's training run, in eval mode, and the keys without use.

    Args:
        found: its tensors.
        keys: their names.
        like: of the generator.
        classes: names, as many as the discriminator must know.

    Raises:
        UserError: tensors that don't fit.
    """
    embedding = next(theirs for theirs, ours in keys.layers.items() if ours == "embedding")
    known = found.shape(f"{embedding}.weight", 2)[0]
    if known != len(classes):
        raise UserError(
            f"{found.path}: '{embedding}.weight' knows {known} classes, the generator {len(classes)}, and "
            "they must be the same: the files are not of one training run. To convert the generator alone, "
            "give its file."
        )
    with blaming(found.path):
        config = _discriminator_config(found, like)
        discriminator = Discriminator(config, like.resolution, classes)
    unused = found.fill(discriminator, keys.theirs(len(discriminator.blocks)), needless=LOGS)
    return discriminator.eval(), unused


def plain_statistics(stored: Mapping[str, Tensor], path: Path) -> tuple[dict[str, Tensor], Counter[str]]:
    """The tensors with batch-norm statistics in the plain spelling, sums divided by their number.

    Returns:
        The tensors without the counters, and how many of these there were.

    Raises:
        UserError: a counter that counts no batches.
    """
    plain = {}
    counters = {key for key in stored if key.endswith(NORM_COUNTERS)}
    for key, value in stored.items():
        site, _, name = key.rpartition(".bn.")
        if key in counters:
            continue
        if not site:
            plain[key] = value
            continue
        counter = stored.get(f"{site}.bn.accumulation_counter", torch.zeros(1))
        if counter.numel() != 1:
            raise UserError(
                f"{path}: '{site}.bn.accumulation_counter' holds {counter.numel()} numbers and must hold 1: "
                "the file is damaged; download or copy it again."
            )
        # A counter of 0: nothing was accumulated, these are running averages.
        plain[f"{site}.{name.replace('running_', 'stored_')}"] = value / counter.clamp(min=1)
    return plain, Counter(key.rpartition(".")[2] for key in counters)


def _blocks(found: Weights) -> int:
    """How many blocks there are, or of BigGAN-deep's discriminator pairs of blocks."""
    found.shape("blocks.0.0.conv1.weight", 4)
    return len({key.split(".")[1] for key in found.tensors if key.startswith("blocks.")})


def _is_deep(found: Weights) -> bool:
    """Whether the blocks are BigGAN-deep's, which have four convolutions."""
    return "blocks.0.0.conv4.weight" in found.tensors


def _discriminator_config(found: Weights, like: GeneratorShape) -> DiscriminatorConfig:
    blocks, deep = _blocks(found), _is_deep(found)
    if deep:
        stem = found.shape("input_conv.weight", 4)[0]
        names = [f"blocks.{pair}.{place}.conv4.weight" for pair in range(blocks) for place in range(2)]
        widths: tuple[int, ...] = (stem, *(found.shape(name, 4)[0] for name in names))
    else:
        widths = tuple(found.shape(f"blocks.{i}.0.conv1.weight", 4)[0] for i in range(blocks))
    config = DiscriminatorConfig(
        deep=deep,
        **widths_option(_discriminator_layout, like.resolution, widths, deep=deep),
        init=like.config.init,
    )
    _, halvings = config.layout(like.resolution)
    attention = "2" if deep else "1"
    return replace(
        config,
        attention=tuple(
            like.resolution >> min(i + 1, halvings)
            for i in range(blocks)
            if f"blocks.{i}.{attention}.theta.weight" in found.tensors
        ),
    )


def _discriminator_layout(resolution: int, *, deep: bool) -> tuple[int, ...]:
    return published_discriminator(resolution, deep=deep)[0]


def widths_option(layout: Layout, resolution: int, widths: tuple[int, ...], *, deep: bool) -> dict[str, Any]:
    """The option for these widths: `ch` where they are multiples of the published ones, else `channels`."""
    published = layout(resolution, deep=deep) if resolution in GENERATOR_LAYOUTS else ()
    ch = multiplier(widths, published)
    return {"ch": ch} if ch else {"channels": widths}


@contextlib.contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Tell what a network objects to, in shape or names, as a fault of the conversion of `path`."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path} can't be converted: {error}") from None
