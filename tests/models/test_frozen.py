"""Convolutions and activations that keep little for the backward pass, against torch's own.

Shapes: N samples, C channels, H rows, W columns.
"""

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cgt.models import frozen
from cgt.models.layers import SelfAttention
from cgt.models.norm_relu import norm_scale_shift_relu
from cgt.models.site_statistics import SiteStatistics

convolved = functools.partial(frozen.convolved, training=True)
CASES = [
    ({"padding": 1}, (5, 4, 3, 3)),
    ({"padding": 0}, (5, 4, 1, 1)),
    ({"padding": 1, "stride": 2}, (5, 4, 4, 4)),
    ({"padding": 1, "stride": 2, "transposed": True}, (4, 5, 4, 4)),
]


def by_torch(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool = False, **options: int
) -> Tensor:
    return (F.conv_transpose2d if transposed else F.conv2d)(x, weight, bias, **options)


def kept(forward: Callable[[], Tensor]) -> list[Tensor]:
    """What autograd keeps for the backward pass."""
    tensors = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensors.append(tensor), lambda _: None):
        forward()
    return tensors


@pytest.mark.parametrize(("options", "shape"), CASES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("autocast", [False, True])
def test_frozen_weight_gives_torchs_result_and_gradient(
    options: dict[str, int], shape: tuple[int, ...], bias: bool, autocast: bool
) -> None:
    weight, bias_O = torch.randn(shape), torch.randn(5) if bias else None
    x_NCHW = torch.randn(3, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    found = []
    for convolve in (convolved, by_torch):
        leaf_NCHW = x_NCHW.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y_NCHW = convolve(leaf_NCHW, weight, bias_O, **options)
        torch.manual_seed(1)
        found.append((y_NCHW, *torch.autograd.grad(y_NCHW, leaf_NCHW, torch.randn_like(y_NCHW))))
    for own, other in zip(*found, strict=True):
        assert own.dtype == other.dtype
        assert own.is_contiguous(memory_format=torch.channels_last)
        # bf16 has steps of 1/16 where values are above 8.
        tolerance = {"rtol": 2e-2, "atol": 0.13} if autocast else {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(own, other, **tolerance)


@pytest.mark.parametrize(("options", "shape"), CASES)
def test_frozen_weight_keeps_itself_alone(options: dict[str, int], shape: tuple[int, ...]) -> None:
    weight, x_NCHW = torch.randn(shape), torch.randn(3, 4, 6, 6, requires_grad=True)
    assert [tensor.shape for tensor in kept(lambda: convolved(x_NCHW, weight, None, **options))] == [shape]


@pytest.mark.parametrize("trained", ["weight", "bias"])
def test_trained_weight_or_bias_gets_its_gradient(trained: str) -> None:
    tensors = {"weight": torch.randn(5, 4, 3, 3), "bias": torch.randn(5)}
    x_NCHW = torch.randn(3, 4, 6, 6, requires_grad=True)
    tensors[trained].requires_grad_()
    own, other = (
        torch.autograd.grad(convolve(x_NCHW, *tensors.values(), padding=1).square().sum(), tensors[trained])[
            0
        ]
        for convolve in (convolved, by_torch)
    )
    assert torch.equal(own, other)


def test_activation_keeps_one_map() -> None:
    x_NCHW, scale_NC11 = (
        torch.randn(3, 4, 6, 6, requires_grad=True),
        torch.randn(3, 4, 1, 1, requires_grad=True),
    )
    shift_NC11 = torch.randn(3, 4, 1, 1, requires_grad=True)
    tensors = kept(
        lambda: norm_scale_shift_relu(
            x_NCHW, scale_NC11, shift_NC11, SiteStatistics(4), eps=1e-5, sum_over_ranks=None
        )
    )
    maps = [tensor for tensor in tensors if tensor.shape == x_NCHW.shape]
    assert [tensor.data_ptr() for tensor in maps] == [x_NCHW.data_ptr()]


@pytest.mark.parametrize("in_training", [True, False])
@pytest.mark.parametrize(("options", "shape"), CASES)
def test_second_derivatives_are_torchs(
    options: dict[str, int], shape: tuple[int, ...], in_training: bool
) -> None:
    weight, x_NCHW = torch.randn(shape).double(), torch.randn(1, 4, 4, 4).double()
    own = functools.partial(frozen.convolved, training=in_training)
    found, expected = (
        torch.autograd.functional.hessian(
            lambda x, made=convolve: made(x, weight, None, **options).pow(3).sum(), x_NCHW
        )
        for convolve in (own, by_torch)
    )
    assert expected.abs().max() > 1
    torch.testing.assert_close(found, expected)


def test_second_derivatives_of_an_activation_are_refused_rather_than_wrong() -> None:
    x_NCHW, affine_NC11 = torch.randn(3, 4, 6, 6, requires_grad=True), torch.randn(3, 4, 1, 1)
    y_NCHW = norm_scale_shift_relu(
        x_NCHW, affine_NC11, affine_NC11, SiteStatistics(4), eps=1e-5, sum_over_ranks=None
    )
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(y_NCHW.square().sum(), x_NCHW, create_graph=True)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_attention_keeps_no_matrix_of_pixels_by_pixels(layout: torch.memory_format) -> None:
    attention = SelfAttention(16).to(memory_format=layout)
    x_NCHW = torch.randn(2, 16, 12, 12, requires_grad=True).contiguous(memory_format=layout)
    assert max(tensor.numel() for tensor in kept(lambda: attention(x_NCHW))) <= x_NCHW.numel()
