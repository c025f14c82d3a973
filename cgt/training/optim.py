"""Optimisers: one Adam a network, learning rates by group, linear decay."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import nn

from cgt.config import Section


class OptimConfig(Section):
    """How G and D are optimised. Defaults: BigGAN's CIFAR recipe."""

    generator_lr: float = Field(2e-4, gt=0)
    discriminator_lr: float = Field(2e-4, gt=0)
    class_lr_scale: float = Field(1.0, gt=0)
    """Factor on generator_lr for class tables and embeddings."""
    beta1: float = Field(0.0, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    discriminator_steps: int = Field(4, ge=1)
    """D updates per generator update, each on pictures of its own."""
    decay_from: float = Field(1.0, ge=0, le=1)
    """Share of the run after which both learning rates fall linearly to zero; 1 for constant rates."""
    max_grad_norm: float | None = Field(None, gt=0)
    """Each network's gradient is shortened to this length, over all its parameters; None: never."""
    mode_seeking: float = Field(0.0, ge=0)
    """Weight of the mode-seeking term."""
    lecam: float = Field(0.0, ge=0)
    """Weight of `losses.lecam` in D's loss. Its authors' BigGAN has 0.3 on CIFAR, with hinge loss as here
    (github.com/google/lecam-gan, biggan_cifar/scripts)."""


class ParameterGroup(NamedTuple):
    """Parameters that share a learning rate, `lr_scale` times the network's."""

    parameters: Sequence[nn.Parameter]
    lr_scale: float = 1.0


def adam(groups: Sequence[ParameterGroup], lr: float, config: OptimConfig) -> torch.optim.Adam:
    """Adam over `groups`; each group remembers its undecayed rate as `base_lr`."""
    return torch.optim.Adam(
        [
            {"params": list(group.parameters), "lr": lr * group.lr_scale, "base_lr": lr * group.lr_scale}
            for group in groups
        ],
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        foreach=True,
    )


def set_learning_rates(optimiser: torch.optim.Optimizer, step: int, steps: int, decay_from: float) -> None:
    """The rates for `step` (from 0) of `steps`.

    A function of the step alone, so there is no scheduler to resume.
    """
    start = decay_from * steps
    factor = 1.0 if step < start else (steps - step) / (steps - start)
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor
