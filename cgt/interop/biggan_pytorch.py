"""Checkpoints of BigGAN-PyTorch (github.com/ajbrock/BigGAN-PyTorch): `G_ema.pth` or `G.pth`, and `D.pth`.

Resolution, widths, classes and conditioning are read off the tensors. What tensors can't tell (the norms'
epsilon, the initialisation) comes from `state_dict.pth` where it is there, and else is the published default.

Three kinds of batch norm wrote such files; they differ in names, and `--mybn` in meaning:

    plain            bn1.stored_mean                              running mean
    --mybn           bn1.bn.stored_mean, .accumulation_counter    running mean, or the sum of that many means
    --cross_replica  bn1.bn.running_mean, .num_batches_tracked    running mean

In eval mode the original's cross-replica norm ADDS the gain that it multiplies by in training
(sync_batchnorm/batchnorm.py). Here the gain multiplies, as trained.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cgt.interop.biggan_files import find_files
from cgt.interop.biggan_keys import DEEP_DISCRIMINATOR, DISCRIMINATOR
from cgt.interop.biggan_networks import (
    filled_discriminator,
    filled_generator,
    generator_shape,
    plain_statistics,
)
from cgt.interop.class_names import given_or, numbered
from cgt.interop.pickles import read_tensors
from cgt.interop.weights import Weights
from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator

FORMAT = "biggan-pytorch"
OPTIONS: frozenset[str] = frozenset()


def convert(
    input: Path,  # noqa: A002 - the signature of every format
    *,
    weights: Path | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[Generator, Discriminator | None, dict[str, Any]]:
    """The pair in a checkpoint folder, in eval mode and float32, with what is known of its origin.

    Args:
        input: the folder, or a generator's file (then no discriminator is read).
        weights: the generator's file, absolute or in the folder; by default G_ema.pth, else G.pth. The
            discriminator is the one of the same save: D_best0.pth beside G_ema_best0.pth.
        classes: their names; by default class_000 and so on.

    Raises:
        UserError: a file that is missing, damaged or of another architecture, or names that don't fit.
    """
    save = find_files(input, weights)
    stored = read_tensors(save.generator)
    tensors, unused = plain_statistics(stored, save.generator)
    found = Weights(save.generator, tensors, "BigGAN-PyTorch generator", _remedy(stored, "generator"))
    shape = generator_shape(found, save.trained)
    names = given_or(numbered("class", shape.classes), classes, save.generator)
    generator, without_use = filled_generator(found, shape, names)
    unused += without_use
    discriminator = None
    if save.discriminator:
        stored = read_tensors(save.discriminator)
        remedy = _remedy(stored, "discriminator")
        found = Weights(save.discriminator, stored, "BigGAN-PyTorch discriminator", remedy)
        keys = DEEP_DISCRIMINATOR if shape.config.deep else DISCRIMINATOR
        discriminator, without_use = filled_discriminator(found, keys, shape, names)
        unused += without_use
    return generator, discriminator, save.provenance(FORMAT) | {"unused_keys": _sorted(unused)}


def _remedy(stored: Mapping[str, Tensor], expected: str) -> str:
    if any("comb_layer" in key or key.startswith("new_embed.") for key in stored):
        return "it holds the transfer parameters of cGANTransfer, which is another format (cgantransfer)"
    if not any(key.endswith(".u0") for key in stored):
        return (
            "it has no spectral norm (no key ends in .u0), and only networks trained with it can be converted"
        )
    if expected == "discriminator":
        return "take the file of the same training run, or give the generator's file alone"
    if "embed.weight" in stored:
        return "it looks like a discriminator; give its folder, or the generator's file (G_ema.pth, G.pth)"
    return "name another file, or the format that wrote it"


def _sorted(unused: Counter[str]) -> dict[str, int]:
    return dict(sorted(unused.items()))
