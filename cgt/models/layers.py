"""Convolutions, spectral norm and attention, as BigGAN has them (Brock et al., 2019; Zhang et al., 2019).

Shapes: N samples, C channels, H rows, W columns, P pixels, Q pooled pixels, O output and I input features of
a weight seen as a matrix.
"""

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgt.models.frozen import convolved
from cgt.models.recompute import once

N = TypeVar("N", bound=nn.Module)


class SpectralNormalised(nn.Module):
    """Mixed into a layer that has a weight: the weight it uses is weight / sigma.

    sigma is one power iteration's estimate of the largest singular value of the weight as an (O, I) matrix.

    `torch.nn.utils.parametrizations.spectral_norm` can't give what published BigGAN checkpoints rely on:
    there only the left vector u is kept, sigma is computed anew at every forward, in eval mode too, and the
    iteration takes the right vector first.
    """

    weight: Tensor
    u: Tensor | None
    reparametrisation: nn.Module | None
    """What makes the weight to normalise of `weight`; None where that is it."""
    eps = 1e-6

    def add_spectral_norm(self) -> None:
        """Begin with a random left vector u, (O,)."""
        u_O = torch.randn(self.weight.shape[0])
        self.register_buffer("u", u_O if _is_shape_alone(u_O) else F.normalize(u_O, dim=0))
        self.register_module("reparametrisation", None)

    def raw_weight(self) -> Tensor:
        """The weight before it is normalised."""
        made: Tensor = self.weight if self.reparametrisation is None else self.reparametrisation(self.weight)
        return made

    def normalised_weight(self) -> Tensor:
        """The weight to use, with gradient to the raw one; in training mode the power iteration moves on."""
        if self.u is None and self.reparametrisation is None:
            return self.weight
        with full_precision(self.weight):
            weight = self.raw_weight()
            if self.u is None or _is_shape_alone(weight):
                return weight
            u_O, v_I = once(functools.partial(self._power_iteration, weight.detach().flatten(1)))
            return weight / torch.dot(u_O, weight.flatten(1).mv(v_I))

    @torch.no_grad()
    def _power_iteration(self, weight_OI: Tensor) -> tuple[Tensor, Tensor]:
        assert self.u is not None
        v_I = F.normalize(weight_OI.t().mv(self.u), dim=0, eps=self.eps)
        u_O = F.normalize(weight_OI.mv(v_I), dim=0, eps=self.eps)
        if self.training:
            self.u.copy_(u_O)
        return u_O, v_I

    @torch.no_grad()
    def fold(self) -> None:
        """Fix the weight at its present normalised value."""
        assert not self.training, "folding is for eval mode, where the power iteration stands still"
        self.weight = nn.Parameter(self.normalised_weight(), requires_grad=self.weight.requires_grad)
        self.u = self.reparametrisation = None


def _is_shape_alone(x: Tensor) -> bool:
    """Whether a tensor has no values, and none can be normalised.

    To work out the shape of a norm all the same, torch would import its compiler, which takes seconds.
    """
    return x.device.type == "meta"


@torch.no_grad()
def plain(network: N) -> N:
    """The network, changed in place, with reparametrised weights fixed at what they are now."""
    for module in network.modules():
        if isinstance(module, SpectralNormalised) and module.reparametrisation is not None:
            module.weight = nn.Parameter(module.raw_weight())
            module.reparametrisation = None
    return network


def full_precision(like: Tensor) -> contextlib.AbstractContextManager[object]:
    """No autocast on the device of `like`: half precision would round what is kept or shared to 3 digits."""
    if torch.amp.is_autocast_available(like.device.type):
        return torch.autocast(like.device.type, enabled=False)
    return contextlib.nullcontext()


def as_computed(x: Tensor) -> Tensor:
    """The tensor in the number type that autocast has convolutions compute in, where it is on."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return x
    cast_to: Tensor = x.to(torch.get_autocast_dtype(kind))
    return cast_to


class Conv2d(SpectralNormalised, nn.Conv2d):
    """A spectrally normalised convolution that keeps the size."""

    doubling_kernel: Tensor | None
    """The kernel of `of_doubled`, (inputs, outputs, 4, 4), where it is kept; no part of the state."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        self.add_spectral_norm()
        self.register_buffer("doubling_kernel", None, persistent=False)
        self.register_load_state_dict_post_hook(_let_go_of_kernel)  # type: ignore[no-untyped-call]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The convolved map, (N, outputs, H, W)."""
        return convolved(
            x_NCHW,
            self.normalised_weight(),
            self.bias,
            padding=self.kernel_size[0] // 2,
            training=self.training,
        )

    def of_doubled(self, x_NCHW: Tensor) -> Tensor:
        """What a 3x3 convolution makes of a map enlarged twofold by repeating pixels, (N, outputs, 2H, 2W).

        Of the 9 pixels that it looks at only 4 differ: so their weights are summed first, and a transposed
        convolution of 4x4 does with 4/9 of the work, and without the enlarged map.
        """
        kept_IO44 = None if self.weight.requires_grad else self.doubling_kernel
        if not self._pays(x_NCHW, PIXELS_A_CHANNEL if kept_IO44 is None else PIXELS_A_CHANNEL_OF_KEPT):
            return self.forward(F.interpolate(x_NCHW, scale_factor=2))
        kernel_IO44 = self._made_doubling_kernel() if kept_IO44 is None else kept_IO44
        return convolved(
            x_NCHW, kernel_IO44, self.bias, stride=2, padding=1, transposed=True, training=self.training
        )

    @torch.no_grad()
    def keep_doubling_kernel(self, pixels: float = math.inf) -> None:
        """Make the kernel of `of_doubled` once for all, of the weight as it is now: it must stay so.

        Loading a state lets go of it.

        Args:
            pixels: of the maps of a batch; where it does not pay for so many, none is kept.
        """
        assert self.u is None, "only the weight of a folded layer stays as it is"
        self.doubling_kernel = None
        if pixels >= PIXELS_A_CHANNEL_OF_KEPT * self.in_channels:
            self.doubling_kernel = self._made_doubling_kernel().contiguous()

    def _made_doubling_kernel(self) -> Tensor:
        return _summed_over_pairs(self.normalised_weight()).flip(2, 3).transpose(0, 1)

    def _pays(self, x_NCHW: Tensor, pixels_a_channel: float) -> bool:
        """Whether there are pixels enough for a larger kernel; of graphs for any batch, in one picture."""
        pictures, _, height, width = x_NCHW.shape
        pixels = (pictures if isinstance(pictures, int) else 1) * height * width
        return pixels >= pixels_a_channel * self.in_channels

    def halved(self, x_NCHW: Tensor) -> Tensor:
        """The mean of every 2 x 2 pixels of what a 3x3 convolution makes of a map, (N, outputs, H/2, W/2).

        As one convolution of 4x4 with stride 2 this is 4/9 of the work, and there is no map of full size.
        """
        if not self._pays(x_NCHW[:, :, ::2, ::2], PIXELS_A_CHANNEL):
            return F.avg_pool2d(self.forward(x_NCHW), 2)
        kernel_OI44 = _summed_over_pairs(self.normalised_weight()) / 4
        return convolved(x_NCHW, kernel_OI44, self.bias, stride=2, padding=1, training=self.training)


PIXELS_A_CHANNEL = 2
"""So many pixels of the smaller maps for each channel make up for the work on a larger kernel (measured)."""
PIXELS_A_CHANNEL_OF_KEPT = 0.25
"""So many do where that kernel is there already (measured)."""


def _let_go_of_kernel(layer: nn.Module, _: object) -> None:
    assert isinstance(layer, Conv2d)
    layer.doubling_kernel = None


def _summed_over_pairs(weight_OI33: Tensor) -> Tensor:
    """The kernel (O, I, 4, 4) whose every weight is the sum of a 3x3 kernel's over 2 x 2 neighbours."""
    rows_OI43 = F.pad(weight_OI33, (0, 0, 0, 1)) + F.pad(weight_OI33, (0, 0, 1, 0))
    return F.pad(rows_OI43, (0, 1)) + F.pad(rows_OI43, (1, 0))


class Linear(SpectralNormalised, nn.Linear):
    """A spectrally normalised linear layer."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.add_spectral_norm()

    def forward(self, x_NI: Tensor) -> Tensor:
        """The outputs, (N, O)."""
        return F.linear(x_NI, self.normalised_weight(), self.bias)


class Embedding(SpectralNormalised, nn.Embedding):
    """A spectrally normalised table of class vectors."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__(classes, width)
        self.add_spectral_norm()

    def forward(self, y_N: Tensor) -> Tensor:
        """The vectors of the classes, (N, width)."""
        return F.embedding(y_N, self.normalised_weight())


class SelfAttention(nn.Module):
    """Self-attention over the pixels, added to the input with a gain that starts at 0 (SAGAN)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = Conv2d(channels, channels // 8, 1, bias=False)
        self.key = Conv2d(channels, channels // 8, 1, bias=False)
        self.value = Conv2d(channels, channels // 2, 1, bias=False)
        self.out = Conv2d(channels // 2, channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """A map of the same shape; keys and values are those of 2 x 2 pixels pooled."""
        _, _, height, width = x_NCHW.shape
        query, key, value = self.query(x_NCHW), self.key(x_NCHW), self.value(x_NCHW)
        # One head: fused kernels and ONNX are for tensors that have heads.
        query_N1PC = query.flatten(2).mT[:, None]
        key_N1QC = F.max_pool2d(key, 2).flatten(2).mT[:, None]
        value_N1QC = F.max_pool2d(value, 2).flatten(2).mT[:, None].contiguous()
        # They also want numbers of a pixel side by side, and on a CPU queries and keys as wide as values.
        # Without, every pixel's P x Q weights are kept.
        widened = (0, value_N1QC.shape[-1] - query_N1PC.shape[-1])
        query_N1PC, key_N1QC = F.pad(query_N1PC, widened), F.pad(key_N1QC, widened)
        attended = F.scaled_dot_product_attention(query_N1PC, key_N1QC, value_N1QC, scale=1.0)[:, 0]
        added: Tensor = self.out(attended.mT.unflatten(2, (height, width)))
        return x_NCHW + self.gain * added


def attention_by_block(
    resolutions: Sequence[int], sizes: Sequence[int], widths: Sequence[int]
) -> nn.ModuleDict:
    """Attention by index of the block that it follows: the first one of that size, 0 being none."""
    possible = sorted({size for size in sizes if size})
    if unknown := sorted(set(resolutions) - set(possible)):
        raise ValueError(
            f"attention at {unknown} px is not possible: the blocks end at {possible} px; name some of these"
        )
    layers = {}
    for resolution in resolutions:
        block = sizes.index(resolution)
        if widths[block] < 8:
            raise ValueError(
                f"attention at {resolution} px needs at least 8 channels there, not {widths[block]}: "
                "widen the block, or leave it out"
            )
        if resolution < 2:
            raise ValueError(
                "attention at 1 px has nothing to attend to, it needs at least 2 px: leave it out"
            )
        layers[str(block)] = SelfAttention(widths[block])
    return nn.ModuleDict(layers)


def initialise(network: nn.Module, init: str) -> None:
    """Draw all convolution, linear and embedding weights anew, from torch's global generator.

    Biases stay as torch makes them.

    Args:
        network: initialised in place.
        init: "orthogonal" (BigGAN on ImageNet) or "normal" (N(0, 0.02), BigGAN on CIFAR).
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.Embedding)):
            draw_weight(module.weight, init)


def draw_weight(weight: Tensor, init: str) -> None:
    """Draw one weight anew, in place, as `initialise` does."""
    if init == "orthogonal":
        nn.init.orthogonal_(weight)
    else:
        nn.init.normal_(weight, 0, 0.02)
