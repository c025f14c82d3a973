"""What the official cGANTransfer program (github.com/mshahbazi72/cGANTransfer) computes, told in our blocks.

At every site a class y of the new ones and a latent chunk z get (layers.py, `ccbn`)

    gain = 1 + P (S[:, y] + s) + p + Z z + d + R[:, y]

and the shift likewise without the 1. What is odd about it:

* s is one bias for all new classes: `comb_layer_*` are linear layers on one-hot vectors.
* p (CIFAR tree) and d (ImageNet tree) are biases of `prev_knowledge_*` and `z_layer_*`: one number a channel,
  for all new classes.
* In the ImageNet tree, S, P and Z are spectrally normalised at every use, each on its own and without its
  bias; in the CIFAR tree none is. The residuals R never are.
* The new classes' statistics are stored over the source's.
* D has `new_embed` in place of `embed`.

Shapes: N source classes, M new classes, C channels of a site, K latent chunk.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cgt.interop.biggan_keys import PER_LAYER, SHARED, TRANSFERRED_DISCRIMINATOR
from cgt.interop.pickles import read_tensors
from cgt.interop.weights import Weights
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.discriminator import Discriminator, DiscriminatorConfig
from cgt.models.norm import ClassTables
from cgt.transfer.propagation import PropagatedBank

NEEDLESS = re.compile(r"\.sv0$|\.(comb_layer|prev_knowledge|z_layer|res)_[gb]\.\w+$|\.pretrain_embedding_w$")
"""Logs, and what `bank` reads."""


def generator(folder: Path, stored: Mapping[str, Tensor]) -> Generator:
    """The generator of a checkpoint in eval mode: the source's classes in its first bank, the new ones in
    its last.

    Args:
        folder: where config.json is.
        stored: the tensors of G_ema.pth, or what a test made of them; their number type is the generator's.
    """
    made = json.loads((folder / "config.json").read_text())
    config = GeneratorConfig(
        ch=made["G_ch"],
        dim_z=made["dim_z"],
        shared_dim=made["shared_dim"],
        hierarchical=made["hier"],
        attention=_attention(made["G_attn"]),
        bn_eps=made["BN_eps"],
    )
    old = [f"old {n}" for n in range(made["n_pretrain_classes"])]
    network = Generator(config, made["resolution"], old).to(stored["linear.weight"])
    keys = SHARED if made["G_shared"] else PER_LAYER
    found = Weights(folder, stored, "cGANTransfer generator", "")
    found.fill(network, keys.theirs(len(network.blocks)), needless=NEEDLESS)
    new = bank(stored, network.output_affine.gain.numel())
    new.statistics.load_state_dict(network.last_bank.statistics.state_dict())
    network.append(new)
    return network.eval()


def discriminator(folder: Path, dtype: torch.dtype = torch.float32) -> Discriminator:
    """The discriminator of a checkpoint in eval mode; its classes are the new ones."""
    made = json.loads((folder / "config.json").read_text())
    config = DiscriminatorConfig(ch=made["D_ch"], attention=_attention(made["D_attn"]))
    network = Discriminator(config, made["resolution"], [f"new {m}" for m in range(made["n_classes"])])
    network.to(dtype)
    found = Weights(folder, read_tensors(folder / "D.pth"), "cGANTransfer discriminator", "")
    found.fill(network, TRANSFERRED_DISCRIMINATOR.theirs(len(network.blocks)), needless=NEEDLESS)
    return network.eval()


def bank(stored: Mapping[str, Tensor], output_width: int) -> PropagatedBank:
    """The propagation block whose tables are those that the original computes from `stored`."""
    of_scale, of_shift = (list(_sites(stored, kind)) for kind in "gb")
    widths = [site["prior_NC"].shape[1] for site in of_scale]
    hierarchical = "latent_CK" in of_scale[0]
    prior = ClassTables(
        *(tuple(site["prior_NC"] for site in sites) for sites in (of_scale, of_shift)),
        *(tuple(site["latent_CK"] for site in sites if hierarchical) for sites in (of_scale, of_shift)),
    )
    _, n_new = of_scale[0]["scores_NM"].shape
    new = [f"new {m}" for m in range(n_new)]
    start_2NM = torch.stack([of_scale[0]["scores_NM"], of_shift[0]["scores_NM"]])
    block = PropagatedBank(new, prior, output_width, start_2NM, bias=True).to(start_2NM.dtype)
    for group, width in enumerate(sorted(set(widths))):
        stacked = [
            site for sites in (of_scale, of_shift) for site in sites if site["prior_NC"].shape[1] == width
        ]
        with torch.no_grad():
            block.scores[group].copy_(torch.stack([site["scores_NM"] for site in stacked]))
            block.score_bias[group].copy_(torch.stack([site["bias_N1"] for site in stacked]))
            block.residuals[group].copy_(torch.stack([site["residuals_MC"] for site in stacked]))
    return block


def _sites(stored: Mapping[str, Tensor], kind: str) -> Iterator[dict[str, Tensor]]:
    """What every site has for its scale ("g") or its shift ("b")."""
    for key in stored:
        if not key.endswith(f".res_{kind}.weight"):
            continue
        site = key.removesuffix(f"res_{kind}.weight")
        combination, prior, latent = (
            f"{site}{name}_{kind}" for name in ("comb_layer", "prev_knowledge", "z_layer")
        )
        found = {
            "scores_NM": _weight(stored, combination),
            "bias_N1": stored[f"{combination}.bias"][:, None],
            "prior_NC": _weight(stored, prior).T,
            "residuals_MC": stored[key].T,
        }
        if f"{latent}.weight" in stored:
            found["latent_CK"] = _weight(stored, latent)
        for layer in (prior, latent):
            # The same for all classes: as good as a part of every residual.
            if f"{layer}.bias" in stored:
                found["residuals_MC"] = found["residuals_MC"] + stored[f"{layer}.bias"]
        yield found


def _weight(stored: Mapping[str, Tensor], layer: str) -> Tensor:
    """The weight that a layer uses: spectrally normalised if the file has a vector for that."""
    weight = stored[f"{layer}.weight"]
    if f"{layer}.u0" not in stored:
        return weight
    right = F.normalize(stored[f"{layer}.u0"] @ weight)
    left = F.normalize(right @ weight.T)
    return weight / (left @ weight @ right.T)


def _attention(resolutions: str) -> tuple[int, ...]:
    return tuple(int(size) for size in resolutions.split("_") if size != "0")
