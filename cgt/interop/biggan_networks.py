"""Networks of ours for the tensors of a checkpoint of BigGAN-PyTorch, or of a program that grew out of it."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.interop.biggan_keys import LOGS, NORM_COUNTERS, OUTPUT_EPS, PER_LAYER, SHARED, KeyMap
from cgt.interop.weights import Weights
from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.models.layouts import (
    DISCRIMINATOR_LAYOUTS,
    GENERATOR_LAYOUTS,
    DiscriminatorConfig,
    GeneratorConfig,
    Init,
)


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
    blocks = _blocks(found)
    rows, latent = found.shape("linear.weight", 2)
    first = found.shape("blocks.0.0.conv1.weight", 4)[1]
    bottom = round((rows / first) ** 0.5)
    if bottom**2 * first != rows:
        raise UserError(
            f"{found.path}: 'linear.weight' has {rows} rows, and they must be a square of pixels for each "
            f"of the {first} input channels of 'blocks.0.0.conv1.weight': {found.remedy}."
        )
    resolution = bottom << blocks
    shared_dim = chunk = 0
    sites = found.shape("blocks.0.0.bn1.gain.weight", 2)
    if "shared.weight" in found.tensors:
        count, shared_dim = found.shape("shared.weight", 2)
        chunk = sites[1] - shared_dim
        if chunk not in (0, latent):
            raise UserError(
                f"{found.path}: 'blocks.0.0.bn1.gain.weight' has {sites[1]} columns, and it must have the "
                f"{shared_dim} of 'shared.weight', or {shared_dim + latent} where z is hierarchical: "
                f"{found.remedy}."
            )
    else:
        count = sites[0]
    widths = (first, *(found.shape(f"blocks.{i}.0.conv1.weight", 4)[0] for i in range(blocks)))
    inits: dict[Any, Init] = {"ortho": "orthogonal", "N02": "normal"}
    eps = trained.get("BN_eps")
    with blaming(found.path):
        config = GeneratorConfig(
            **_widths(GENERATOR_LAYOUTS.get(resolution, ()), widths),
            dim_z=latent * (blocks + 1) if chunk else latent,
            shared_dim=shared_dim,
            hierarchical=chunk > 0,
            attention=tuple(bottom << (i + 1) for i in _attention(found)),
            # By default those of the ImageNet and of the CIFAR recipe.
            init=inits.get(trained.get("G_init"), "orthogonal" if shared_dim else "normal"),
            bn_eps=eps if isinstance(eps, float) else 1e-5,
        )
    return GeneratorShape(config, resolution, count)


def filled_generator(
    found: Weights, shape: GeneratorShape, classes: Sequence[str]
) -> tuple[Generator, Counter[str]]:
    """The generator with one bank, in eval mode, and the keys without use as `Weights.fill` counts them.

    Raises:
        UserError: tensors that don't fit the shape, or class names that won't do.
    """
    with blaming(found.path):
        generator = Generator(shape.config, shape.resolution, classes)
    keys = SHARED if shape.config.shared_dim else PER_LAYER
    unused = found.fill(generator, keys.theirs(len(generator.blocks)), needless=LOGS)
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
    unused = found.fill(discriminator, keys.theirs(_blocks(found)), needless=LOGS)
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
    """How many blocks there are."""
    found.shape("blocks.0.0.conv1.weight", 4)
    return len({key.split(".")[1] for key in found.tensors if key.startswith("blocks.")})


def _attention(found: Weights) -> list[int]:
    """The blocks that attention follows."""
    return [i for i in range(_blocks(found)) if f"blocks.{i}.1.theta.weight" in found.tensors]


def _discriminator_config(found: Weights, like: GeneratorShape) -> DiscriminatorConfig:
    blocks = _blocks(found)
    widths = tuple(found.shape(f"blocks.{i}.0.conv1.weight", 4)[0] for i in range(blocks))
    published, halvings = DISCRIMINATOR_LAYOUTS.get(like.resolution, ((), 0))
    layout = _widths(published, widths)
    if "channels" in layout:
        halvings = blocks - 1
    attention = tuple(like.resolution >> min(i + 1, halvings) for i in _attention(found))
    return DiscriminatorConfig(**layout, attention=attention, init=like.config.init)


def _widths(published: Sequence[int], widths: tuple[int, ...]) -> dict[str, Any]:
    """The option for these widths: `ch` where they are multiples of the published ones, else `channels`."""
    ch = widths[-1] // published[-1] if published else 0
    return {"ch": ch} if widths == tuple(ch * unit for unit in published) else {"channels": widths}


@contextlib.contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Tell what a network objects to, in shape or names, as a fault of the conversion of `path`."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path} can't be converted: {error}") from None
