"""Batch norm, scale, shift and ReLU in one, of which nothing is kept for the backward pass but the input.

The batch may lie in parts on several ranks. (torch's own `SyncBatchNorm` runs on CUDA only.) Each direction
then takes one collective, of 2 C + 1 and of 2 C numbers.

Shapes: N samples on this rank, C channels, H rows, W columns.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cgt.models.recompute import again, once
from cgt.models.site_statistics import SiteStatistics

SumOverRanks = Callable[[Tensor], Tensor]
"""Adds up the ranks' tensors of one shape, in place on each of them."""


@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch has no annotations for these
def norm_scale_shift_relu(
    x_NCHW: Tensor,
    scale_NC11: Tensor,
    shift_NC11: Tensor,
    statistics: SiteStatistics,
    *,
    eps: float,
    sum_over_ranks: SumOverRanks | None,
) -> Tensor:
    """ReLU(scale * batch_norm(x) + shift), by the statistics of this batch, which the running ones follow.

    The result has x's number type; statistics are taken in float32 at least.

    Args:
        x_NCHW: the map.
        scale_NC11: of every sample, in x's number type.
        shift_NC11: likewise.
        statistics: running ones, changed in place.
        eps: added to the variance.
        sum_over_ranks: the batch is that of all ranks, however many samples each of them has: every rank must
            call this, and must call backward where any does. None: it is this rank's own.
    """
    activated: Tensor = _NormScaleShiftReLU.apply(  # type: ignore[no-untyped-call]
        x_NCHW, scale_NC11, shift_NC11, statistics, eps, sum_over_ranks
    )
    return activated


def _of_all_ranks(
    x_NCHW: Tensor, statistics: SiteStatistics, sum_over_ranks: SumOverRanks
) -> tuple[Tensor, Tensor, Tensor]:
    """The moments of the batch, in x's number type or in float32, which the running ones have followed."""
    mean_C, var_C, count = _moments(x_NCHW, sum_over_ranks)
    mean, var, momentum = statistics.mean, statistics.var, statistics.momentum
    mean.lerp_(mean_C.to(mean.dtype), momentum)
    var.lerp_((var_C * count / (count - 1)).to(var.dtype), momentum)
    kept = torch.promote_types(x_NCHW.dtype, torch.float32)
    return mean_C.to(kept), var_C.to(kept), count


def _moments(x_NCHW: Tensor, sum_over_ranks: SumOverRanks) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and number of values of a channel, over all ranks, in float64."""
    exact_NCHW = x_NCHW.to(torch.promote_types(x_NCHW.dtype, torch.float32))
    own_var_C, own_mean_C = torch.var_mean(exact_NCHW, (0, 2, 3), correction=0)
    count = x_NCHW.numel() // x_NCHW.shape[1]
    mean_C, var_C = own_mean_C.double(), own_var_C.double()
    sums = torch.cat([mean_C, var_C + mean_C.square(), torch.ones_like(mean_C[:1])]) * count
    total = sum_over_ranks(sums)
    mean_C, square_C = (total[:-1] / total[-1]).chunk(2)
    return mean_C, (square_C - mean_C.square()).clamp(min=0), total[-1]


class _NormScaleShiftReLU(torch.autograd.Function):
    """Its gradient also goes through mean and variance, to all ranks' samples."""

    @staticmethod
    def forward(
        ctx: Any,
        x_NCHW: Tensor,
        scale_NC11: Tensor,
        shift_NC11: Tensor,
        statistics: SiteStatistics,
        eps: float,
        sum_over_ranks: SumOverRanks | None,
    ) -> Tensor:
        mean_C, var_C = statistics.mean, statistics.var
        if sum_over_ranks is None:
            count: Tensor | int = x_NCHW.numel() // x_NCHW.shape[1]
            momentum = 0.0 if again() else statistics.momentum
            normalised_NCHW, mean_C, invstd_C = torch.native_batch_norm(
                x_NCHW, None, None, mean_C, var_C, True, momentum, eps
            )
            var_C = invstd_C.square().reciprocal() - eps
        else:
            mean_C, var_C, count = once(functools.partial(_of_all_ranks, x_NCHW, statistics, sum_over_ranks))
            normalised_NCHW = F.batch_norm(x_NCHW, mean_C, var_C, eps=eps)
        ctx.save_for_backward(x_NCHW, scale_NC11, shift_NC11, mean_C, var_C)
        ctx.count, ctx.eps, ctx.sum_over_ranks = count, eps, sum_over_ranks
        return torch.addcmul(shift_NC11, normalised_NCHW, scale_NC11, out=normalised_NCHW).relu_()

    @staticmethod
    def backward(ctx: Any, grad_NCHW: Tensor) -> tuple[Tensor | None, ...]:
        """With n the normalised map and g its gradient: (g - mean(g) - n mean(g n)) / sqrt(var + eps)."""
        if torch.is_grad_enabled():
            raise NotImplementedError("second derivatives of a generator in training mode: use eval mode")
        x_NCHW, scale_NC11, shift_NC11, mean_C, var_C = ctx.saved_tensors
        normalised_NCHW = F.batch_norm(x_NCHW, mean_C, var_C, eps=ctx.eps)
        before_relu_NCHW = torch.addcmul(shift_NC11, normalised_NCHW, scale_NC11)
        grad_NCHW = torch.ops.aten.threshold_backward(grad_NCHW, before_relu_NCHW, 0)
        with_normalised_NCHW = torch.mul(grad_NCHW, normalised_NCHW, out=before_relu_NCHW)
        grad_scale_NC11, grad_shift_NC11 = (
            of_pixels.sum((2, 3), keepdim=True, dtype=mean_C.dtype)
            for of_pixels in (with_normalised_NCHW, grad_NCHW)
        )
        grad_x_NCHW = None
        if ctx.needs_input_grad[0]:
            # g is scale times this gradient: so sums over its pixels are sums over these of samples.
            sums_2C11 = torch.stack(
                [(scale_NC11 * of_samples).sum(0) for of_samples in (grad_scale_NC11, grad_shift_NC11)]
            )
            if ctx.sum_over_ranks is not None:
                sums_2C11 = ctx.sum_over_ranks(sums_2C11)
            invstd_C11 = torch.rsqrt(var_C + ctx.eps)[:, None, None]
            by_normalised_C11, by_mean_C11 = (sums_2C11 / ctx.count * -invstd_C11).to(x_NCHW.dtype)
            grad_x_NCHW = grad_NCHW.mul_(scale_NC11 * invstd_C11.to(x_NCHW.dtype))
            grad_x_NCHW.addcmul_(normalised_NCHW, by_normalised_C11).add_(by_mean_C11)
        return (
            grad_x_NCHW,
            grad_scale_NC11.to(scale_NC11.dtype),
            grad_shift_NC11.to(shift_NC11.dtype),
            *[None] * 3,
        )
