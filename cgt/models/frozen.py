"""Convolutions whose weight is not trained: nothing of their input is kept for the backward pass.

torch's own keep it, since a weight's gradient would need it.

Shapes: N samples, I input and O output channels, H rows, W columns.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def convolved(
    x_NIHW: Tensor,
    weight: Tensor,
    bias_O: Tensor | None,
    *,
    stride: int = 1,
    padding: int,
    transposed: bool = False,
    training: bool,
) -> Tensor:
    """`F.conv2d`, or `F.conv_transpose2d`; in training it keeps its input only for a gradient of the weight.

    In eval mode it is torch's own, with all that torch can do with it (forward derivatives, `torch.func`).
    """
    convolve = F.conv_transpose2d if transposed else F.conv2d
    trained = any(tensor is not None and tensor.requires_grad for tensor in (weight, bias_O))
    frozen = training and not trained and x_NIHW.requires_grad and torch.is_grad_enabled()
    if not frozen or torch.compiler.is_compiling():  # which finds out by itself what is needed
        return convolve(x_NIHW, weight, bias_O, stride=stride, padding=padding)
    y_NOHW: Tensor = _ByFrozenWeight.apply(  # type: ignore[no-untyped-call]
        x_NIHW, weight, bias_O, stride, padding, transposed
    )
    return y_NOHW


class _ByFrozenWeight(torch.autograd.Function):
    """Its backward pass is the opposite convolution, of the gradient by the same weight."""

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
        ctx.size, ctx.dtype, ctx.options = x_NIHW.shape[2:], x_NIHW.dtype, (stride, padding, transposed)
        convolve = F.conv_transpose2d if transposed else F.conv2d
        return convolve(x_NIHW, weight, bias_O, stride=stride, padding=padding)

    @staticmethod
    def backward(ctx: Any, grad_NOHW: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        weight = weight.to(grad_NOHW.dtype)
        stride, padding, transposed = ctx.options
        if transposed:
            grad_x_NIHW = F.conv2d(grad_NOHW, weight, stride=stride, padding=padding)
        else:
            least = ((size - 1) * stride - 2 * padding + weight.shape[-1] for size in grad_NOHW.shape[2:])
            grad_x_NIHW = F.conv_transpose2d(
                grad_NOHW,
                weight,
                stride=stride,
                padding=padding,
                output_padding=[size - so_far for size, so_far in zip(ctx.size, least, strict=True)],
            )
        return grad_x_NIHW.to(ctx.dtype), None, None, None, None, None
