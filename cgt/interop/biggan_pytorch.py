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

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cgt import files
from cgt.errors import UserError
from cgt.interop.pickles import read_plain_values, read_tensors
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


class KeyMap(NamedTuple):
    """Their names -> ours; {i} is the block, {first} and {second} its two sites, {last} the output norm."""

    layers: Mapping[str, str]
    """Spectrally normalised layers: each name stands for the tensors of NORMALISED_LAYER."""
    tensors: Mapping[str, str]

    def theirs(self, blocks: int) -> dict[str, str]:
        """Our tensor names -> theirs for so many blocks, among them names that a network may lack."""
        rows = dict(self.tensors)
        for theirs, ours in self.layers.items():
            rows.update(
                {theirs + ending: ours + our_ending for ending, our_ending in NORMALISED_LAYER.items()}
            )
        return {
            ours.format(i=i, first=2 * i, second=2 * i + 1, last=2 * blocks): theirs.format(i=i)
            for i in range(blocks)
            for theirs, ours in rows.items()
        }


NORMALISED_LAYER = {".weight": ".weight", ".u0": ".u", ".bias": ".bias"}
TRUNK_LAYERS = {
    "linear": "linear",
    "blocks.{i}.0.conv1": "blocks.{i}.conv1",
    "blocks.{i}.0.conv2": "blocks.{i}.conv2",
    "blocks.{i}.0.conv_sc": "blocks.{i}.shortcut",
    "blocks.{i}.1.theta": "attention.{i}.query",
    "blocks.{i}.1.phi": "attention.{i}.key",
    "blocks.{i}.1.g": "attention.{i}.value",
    "blocks.{i}.1.o": "attention.{i}.out",
}
TRUNK_TENSORS = {"blocks.{i}.1.gamma": "attention.{i}.gain"}
GENERATOR_LAYERS = {**TRUNK_LAYERS, "output_layer.2": "to_rgb"}
GENERATOR_TENSORS = {
    **TRUNK_TENSORS,
    "output_layer.0.gain": "output_affine.gain",
    "output_layer.0.bias": "output_affine.bias",
    "output_layer.0.stored_mean": "banks.0.statistics.{last}.mean",
    "output_layer.0.stored_var": "banks.0.statistics.{last}.var",
    "blocks.{i}.0.bn1.stored_mean": "banks.0.statistics.{first}.mean",
    "blocks.{i}.0.bn1.stored_var": "banks.0.statistics.{first}.var",
    "blocks.{i}.0.bn2.stored_mean": "banks.0.statistics.{second}.mean",
    "blocks.{i}.0.bn2.stored_var": "banks.0.statistics.{second}.var",
}
SITES = {
    "blocks.{i}.0.bn1.gain": "banks.0.scale.{first}",
    "blocks.{i}.0.bn1.bias": "banks.0.shift.{first}",
    "blocks.{i}.0.bn2.gain": "banks.0.scale.{second}",
    "blocks.{i}.0.bn2.bias": "banks.0.shift.{second}",
}
PER_LAYER = KeyMap(
    layers=GENERATOR_LAYERS,
    tensors={**GENERATOR_TENSORS, **{f"{theirs}.weight": ours for theirs, ours in SITES.items()}},
)
SHARED = KeyMap(
    layers={**GENERATOR_LAYERS, **SITES},
    tensors={**GENERATOR_TENSORS, "shared.weight": "banks.0.embedding.weight"},
)
DISCRIMINATOR = KeyMap(layers={**TRUNK_LAYERS, "embed": "embedding"}, tensors=TRUNK_TENSORS)

LOGS = re.compile(r"\.sv\d+$|\.u[1-9]\d*$")
"""Singular values, and the vectors of all but the largest: the original computes with neither."""
NORM_COUNTERS = (".bn.accumulation_counter", ".bn.num_batches_tracked")


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
    path = _generator_file(input, weights)
    state = _training_state(_of_same_save(path, "state_dict"))
    stored = read_tensors(path)
    found = Weights(
        path, _plain_statistics(stored, path), "BigGAN-PyTorch generator", _remedy(stored, "generator")
    )
    config, resolution, count = _generator_shape(found, state.get("config", {}))
    names = _names(classes, count, path)
    with _blaming(path):
        generator = Generator(config, resolution, names)
    keys = SHARED if config.shared_dim else PER_LAYER
    unused = found.fill(generator, keys.theirs(_blocks(found)), needless=LOGS)
    unused += Counter(key.rpartition(".")[2] for key in stored if key.endswith(NORM_COUNTERS))
    sources, discriminator = [path], None
    beside = _of_same_save(path, "D")
    if input.is_dir() and beside.is_file():
        stored = read_tensors(beside)
        found = Weights(beside, stored, "BigGAN-PyTorch discriminator", _remedy(stored, "discriminator"))
        with _blaming(beside):
            discriminator = Discriminator(
                _discriminator_shape(found, resolution, count, config.init), resolution, names
            )
        unused += found.fill(discriminator.eval(), DISCRIMINATOR.theirs(_blocks(found)), needless=LOGS)
        sources.append(beside)
    provenance = {
        "format": "biggan-pytorch",
        "files": {source.name: files.sha256(source) for source in sources},
        "training": {key: state[key] for key in ("itr", "epoch", "best_IS", "best_FID") if key in state},
        "unused_keys": dict(sorted(unused.items())),
    }
    return generator.eval(), discriminator, provenance


def _generator_file(path: Path, weights: Path | None) -> Path:
    if not path.exists():
        raise UserError(f"there is nothing at {path}: give a checkpoint folder, or a generator's .pth file.")
    if path.is_file():
        if weights is not None:
            raise UserError(
                f"{path} is a file, so --weights {weights} means nothing: give the folder, or leave it out."
            )
        return path
    choices = [path / weights, weights] if weights is not None else [path / "G_ema.pth", path / "G.pth"]
    for choice in choices:
        if choice.is_file():
            return choice
    there = ", ".join(sorted(file.name for file in path.glob("*.pth"))) or "no .pth file at all"
    wanted = weights or "G_ema.pth or G.pth"
    raise UserError(
        f"{path} holds no {wanted} (there is: {there}): name the generator's file with --weights FILE."
    )


def _of_same_save(generator: Path, name: str) -> Path:
    """The file that was saved with a generator's: G_ema_best0.pth -> D_best0.pth."""
    return generator.with_name(re.sub(r"^G(_ema)?(?=[_.])", name, generator.name))


def _training_state(path: Path) -> dict[str, Any]:
    """The plain values of `state_dict.pth`; none where it is missing or damaged: one can do without."""
    try:
        return read_plain_values(path)
    except UserError:
        return {}


def _remedy(stored: Mapping[str, Tensor], expected: str) -> str:
    if any("comb_layer" in key for key in stored):
        return "it holds the transfer parameters of cGANTransfer, which is another format"
    if not any(key.endswith(".u0") for key in stored):
        return (
            "it has no spectral norm (no key ends in .u0), and only networks trained with it can be converted"
        )
    if expected == "discriminator":
        return "take the file of the same training run, or give the generator's file alone"
    if "embed.weight" in stored:
        return "it looks like a discriminator; give its folder, or the generator's file (G_ema.pth, G.pth)"
    return "name another file, or the format that wrote it"


def _plain_statistics(stored: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors with batch-norm statistics in the plain spelling, sums divided by their number."""
    plain = {}
    for key, value in stored.items():
        if key.endswith(NORM_COUNTERS):
            continue
        site, _, name = key.rpartition(".bn.")
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
    return plain


def _blocks(found: Weights) -> int:
    """How many blocks there are."""
    found.shape("blocks.0.0.conv1.weight", 4)
    return len({key.split(".")[1] for key in found.tensors if key.startswith("blocks.")})


def _attention(found: Weights) -> list[int]:
    """The blocks that attention follows."""
    return [i for i in range(_blocks(found)) if f"blocks.{i}.1.theta.weight" in found.tensors]


def _generator_shape(found: Weights, trained: Mapping[str, Any]) -> tuple[GeneratorConfig, int, int]:
    """Config, resolution and number of classes."""
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
    with _blaming(found.path):
        config = GeneratorConfig(
            **_widths(GENERATOR_LAYOUTS.get(resolution, ()), widths),
            dim_z=latent * (blocks + 1) if chunk else latent,
            shared_dim=shared_dim,
            hierarchical=chunk > 0,
            attention=tuple(bottom << (i + 1) for i in _attention(found)),
            # By default those of the ImageNet and of the CIFAR recipe.
            init=inits.get(trained.get("G_init"), "orthogonal" if shared_dim else "normal"),
            # The original's output norm has 1e-5 whatever BN_eps says, as all norms of its recipes have.
            bn_eps=eps if isinstance(eps, float) else 1e-5,
        )
    return config, resolution, count


def _discriminator_shape(found: Weights, resolution: int, count: int, init: Init) -> DiscriminatorConfig:
    blocks = _blocks(found)
    widths = tuple(found.shape(f"blocks.{i}.0.conv1.weight", 4)[0] for i in range(blocks))
    published, halvings = DISCRIMINATOR_LAYOUTS.get(resolution, ((), 0))
    layout = _widths(published, widths)
    if "channels" in layout:
        halvings = blocks - 1
    classes = found.shape("embed.weight", 2)[0]
    if classes != count:
        raise UserError(
            f"{found.path}: 'embed.weight' knows {classes} classes, the generator {count}, and they must be "
            "the same: the files are not of one training run. To convert the generator alone, give its file."
        )
    attention = tuple(resolution >> min(i + 1, halvings) for i in _attention(found))
    return DiscriminatorConfig(**layout, attention=attention, init=init)


def _widths(published: Sequence[int], widths: tuple[int, ...]) -> dict[str, Any]:
    """The option for these widths: `ch` where they are multiples of the published ones, else `channels`."""
    ch = widths[-1] // published[-1] if published else 0
    return {"ch": ch} if widths == tuple(ch * unit for unit in published) else {"channels": widths}


def _names(classes: Sequence[str] | None, count: int, path: Path) -> list[str]:
    if classes is None:
        digits = max(3, len(str(count - 1)))
        return [f"class_{i:0{digits}d}" for i in range(count)]
    if len(classes) != count:
        raise UserError(
            f"{len(classes)} class names are given, and {path} has {count} classes: "
            "give one name for each, in the order of its labels."
        )
    return list(classes)


@contextlib.contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Tell what a network objects to, in shape or names, as a fault of the conversion of `path`."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path} can't be converted: {error}") from None
