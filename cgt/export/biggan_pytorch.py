"""Checkpoints that BigGAN-PyTorch (github.com/ajbrock/BigGAN-PyTorch) loads with strict=True.

    G_ema.pth        the generator; it has one bank, for the program knows no more
    D.pth            the discriminator, where the program can have it
    state_dict.pth   the options that the networks are built with, as `config`

The names are those by which such checkpoints are read (`cgt.interop.biggan_keys`), so that what was converted
comes back to the bit, with two exceptions. `sv0` is a log of the program's, and becomes the spectral norm
that the layer's weight is divided by. The output norm's variance goes to and fro between our epsilon and the
program's, which there is 1e-5 whatever the others have: where ours is smaller, a few variances come back
rounded in their last bit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cgt.errors import UserError
from cgt.export.base import Model, Options, Written
from cgt.export.parity import measure
from cgt.files import FolderKind
from cgt.interop import biggan_pytorch as way_in
from cgt.interop.biggan_keys import (
    DEEP_DISCRIMINATOR,
    DISCRIMINATOR,
    OUTPUT_EPS,
    OUTPUT_VARIANCE,
    PER_LAYER,
)
from cgt.interop.biggan_networks import generator_keys
from cgt.models.banks import with_classes
from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.models.layers import SpectralNormalised
from cgt.models.layouts import (
    GENERATOR_LAYOUTS,
    multiplier,
    published_discriminator,
    published_generator,
)

OPTIONS = frozenset({"classes"})
WITH_DISCRIMINATOR = True
KIND = FolderKind("a BigGAN-PyTorch checkpoint", ("G_ema.pth", "state_dict.pth"), ("D.pth", "README.md"))
PROGRAM = """
import torch
from {module} import Generator  # of a checkout of github.com/ajbrock/BigGAN-PyTorch

options = torch.load("state_dict.pth")["config"]
generator = Generator(**options, no_optim=True)
generator.load_state_dict(torch.load("G_ema.pth"), strict=True)
generator.eval()
z = torch.randn(8, generator.dim_z)
y = torch.full((8,), options["n_classes"] - 1)
images = generator(z, generator.shared(y))  # in [-1, 1]
""".strip()
INITS = {"orthogonal": "ortho", "normal": "N02"}
BEGINNING = {"itr": 0, "epoch": 0, "save_num": 0, "save_best_num": 0, "best_IS": 0.0, "best_FID": 999999.0}
"""What the program's state_dict.pth counts."""


def export(model: Model, folder: Path, options: Options) -> Written:
    """Write the files.

    Raises:
        UserError: the program has no such generator.
        RunError: what is read again makes other pictures.
    """
    generator = model.generator
    if options.classes is not None:
        generator = with_classes(generator, options.classes)
    files, missing = checkpoint(generator, model.discriminator)
    for name, content in files.items():
        torch.save(content, folder / name)
    parity = None
    if options.verify:
        again, _, _ = way_in.convert(folder, classes=generator.classes)
        parity = measure(model.generator, generator.classes, again)
    return Written(
        about="A checkpoint as BigGAN-PyTorch writes it, with every key that its strict loading asks for. "
        "Raw weights and the vectors of spectral norm are there, so that it can be trained on: copy "
        "`G_ema.pth` to `G.pth` and load with `load_optim=False`, for optimisers begin anew.",
        needs="torch and BigGAN-PyTorch",
        program=PROGRAM.format(module=_module(generator)),
        classes=tuple(generator.classes),
        parity=parity,
        notes={"D.pth": f"left out: {missing}"} if missing else {},
    )


def checkpoint(
    generator: Generator, discriminator: Discriminator | None
) -> tuple[dict[str, dict[str, Any]], str | None]:
    """The content of the files by name, and why D.pth is not among them, where it is not.

    Args:
        generator: as `load_model` gives it.
        discriminator: likewise.

    Raises:
        UserError: the program has no such generator; it says all that is in the way.
    """
    if faults := _faults(generator):
        raise UserError(f"BigGAN-PyTorch has no such generator: {'; and '.join(faults)}.")
    missing = _fault_of_discriminator(discriminator, generator)
    if missing:
        discriminator = None
    keys = generator_keys(generator.config) if _is_embedding(generator) else PER_LAYER
    weights = _as_theirs(generator, keys.theirs(len(generator.blocks)))
    weights[OUTPUT_VARIANCE] += generator.config.bn_eps - OUTPUT_EPS
    files: dict[str, dict[str, Any]] = {
        "G_ema.pth": weights,
        "state_dict.pth": {**BEGINNING, "config": built_with(generator, discriminator)},
    }
    if discriminator is not None:
        keys = DEEP_DISCRIMINATOR if discriminator.config.deep else DISCRIMINATOR
        files["D.pth"] = _as_theirs(discriminator, keys.theirs(len(discriminator.blocks)))
    return files, missing


def built_with(generator: Generator, discriminator: Discriminator | None) -> dict[str, Any]:
    """What the program's `Generator` and `Discriminator` are built with, by its names."""
    config, resolution = generator.config, generator.resolution
    shared = _is_embedding(generator)
    values: dict[str, Any] = {
        "model": _module(generator),
        "resolution": resolution,
        "n_classes": len(generator.classes),
        "dim_z": config.dim_z,
        "G_ch": multiplier(config.widths(resolution), published_generator(resolution, deep=config.deep)),
        "G_attn": _sizes(config.attention),
        "G_shared": shared,
        "shared_dim": config.shared_dim if shared else 0,
        "hier": shared and config.hierarchical,
        "G_init": INITS[config.init],
        "BN_eps": config.bn_eps,
        "SN_eps": SpectralNormalised.eps,
    }
    if discriminator is not None:
        widths, _ = discriminator.config.layout(resolution)
        values |= {
            "D_ch": multiplier(
                widths, published_discriminator(resolution, deep=discriminator.config.deep)[0]
            ),
            "D_attn": _sizes(discriminator.config.attention),
            "D_init": INITS[discriminator.config.init],
        }
    return values


def _faults(generator: Generator) -> list[str]:
    """Why the program can't have the generator."""
    faults = []
    count, resolution, kind = len(generator.banks), generator.resolution, generator.last_bank.kind
    if count > 1:
        faults.append(
            f"it has {count} class banks, each with batch-norm statistics of its own, and the program one: "
            "name the classes of one bank with --classes (old, new, or names)"
        )
    elif kind not in ("tables", "embedding"):
        faults.append(f"its classes, of a {kind} bank, are made of z, where the program's are fixed")
    elif kind == "tables" and generator.config.hierarchical:
        faults.append(
            "its classes are plain tables beside a hierarchical z, as a transfer leaves them; the program "
            "makes such classes of a shared embedding: of this model, the source's can go back (--classes)"
        )
    widths, deep = generator.config.widths(resolution), generator.config.deep
    published: tuple[int, ...] = ()
    if resolution in GENERATOR_LAYOUTS and (resolution < 512 or not deep):
        published = published_generator(resolution, deep=deep)
    if not multiplier(widths, published):
        faults.append(_of_other_widths(widths, published, resolution))
    if generator.levelled:
        faults.append(
            "its batch-norm statistics go by truncation, where the program has running averages: there is no "
            "way round"
        )
    if any(layer.u is None for layer in _normalised(generator).values()):
        faults.append(
            "its spectral norms are folded into the weights: export the model that it was folded from"
        )
    return faults


def _fault_of_discriminator(discriminator: Discriminator | None, generator: Generator) -> str | None:
    """Why the program can't have the discriminator, or None."""
    if discriminator is None:
        return "the model has no discriminator"
    if discriminator.classes != generator.classes:
        return "the discriminator knows other classes than the generator"
    if not discriminator.config.projection:
        return "the discriminator does not look at classes"
    resolution = discriminator.resolution
    deep = discriminator.config.deep
    if deep != generator.config.deep:
        return "of discriminator and generator one is of BigGAN-deep"
    widths, halvings = discriminator.config.layout(resolution)
    published: tuple[int, ...] = ()
    halved = 0
    if resolution in GENERATOR_LAYOUTS and resolution < 512:
        published, halved = published_discriminator(resolution, deep=deep)
    if not multiplier(widths, published):
        return f"of the discriminator, {_of_other_widths(widths, published, resolution)}"
    if halvings != halved:
        return f"the discriminator halves the size in {halvings} blocks, and the program's in {halved}"
    # What the program calls the sizes of its blocks, or pairs of blocks: at 32 px it says 16 of all.
    blocks = len(widths) // 2 if deep else len(widths)
    sizes = [resolution >> min(block + 1, halvings if resolution > 32 else 1) for block in range(blocks)]
    if any(sizes.count(size) != 1 for size in discriminator.config.attention):
        return (
            "its attention stands after one of several blocks of a size, and the program's after all of them"
        )
    return None


def _of_other_widths(widths: Sequence[int], published: Sequence[int], resolution: int) -> str:
    layout = f"multiples of {', '.join(map(str, published))}" if published else "no networks"
    return f"the widths are {', '.join(map(str, widths))}, and the program has {layout} at {resolution} px"


def _module(generator: Generator) -> str:
    """The program's module for the networks."""
    return "BigGANdeep" if generator.config.deep else "BigGAN"


def _is_embedding(generator: Generator) -> bool:
    return generator.last_bank.kind == "embedding"


def _sizes(attention: Sequence[int]) -> str:
    return "_".join(map(str, attention)) or "0"


@torch.no_grad()
def _as_theirs(network: nn.Module, keys: Mapping[str, str]) -> dict[str, Tensor]:
    """Every tensor by the program's name, on the CPU."""
    renamed = {}
    for ours, value in network.state_dict().items():
        # The program multiplies by u0 as a matrix of one row.
        renamed[keys[ours]] = (value[None] if keys[ours].endswith(".u0") else value).cpu().clone()
    for name, layer in _normalised(network).items():
        log = keys[f"{name}.u"].removesuffix("u0") + "sv0"
        renamed[log] = _spectral_norm(layer).reshape(1).cpu()
    return renamed


def _normalised(network: nn.Module) -> dict[str, SpectralNormalised]:
    return {
        name: module for name, module in network.named_modules() if isinstance(module, SpectralNormalised)
    }


def _spectral_norm(layer: SpectralNormalised) -> Tensor:
    """sigma, as the layer estimates it in eval mode."""
    weight, normalised = layer.weight.flatten(), layer.normalised_weight().flatten()
    largest = weight.abs().argmax()
    return weight[largest] / normalised[largest]
