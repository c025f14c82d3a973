"""Convolutions, spectral norm and attention, as BigGAN has them (Brock et al., 2019; Zhang et al., 2019).

Shapes: N samples, C channels, H rows, W columns, O output and I input features of a weight seen as a matrix.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize


class SpectralNorm(nn.Module):
    """weight / sigma, where sigma is one power iteration's estimate of the largest singular value of the (O, I) matrix.

    It differs from `torch.nn.utils.parametrizations.spectral_norm` in what published BigGAN checkpoints rely on: only the left vector is
    kept, sigma is computed anew at every forward, in eval mode too, and the estimate takes the right vector first.
    """

    u: Tensor

    def __init__(self, rows: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("u", F.normalize(torch.randn(rows), dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        weight_OI = weight.flatten(1)
        with torch.no_grad():
            v_I = F.normalize(weight_OI.t().mv(self.u), dim=0, eps=self.eps)
            u_O = F.normalize(weight_OI.mv(v_I), dim=0, eps=self.eps)
            if self.training:
                self.u.copy_(u_O)
        sigma = torch.dot(u_O, weight_OI.mv(v_I))
        return weight / sigma


def spectrally_normalised(module: nn.Module) -> nn.Module:
    """Give `module.weight` spectral norm, in place; returns the module."""
    assert isinstance(module.weight, Tensor)
    parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight.shape[0]), unsafe=True)
    return module


def fold_spectral_norm(network: nn.Module) -> None:
    """Replace every spectrally normalised weight of `network`, which must be in eval mode, by its normalised value, in place."""
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            assert not module.training
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def conv3x3(inputs: int, outputs: int) -> nn.Module:
    """A spectrally normalised 3x3 convolution that keeps the size."""
    return spectrally_normalised(nn.Conv2d(inputs, outputs, 3, padding=1))


def conv1x1(inputs: int, outputs: int, *, bias: bool = True) -> nn.Module:
    """A spectrally normalised 1x1 convolution."""
    return spectrally_normalised(nn.Conv2d(inputs, outputs, 1, bias=bias))


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Module:
    """A spectrally normalised linear layer."""
    return spectrally_normalised(nn.Linear(inputs, outputs, bias=bias))


class SelfAttention(nn.Module):
    """Self-attention over the pixels, added to the input with a gain that starts at 0 (SAGAN, as BigGAN uses it)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = conv1x1(channels, channels // 8, bias=False)
        self.key = conv1x1(channels, channels // 8, bias=False)
        self.value = conv1x1(channels, channels // 2, bias=False)
        self.out = conv1x1(channels // 2, channels, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        _, _, height, width = x_NCHW.shape
        query = self.query(x_NCHW).flatten(2).mT
        key = F.max_pool2d(self.key(x_NCHW), 2).flatten(2).mT
        value = F.max_pool2d(self.value(x_NCHW), 2).flatten(2).mT
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x_NCHW + self.gain * self.out(attended.mT.unflatten(2, (height, width)))


def initialise(network: nn.Module, init: str) -> None:
    """Draw all convolution, linear and embedding weights anew, from torch's global generator; biases stay as torch makes them.

    Args:
        network: initialised in place.
        init: "orthogonal" (BigGAN on ImageNet) or "normal" (N(0, 0.02), BigGAN on CIFAR).
    """
    draw = {"orthogonal": nn.init.orthogonal_, "normal": lambda weight: nn.init.normal_(weight, 0, 0.02)}[init]
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.Embedding)):
            parametrizations = getattr(module, "parametrizations", None)
            draw(parametrizations.weight.original if parametrizations else module.weight)
