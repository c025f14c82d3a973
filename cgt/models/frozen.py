"""Convolutions whose weight is not trained: nothing of their input is kept for the backward pass.

torch's own keep it, since a weight's gradient would need it.

Shapes: N samples, I input and O output channels, H rows, W columns.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def convolved(
    x_NIHW: Tensor,
    weight: Tensor,
    bias_O: Tensor | None,
    *,
    stride: int = 1,
    padding: int,
    transposed: bool = False,
) -> Tensor:
    """`F.conv2d`, or `F.conv_transpose2d`, which keeps its input only where a weight's gradient needs it."""
    convolve = F.conv_transpose2d if transposed else F.conv2d
    trained = any(tensor is not None and tensor.requires_grad for tensor in (weight, bias_O))
    # torch.compile finds out by itself what is needed.
    if trained or not (x_NIHW.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return convolve(x_NIHW, weight, bias_O, stride=stride, padding=padding)
    y_NOHW: Tensor = _ByFrozenWeight.apply(  # type: ignore[no-untyped-call]
        x_NIHW, weight, bias_O, stride, padding, transposed
    )
    return y_NOHW


class _ByFrozenWeight(torch.autograd.Function):
    """Its backward pass is the convolution's with respect to the input, of which it knows the shape alone."""

    @staticmethod
    def forward(
        ctx: Any,
        x_NIHW: Tensor,
        weight: Tensor,
        bias_O: Tensor | None,
        stride: int,
        padding: int,
        transposed: bool,
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.dtype, ctx.options = x_NIHW.shape, x_NIHW.dtype, (stride, padding, transposed)
        convolve = F.conv_transpose2d if transposed else F.conv2d
        return convolve(x_NIHW, weight, bias_O, stride=stride, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NOHW: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        stride, padding, transposed = ctx.options
        grad_x_NIHW, _, _ = torch.ops.aten.convolution_backward(
            grad_NOHW,
            grad_NOHW.new_empty(()).expand(ctx.shape),
            weight.to(grad_NOHW.dtype),
            None,
            [stride, stride],
            [padding, padding],
            [1, 1],
            transposed,
            [0, 0],
            1,
            [True, False, False],
        )
        return grad_x_NIHW.to(ctx.dtype), None, None, None, None, None
