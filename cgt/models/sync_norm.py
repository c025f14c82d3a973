"""Batch norm by the mean and the variance of a batch that lies in parts on several ranks.

torch's own (`SyncBatchNorm`) runs on CUDA only. Each direction takes one collective, of 2 C + 1 numbers.

Shapes: N samples on this rank, C channels, H rows, W columns.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cgt.models.recompute import once

SumOverRanks = Callable[[Tensor], Tensor]
"""Adds up the ranks' tensors of one shape, in place on each of them."""


@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch has no annotations for these
def synchronised_batch_norm(
    x_NCHW: Tensor,
    running_mean_C: Tensor,
    running_var_C: Tensor,
    *,
    momentum: float,
    eps: float,
    sum_over_ranks: SumOverRanks,
) -> Tensor:
    """`F.batch_norm(training=True)` over the samples of all ranks, however many each of them has.

    Every rank must call it, and must call backward where any does. The result has x's number type; statistics
    are taken in float32 at least, and added up in float64.
    """

    @torch.no_grad()
    def statistics() -> tuple[Tensor, Tensor, Tensor]:
        mean_C, var_C, count = _moments(x_NCHW, sum_over_ranks)
        running_mean_C.lerp_(mean_C.to(running_mean_C.dtype), momentum)
        running_var_C.lerp_((var_C * count / (count - 1)).to(running_var_C.dtype), momentum)
        return mean_C, var_C, count

    mean_C, var_C, count = once(statistics)
    kept = torch.promote_types(x_NCHW.dtype, torch.float32)
    normalised: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
        x_NCHW, mean_C.to(kept), var_C.to(kept), count, eps, sum_over_ranks
    )
    return normalised


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


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps), whose gradient also goes through mean and var to all ranks' samples."""

    @staticmethod
    def forward(
        ctx: Any,
        x_NCHW: Tensor,
        mean_C: Tensor,
        var_C: Tensor,
        count: Tensor,
        eps: float,
        sum_over_ranks: SumOverRanks,
    ) -> Tensor:
        ctx.save_for_backward(x_NCHW, mean_C, var_C, count)
        ctx.eps = eps
        ctx.sum_over_ranks = sum_over_ranks
        return F.batch_norm(x_NCHW, mean_C, var_C, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NCHW: Tensor) -> tuple[Tensor | None, ...]:
        """With g the gradient and n the normalised map: (g - mean(g) - n mean(g n)) / sqrt(var + eps)."""
        x_NCHW, mean_C, var_C, count = ctx.saved_tensors
        invstd_C = torch.rsqrt(var_C + ctx.eps)
        # As if mean and var were constants; on the way, the sums over g n and over g.
        grad_x_NCHW, with_normalised_C, plain_C = torch.ops.aten.native_batch_norm_backward(
            grad_NCHW,
            x_NCHW,
            torch.ones_like(mean_C),
            mean_C,
            var_C,
            mean_C,
            invstd_C,
            False,
            ctx.eps,
            [True, True, True],
        )
        sums = ctx.sum_over_ranks(torch.cat([with_normalised_C, plain_C])) / count
        weight_C, bias_C = (-sums.to(invstd_C.dtype) * invstd_C.repeat(2)).chunk(2)
        through_statistics_NCHW = F.batch_norm(x_NCHW, mean_C, var_C, weight_C, bias_C, eps=ctx.eps)
        return grad_x_NCHW.add_(through_statistics_NCHW), None, None, None, None, None
