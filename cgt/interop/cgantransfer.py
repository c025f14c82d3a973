"""Checkpoints of cGANTransfer (github.com/mshahbazi72/cGANTransfer), of its CIFAR and of its ImageNet tree.

They have the files and names of BigGAN-PyTorch (`biggan_pytorch.py`), and at every site what the transfer
trains (`propagation.py`). The result is an extended generator: a bank of the source's classes, then one of
the new classes with the tables that the program computes; the discriminator is of the new classes.

What such a checkpoint has lost of the source: the transfer stores the new classes' statistics over the
source's, and some of the "copies" that it trains are views of the source's tables (all of them in the CIFAR
tree, the projections of z in the ImageNet tree). The source's own checkpoint has them. What stays lost is the
last digits of the spectral norms: the trunk serves both banks, and its power iterations have moved on.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgt import files, rng
from cgt.errors import UserError
from cgt.interop import biggan_pytorch
from cgt.interop.biggan_files import find_files
from cgt.interop.biggan_keys import LOGS, PROPAGATION, TRANSFERRED_DISCRIMINATOR
from cgt.interop.biggan_networks import (
    blaming,
    filled_discriminator,
    filled_generator,
    generator_shape,
    plain_statistics,
)
from cgt.interop.class_names import given_or, numbered
from cgt.interop.pickles import read_tensors
from cgt.interop.propagation import Propagation
from cgt.interop.weights import Weights
from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator

FORMAT = "cgantransfer"
OPTIONS = frozenset({"source"})

TRAINED = re.compile(r"\.(comb_layer|prev_knowledge|z_layer|res)_[gb]\.\w+$")
"""What the transfer adds to every site."""
NEEDLESS = re.compile(rf"{LOGS.pattern}|\.pretrain_embedding_w$")
"""Logs, and `shared.weight` once more at every site."""
FROZEN_WITHIN = 1e-3
"""By how much of its largest value a frozen weight may differ from the source's: averaging it again and again
rounds."""
LEFT = (
    "what this checkpoint holds of them, not the source's: the transfer stored the new classes' statistics "
    "over theirs, and trained their tables (in the ImageNet tree, their projections of z) in place. Give the "
    "checkpoint that it began from with --source to have them back."
)
COMPARED = 16
"""Pictures that show how near the old classes are to the source's."""


def convert(
    input: Path,  # noqa: A002 - the signature of every format
    *,
    weights: Path | None = None,
    classes: Sequence[str] | None = None,
    source: Path | None = None,
) -> tuple[Generator, Discriminator | None, dict[str, Any]]:
    """The extended generator and the new classes' discriminator, in eval mode and float32.

    Args:
        input: the checkpoint's folder, or a generator's file (then no discriminator is read).
        weights: the generator's file, absolute or in the folder; by default G_ema.pth, else G.pth.
        classes: names of the source's classes, then of the new ones; by default old_000 and so on, new_000
            and so on.
        source: the BigGAN-PyTorch checkpoint that the transfer began from, folder or generator's file: its
            bank is taken in place of what is left of it.

    Raises:
        UserError: a file that is missing, damaged or of another architecture, names that don't fit, or a
            source that the transfer did not begin from.
    """
    save = find_files(input, weights)
    stored = read_tensors(save.generator)
    plain, unused = plain_statistics(stored, save.generator)
    trained = {key: plain.pop(key) for key in list(plain) if TRAINED.search(key)}
    found = Weights(save.generator, plain, "cGANTransfer generator", _remedy(stored))
    if not trained:
        raise UserError(f"{found.path} holds no transfer parameters (no comb_layer): {found.remedy}.")
    shape = generator_shape(found, save.trained)
    added = Weights(save.generator, trained, found.network, found.remedy)
    count = added.shape("blocks.0.0.bn1.comb_layer_g.weight", 2)[1]
    defaults = numbered("old", shape.classes) + numbered("new", count)
    names = given_or(defaults, classes, save.generator)
    old, new = names[: shape.classes], names[shape.classes :]
    generator, without_use = filled_generator(found, shape, old, needless=NEEDLESS)
    unused += without_use + _append_new(generator, added, new)
    discriminator = None
    if save.discriminator:
        stored = read_tensors(save.discriminator)
        found = Weights(save.discriminator, stored, "cGANTransfer discriminator", _remedy_of_d(stored))
        discriminator, without_use = filled_discriminator(found, TRANSFERRED_DISCRIMINATOR, shape, new)
        unused += without_use
    provenance = save.provenance(FORMAT) | {"unused_keys": dict(sorted(unused.items())), "old_classes": LEFT}
    if source is not None:
        path = find_files(source, None).generator
        provenance["old_classes"] = _take_bank(generator, path, save.generator)
        provenance["source"] = {str(path): files.sha256(path)}
    return generator, discriminator, provenance


def _append_new(generator: Generator, added: Weights, names: Sequence[str]) -> Counter[str]:
    """Append the bank of the new classes; it begins with the statistics of the file, which are theirs."""
    propagation = Propagation(
        len(generator.classes),
        len(names),
        generator.site_widths,
        generator.latent_width,
        normalised="blocks.0.0.bn1.comb_layer_g.u0" in added.tensors,
    )
    unused = added.fill(propagation, PROPAGATION.theirs(len(generator.blocks)), needless=LOGS)
    with blaming(added.path), torch.no_grad():
        bank = generator.new_class_bank(names)
        for own, values in zip(bank.tables(), propagation.eval().tables(), strict=True):
            for parameter, value in zip(own, values, strict=True):
                parameter.copy_(value)
        bank.statistics.load_state_dict(generator.last_bank.statistics.state_dict())
        generator.append(bank.eval())
    return unused


def _take_bank(generator: Generator, path: Path, of: Path) -> str:
    """Put the source's own bank in the first one's place, and tell how near its classes come to the source's.

    Raises:
        UserError: the transfer did not begin from the source in the file `path`.
    """
    source = biggan_pytorch.convert(path)[0]
    remedy = (
        f"{path} is not the checkpoint that the transfer in {of} began from, or the transfer went on to "
        "train all of the generator: name the right one, or leave --source out."
    )
    first = generator.banks[0]
    if (source.resolution, len(source.classes)) != (generator.resolution, generator.first_of_last_bank):
        raise UserError(
            f"it makes {len(source.classes)} classes at {source.resolution} px, where the transfer began "
            f"with {generator.first_of_last_bank} at {generator.resolution} px: {remedy}"
        )
    now, was = generator.state_dict(), source.state_dict()
    frozen = [name for name in now if not name.startswith("banks.") and not name.endswith(".u")]
    other = [name for name in frozen if name not in was or not _as_good_as(now[name], was[name])]
    if other:
        raise UserError(
            f"{len(other)} of {len(frozen)} frozen tensors are others ({', '.join(other[:3])}): {remedy}"
        )
    first.load_state_dict(source.banks[0].state_dict())
    return (
        f"the source's own bank. Its pictures differ by up to {_difference(generator, source):.1e} from the "
        "source's, for the transfer moved the vectors that the frozen layers' spectral norms are estimated "
        "by."
    )


def _as_good_as(now: Tensor, was: Tensor) -> bool:
    return now.shape == was.shape and bool((now - was).abs().max() <= FROZEN_WITHIN * was.abs().max())


@torch.no_grad()
def _difference(generator: Generator, source: Generator) -> float:
    """The largest difference of a few pictures of the source's classes, in [0, 2]."""
    z_NZ = rng.normal((COMPARED, source.dim_z), 0, "old classes")
    y_N = torch.arange(COMPARED) % len(source.classes)
    return max(
        float((generator(z, y) - source(z, y)).abs().max())
        for z, y in zip(z_NZ.split(1), y_N.split(1), strict=True)
    )


def _remedy(stored: Mapping[str, Tensor]) -> str:
    if not any("comb_layer" in key for key in stored):
        if any(key.startswith("new_embed.") for key in stored):
            return (
                "it looks like a discriminator; give its folder, or the generator's file (G_ema.pth, G.pth)"
            )
        return "a generator without them is converted as biggan-pytorch"
    if not any(key.endswith("conv1.u0") for key in stored):
        return "it has no spectral norm, and only networks trained with it can be converted"
    return "name another file, or the format that wrote it"


def _remedy_of_d(stored: Mapping[str, Tensor]) -> str:
    if "embed.weight" in stored:
        return (
            "its classes are the source's (it has 'embed', not 'new_embed'); take the discriminator of "
            "the transfer, or give the generator's file alone"
        )
    return "take the file of the same training run, or give the generator's file alone"
