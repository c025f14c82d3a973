"""BigGAN-deep as pytorch-pretrained-BigGAN has it (github.com/huggingface/pytorch-pretrained-BigGAN).

A folder with `config.json` and `pytorch_model.bin`: DeepMind's generators of 128, 256 and 512 px, whose
discriminators were never published. What differs from a generator of ours:

* The statistics of batch norm are there for 51 truncations of z, and so they are here: `Generator.levelled`.
* Spectral norms are torch's former ones, weight / (u^T weight v) with both vectors stored. Weights are taken
  as they are after the norm: the generator is folded, its embedding aside.
* The condition is [z, class], here [class, z]; the first layer's outputs are pixels by channels, here
  channels by pixels; of the output layer's channels, three are used, and the others are left out.

Shapes: F outputs of the first layer, I its inputs.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from cgt import files
from cgt.errors import UserError
from cgt.interop.biggan_files import generator_file
from cgt.interop.biggan_networks import blaming, widths_option
from cgt.interop.class_names import given_or, numbered
from cgt.interop.pickles import read_tensors
from cgt.interop.weights import Weights
from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.models.layouts import GeneratorConfig, published_generator
from cgt.models.norm import EmbeddedBank

FORMAT = "hf-biggan"
OPTIONS: frozenset[str] = frozenset()
CONFIG, WEIGHTS = "config.json", "pytorch_model.bin"
BOTTOM = 4
"""Pixels that the first map is wide and high."""

BLOCK_LAYERS = {"conv_0": "conv1", "conv_1": "conv2", "conv_2": "conv3", "conv_3": "conv4"}
ATTENTION_LAYERS = {
    "snconv1x1_theta": "query",
    "snconv1x1_phi": "key",
    "snconv1x1_g": "value",
    "snconv1x1_o_conv": "out",
}
TENSORS = {
    "embeddings.weight": "banks.0.embedding.weight",
    "generator.gen_z.weight": "banks.0.first.0.weight",
    "generator.gen_z.bias": "linear.bias",
    "generator.bn.running_means": "banks.0.statistics.{last}.mean",
    "generator.bn.running_vars": "banks.0.statistics.{last}.var",
    "generator.bn.weight": "output_affine.gain",
    "generator.bn.bias": "output_affine.bias",
    "generator.conv_to_rgb.weight": "to_rgb.weight",
    "generator.conv_to_rgb.bias": "to_rgb.bias",
}
NEEDLESS = re.compile(r"(?!)")
"""No key: each of them is used."""
REMEDY = "take the folder as it was published, with its own config.json"


class Config(BaseModel):
    """What is used of `config.json`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    output_dim: int = Field(ge=1)
    z_dim: int = Field(ge=1)
    class_embed_dim: int = Field(ge=1)
    num_classes: int = Field(ge=1)
    n_stats: int = Field(ge=2)
    layers: tuple[tuple[bool, int, int], ...] = Field(min_length=2)
    """Of every block: whether it doubles the size, and its inputs and outputs in units of the width."""
    channel_width: int = Field(ge=1)
    attention_layer_position: int
    eps: float = Field(gt=0, allow_inf_nan=False)

    @property
    def attention(self) -> tuple[int, ...]:
        """The size of the map that attention stands at."""
        before = [doubles for doubles, _, _ in self.layers[: self.attention_layer_position]]
        there = 0 < self.attention_layer_position < len(self.layers)
        return (BOTTOM << sum(before),) if there else ()


def convert(
    input: Path,  # noqa: A002 - the signature of every format
    *,
    weights: Path | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[Generator, Discriminator | None, dict[str, Any]]:
    """The generator, folded but for its embedding, in eval mode and float32, and what is known of its origin.

    Args:
        input: the folder, or its file with weights.
        weights: the file with weights, absolute or in the folder; by default pytorch_model.bin.
        classes: their names; by default class_000 and so on.

    Raises:
        UserError: a file that is missing, damaged or of another architecture, or names that don't fit.
    """
    path = generator_file(input, weights, (WEIGHTS,))
    config = _read_config(path.with_name(CONFIG))
    stored = _normalised(read_tensors(path), path)
    found = Weights(path, stored, "pytorch-pretrained-BigGAN generator", REMEDY)
    _require_config_s_sizes(found, config)
    names = given_or(numbered("class", config.num_classes), classes, path)
    with blaming(path):
        generator = Generator(_shape(config), config.output_dim, names)
        generator.banks[0] = EmbeddedBank(
            names, shared=config.class_embed_dim, levels=config.n_stats, **generator.bank_shape
        )
    generator.eval().fix_norms()
    ours = {**stored, **_rearranged(found, config.class_embed_dim)}
    unused = Weights(path, ours, found.network, REMEDY).fill(generator, _names(config), needless=NEEDLESS)
    provenance = {
        "format": FORMAT,
        "files": {file.name: files.sha256(file) for file in (path.with_name(CONFIG), path)},
        "left_out": [],
        "training": {},
        "unused_keys": dict(sorted(unused.items())),
    }
    return generator, None, provenance


def _read_config(path: Path) -> Config:
    try:
        return Config.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(
            f"there is no {path}, which tells where the generator doubles the size: {REMEDY}."
        ) from None
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UserError(f"{path} is no config of pytorch-pretrained-BigGAN ({faults}): {REMEDY}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): {REMEDY}.") from None


def _require_config_s_sizes(found: Weights, config: Config) -> None:
    """Refuse tensors that are not of the sizes in `config.json`.

    Raises:
        UserError: naming one that is not.
    """
    condition = config.z_dim + config.class_embed_dim
    first = BOTTOM**2 * config.layers[0][1] * config.channel_width
    for key, shape in {
        "embeddings.weight": (config.class_embed_dim, config.num_classes),
        "generator.gen_z.weight": (first, condition),
        "generator.bn.running_means": (config.n_stats, found.shape("generator.bn.running_means", 2)[1]),
    }.items():
        if found.shape(key, 2) != shape:
            raise UserError(
                f"{found.path}: {key!r} has the shape {found.shape(key, 2)}, and by {CONFIG} it is {shape}: "
                f"{REMEDY}."
            )


def _shape(config: Config) -> GeneratorConfig:
    """The shape of the generator.

    Raises:
        ValueError: blocks that BigGAN-deep of ours has not.
    """
    doubling = [doubles for doubles, _, _ in config.layers]
    if doubling != [i % 2 == 1 for i in range(len(doubling))]:
        raise ValueError(
            f"config.json doubles the size in blocks {[i for i, doubles in enumerate(doubling) if doubles]}, "
            f"and every second one of {len(doubling)} is supported: there is no way round"
        )
    if config.output_dim != BOTTOM << sum(doubling):
        raise ValueError(
            f"{CONFIG} says output_dim {config.output_dim}, and {BOTTOM} px doubled {sum(doubling)} times "
            f"are {BOTTOM << sum(doubling)} px: mend it"
        )
    position = config.attention_layer_position
    if 0 <= position < len(doubling) and not (position and doubling[position - 1]):
        raise ValueError(
            f"{CONFIG} says attention_layer_position {position}, and attention must stand behind a block "
            f"that doubles the size, at an even position from 2: {REMEDY}"
        )
    widths = [config.layers[0][1], *(outputs for _, _, outputs in config.layers)]
    if any(inputs != width for (_, inputs, _), width in zip(config.layers, widths, strict=False)):
        raise ValueError("config.json has blocks whose inputs are not the outputs of those before: mend it")
    channels = tuple(config.channel_width * width for width in widths)
    return GeneratorConfig(
        deep=True,
        **widths_option(published_generator, config.output_dim, channels, deep=True),
        dim_z=config.z_dim,
        shared_dim=config.class_embed_dim,
        hierarchical=True,
        attention=config.attention,
        init="orthogonal",
        bn_eps=config.eps,
    )


def _normalised(stored: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors with weights as they are after the spectral norm, in place of what it is made of.

    Raises:
        UserError: a vector of a norm that is missing or of another size.
    """
    plain = {key: value for key, value in stored.items() if not re.search(r"\.weight_(orig|u|v)$", key)}
    for key, raw in stored.items():
        name, found, _ = key.partition(".weight_orig")
        if not found:
            continue
        u, v = stored.get(f"{name}.weight_u"), stored.get(f"{name}.weight_v")
        matrix = raw.flatten(1) if raw.dim() > 1 else raw
        if u is None or v is None or matrix.dim() != 2 or (len(u), len(v)) != tuple(matrix.shape):
            raise UserError(
                f"{path}: {name!r} lacks the vectors of its spectral norm, weight_u and weight_v, of the "
                f"sizes of its weight {tuple(raw.shape)}: {REMEDY}."
            )
        plain[f"{name}.weight"] = raw / torch.dot(u, matrix.mv(v))
    return plain


def _rearranged(found: Weights, embedding: int) -> dict[str, Tensor]:
    """What is in another order there: columns of the condition, pixels of the first map, classes, channels.

    Raises:
        UserError: tensors that are missing, or don't fit together.
    """
    for key, dimensions in (
        ("generator.gen_z.bias", 1),
        ("generator.conv_to_rgb.weight", 4),
        ("generator.conv_to_rgb.bias", 1),
    ):
        found.shape(key, dimensions)
    changed = {
        key: torch.cat([weight[:, -embedding:], weight[:, :-embedding]], 1)
        for key, weight in found.tensors.items()
        if re.search(r"\.(scale|offset|gen_z)\.weight$", key) and weight.dim() == 2
    }
    first_FI, bias_F = changed["generator.gen_z.weight"], found.tensors["generator.gen_z.bias"]
    pixels = (BOTTOM, BOTTOM, -1)
    changed["generator.gen_z.weight"] = first_FI.unflatten(0, pixels).permute(2, 0, 1, 3).flatten(0, 2)
    if len(bias_F) != len(first_FI):
        raise UserError(
            f"{found.path}: 'generator.gen_z.bias' has {len(bias_F)} numbers for the {len(first_FI)} rows of "
            f"its weight: {REMEDY}."
        )
    changed["generator.gen_z.bias"] = bias_F.unflatten(0, pixels).permute(2, 0, 1).flatten()
    changed["embeddings.weight"] = found.tensors["embeddings.weight"].t()
    for kind in ("weight", "bias"):
        key = f"generator.conv_to_rgb.{kind}"
        changed[key] = found.tensors[key][:3]
    return changed


def _names(config: Config) -> dict[str, str]:
    """Our tensor names -> theirs."""
    blocks = len(config.layers)
    names = {ours.format(last=4 * blocks): theirs for theirs, ours in TENSORS.items()}
    position = config.attention_layer_position
    for i in range(blocks):
        layer = f"generator.layers.{i + (0 <= position <= i)}"
        for theirs, ours in BLOCK_LAYERS.items():
            names |= {f"blocks.{i}.{ours}.{end}": f"{layer}.{theirs}.{end}" for end in ("weight", "bias")}
        for norm in range(4):
            site = 4 * i + norm
            names |= {
                f"banks.0.scale.{site}.weight": f"{layer}.bn_{norm}.scale.weight",
                f"banks.0.shift.{site}.weight": f"{layer}.bn_{norm}.offset.weight",
                f"banks.0.statistics.{site}.mean": f"{layer}.bn_{norm}.running_means",
                f"banks.0.statistics.{site}.var": f"{layer}.bn_{norm}.running_vars",
            }
    attention = f"generator.layers.{position}"
    for theirs, ours in ATTENTION_LAYERS.items():
        names[f"attention.{position - 1}.{ours}.weight"] = f"{attention}.{theirs}.weight"
    names[f"attention.{position - 1}.gain"] = f"{attention}.gamma"
    return names
