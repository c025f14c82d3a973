"""Weights and pictures that are drawn alike on every machine, and what the original programs make of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cgt import rng
from cgt.metrics.features import Features

PARITY = Path(__file__).with_name("parity.npz")
SIZES = (32, 320)
"""Pixels of the pictures: the resize enlarges the first and shrinks the second."""


def drawn_weights(network: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Values for every tensor of a network, which keep its activations near 1 from layer to layer."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in network().state_dict().items()}
    drawn = {}
    for name, shape in shapes.items():
        noise = rng.normal(tuple(shape), 0, f"weights {name}")
        if name.endswith("num_batches_tracked"):
            drawn[name] = torch.tensor(0)
        elif name.endswith(("bn.weight", "running_var")):
            drawn[name] = (0.2 * noise).exp()
        elif name.endswith(("bn.bias", "running_mean", "fc.bias")):
            drawn[name] = 0.2 * noise
        else:
            drawn[name] = noise * (2 / shape[1:].numel()) ** 0.5
    return drawn


def pictures(size: int) -> Tensor:
    """Two of noise, uint8."""
    return (
        rng.integers(2 * 3 * size * size, 256, 0, f"pictures {size}").view(2, 3, size, size).to(torch.uint8)
    )


def parity(extractor: str) -> dict[int, Features]:
    """What the original program makes of the pictures of each size, with drawn weights."""
    with np.load(PARITY) as arrays:
        return {
            size: Features(
                *(torch.from_numpy(arrays[f"{extractor}/{size}/{what}"]) for what in ("pooled", "logits"))
            )
            for size in SIZES
        }


def relative_error(value: Tensor, expected: Tensor) -> float:
    """The largest difference, over the root mean square of what is expected."""
    return float((value - expected).abs().max() / expected.square().mean().sqrt())
