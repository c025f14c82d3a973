"""Names in checkpoints of BigGAN-PyTorch, and of cGANTransfer which grew out of it, beside ours.

This is data, and serves both ways: reading their files and writing them.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple


class KeyMap(NamedTuple):
    """Their names -> ours.

    {i} is the block, {first}, {second} and so on are its sites, {last} is the output norm; {pair} and {place}
    are the block's where they count pairs of blocks.
    """

    layers: Mapping[str, str]
    """Spectrally normalised layers: each name stands for the tensors of NORMALISED_LAYER."""
    tensors: Mapping[str, str]
    sites: int = 2
    """Of a block."""

    def theirs(self, blocks: int) -> dict[str, str]:
        """Our tensor names -> theirs for so many blocks, among them names that a network may lack."""
        rows = dict(self.tensors)
        for theirs, ours in self.layers.items():
            rows.update(
                {theirs + ending: ours + our_ending for ending, our_ending in NORMALISED_LAYER.items()}
            )
        names: dict[str, str] = {}
        for i in range(blocks):
            places = {
                site: self.sites * i + k for k, site in enumerate(("first", "second", "third", "fourth"))
            }
            places |= {"i": i, "last": self.sites * blocks, "pair": i // 2, "place": i % 2}
            names |= {ours.format(**places): theirs.format(**places) for theirs, ours in rows.items()}
        return names


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

DEEP_CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4")
DEEP_NORMS = (("bn1", "first"), ("bn2", "second"), ("bn3", "third"), ("bn4", "fourth"))
DEEP = KeyMap(
    layers={
        **{f"blocks.{{i}}.0.{conv}": f"blocks.{{i}}.{conv}" for conv in DEEP_CONVOLUTIONS},
        **{key: ours for key, ours in TRUNK_LAYERS.items() if key.startswith("blocks.{i}.1.")},
        **{f"blocks.{{i}}.0.{norm}.gain": f"banks.0.scale.{{{site}}}" for norm, site in DEEP_NORMS},
        **{f"blocks.{{i}}.0.{norm}.bias": f"banks.0.shift.{{{site}}}" for norm, site in DEEP_NORMS},
        "output_layer.2": "to_rgb",
    },
    tensors={
        **{key: ours for key, ours in GENERATOR_TENSORS.items() if ".bn" not in key},
        **{
            f"blocks.{{i}}.0.{norm}.stored_{theirs}": f"banks.0.statistics.{{{site}}}.{theirs}"
            for norm, site in DEEP_NORMS
            for theirs in ("mean", "var")
        },
        "shared.weight": "banks.0.embedding.weight",
        "linear.weight": "banks.0.first.0.weight",
        "linear.u0": "banks.0.first.0.u",
        "linear.bias": "linear.bias",
    },
    sites=4,
)
"""Of BigGAN-deep, whose first layer is a site of the bank."""
DEEP_DISCRIMINATOR = KeyMap(
    layers={
        "input_conv": "stem",
        **{
            f"blocks.{{pair}}.{{place}}.{theirs}": f"blocks.{{i}}.{ours}"
            for theirs, ours in (*((conv, conv) for conv in DEEP_CONVOLUTIONS), ("conv_sc", "shortcut"))
        },
        **{
            key.replace("{i}.1", "{pair}.2"): ours
            for key, ours in TRUNK_LAYERS.items()
            if key.startswith("blocks.{i}.1.")
        },
        "linear": "linear",
        "embed": "embedding",
    },
    tensors={"blocks.{pair}.2.gamma": "attention.{i}.gain"},
)

TRANSFERRED_DISCRIMINATOR = KeyMap(layers={**TRUNK_LAYERS, "new_embed": "embedding"}, tensors=TRUNK_TENSORS)

OUTPUT_VARIANCE = "output_layer.0.stored_var"
OUTPUT_EPS = 1e-5
"""What the original's output norm adds to the variance; BN_eps, its option, is for the other norms alone."""

LOGS = re.compile(r"\.sv\d+$|\.u[1-9]\d*$")
"""Singular values, and the vectors of all but the largest: the original computes with neither."""
NORM_COUNTERS = (".bn.accumulation_counter", ".bn.num_batches_tracked")

PROPAGATION = KeyMap(
    layers={
        f"blocks.{{i}}.0.{norm}.{theirs}_{kind}": f"sites.{{{site}}}.{table}.{ours}"
        for norm, site in (("bn1", "first"), ("bn2", "second"))
        for kind, table in (("g", "scale"), ("b", "shift"))
        for theirs, ours in (
            ("comb_layer", "scores"),
            ("prev_knowledge", "prior"),
            ("z_layer", "latent"),
            ("res", "residuals"),
        )
    },
    tensors={},
)
"""What cGANTransfer trains at every site -> `cgt.interop.propagation`."""
