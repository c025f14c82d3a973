"""Batch norm over ranks: what one process with the whole batch computes.

Shapes: N samples, C channels, Z latent size, R resolution.
"""

import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cgt.distributed import World
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.norm import Condition, ConditionalBatchNormReLU, synchronise
from cgt.models.norm_relu import norm_scale_shift_relu
from cgt.models.site_statistics import SiteStatistics
from tests.distributed.ranks import run_ranks
from tests.tiny import HIERARCHICAL, OLD, PER_LAYER, RESOLUTION

EPS = 1e-3
N = 6
C = 5
# Far from 0, where a variance as the difference of two large numbers would lose its digits.
MEAN = 100.0

Found = dict[str, Tensor]


def _inputs(dtype: torch.dtype) -> list[Tensor]:
    """x, scale, shift and the gradient of the output, for the whole batch."""
    torch.manual_seed(1)
    x_NCHW = torch.randn(N, C, 4, 3, dtype=torch.float64) * torch.arange(1, N + 1)[:, None, None, None] + MEAN
    rest = torch.randn(N, C), torch.randn(N, C), torch.randn(N, C, 4, 3)
    return [tensor.to(dtype) for tensor in (x_NCHW, *rest)]


def _norm(cuts: list[int], dtype: torch.dtype, together: bool, batches: int = 2) -> Found:
    """Outputs, gradients and statistics of this rank's part of the batch, which ends at the cuts."""
    world = World()
    bounds = [0, *cuts, N]
    part = slice(bounds[world.rank], bounds[world.rank + 1]) if world.size > 1 else slice(0, N)
    x_NCHW, scale_NC, shift_NC, grad_NCHW = (tensor[part].clone() for tensor in _inputs(dtype))
    statistics = SiteStatistics(C).to(torch.promote_types(dtype, torch.float32))
    norm = ConditionalBatchNormReLU(EPS)
    synchronise(norm, world.sum_ if together and world.size > 1 else None)
    leaves = [tensor.requires_grad_() for tensor in (x_NCHW, scale_NC, shift_NC)]
    for _ in range(batches):
        out_NCHW = norm(
            x_NCHW.contiguous(memory_format=torch.channels_last), Condition(*leaves[1:], statistics)
        )
    x, scale, shift = torch.autograd.grad(out_NCHW, leaves, grad_NCHW)
    return {
        "out": out_NCHW.detach(),
        "x": x,
        "scale": scale,
        "shift": shift,
        "mean": statistics.mean,
        "var": statistics.var,
    }


def _same(found: list[Found], expected: Found, tolerance: float) -> None:
    """All ranks' parts tile what one process found; statistics are its own on each of them."""
    for name, whole in expected.items():
        if name in ("mean", "var"):
            assert all(torch.equal(part[name], found[0][name]) for part in found)
            tile = found[0][name]
        else:
            tile = torch.cat([part[name] for part in found])
        torch.testing.assert_close(
            tile, whole, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def _exact(dtype: torch.dtype) -> Found:
    """The whole batch's statistics after two updates of the running ones, from x as `dtype` holds it."""
    x_NCHW = _inputs(dtype)[0].double()
    return {"mean": 0.19 * x_NCHW.mean((0, 2, 3)), "var": 0.81 + 0.19 * x_NCHW.var((0, 2, 3))}


@pytest.mark.parametrize("cuts", [[], [3], [1], [2, 4], [1, 5]])
def test_parts_of_a_batch_are_normalised_as_the_whole(cuts: list[int]) -> None:
    found = run_ranks(_norm, len(cuts) + 1, cuts, torch.float64, True)
    _same(found, _norm([], torch.float64, False), 1e-11)


def test_statistics_of_float32_are_those_of_the_whole_batch_to_1e_6() -> None:
    found = run_ranks(_norm, 3, [2, 4], torch.float32, True)
    for name, value in _exact(torch.float32).items():
        torch.testing.assert_close(found[0][name].double(), value, rtol=1e-6, atol=0)
    # Around a mean of 100, x itself has no more digits than this.
    _same(found, _norm([], torch.float32, False), 2e-5)


def test_half_precision_keeps_statistics_in_float32() -> None:
    found = run_ranks(_norm, 2, [3], torch.bfloat16, True)
    whole = _norm([], torch.bfloat16, False)
    assert {found[0][name].dtype for name in ("out", "x")} == {torch.bfloat16}
    for name, value in _exact(torch.bfloat16).items():
        torch.testing.assert_close(found[0][name].double(), value, rtol=1e-6, atol=0)
    _same(found, whole, 2e-2)


def test_ranks_that_are_not_synchronised_keep_to_their_own_samples() -> None:
    found = run_ranks(_norm, 2, [3], torch.float64, False, 1)
    x_NCHW = _inputs(torch.float64)[0]
    for own, part_NCHW in zip(found, x_NCHW.chunk(2), strict=True):
        torch.testing.assert_close(own["mean"], 0.1 * part_NCHW.mean((0, 2, 3)))
        torch.testing.assert_close(own["var"], 0.9 + 0.1 * part_NCHW.var((0, 2, 3)))


def _generator(config: GeneratorConfig, bf16: bool = False) -> Found:
    """Pictures, gradients summed over ranks, and buffers of a deep copy of a generator."""
    world = World()
    torch.manual_seed(2)
    generator = Generator(config, RESOLUTION, OLD)
    z_NZ, y_N = torch.randn(N, config.dim_z), torch.randint(len(OLD), (N,))
    grad_N3RR = torch.randn(N, 3, RESOLUTION, RESOLUTION)
    synchronise(generator, world.sum_ if world.size > 1 else None)
    generator = copy.deepcopy(generator).to(memory_format=torch.channels_last)
    if not bf16:
        generator, z_NZ, grad_N3RR = generator.double(), z_NZ.double(), grad_N3RR.double()
    z_NZ = world.share(z_NZ).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        fake_N3RR = generator(z_NZ, world.share(y_N))
    fake_N3RR.backward(world.share(grad_N3RR).to(fake_N3RR.dtype))
    found = {"out": fake_N3RR.detach().float() if bf16 else fake_N3RR.detach(), "z": z_NZ.grad}
    found |= {f"grad {name}": world.sum_(p.grad) for name, p in generator.named_parameters()}
    return found | dict(generator.named_buffers())


@pytest.mark.parametrize("config", [PER_LAYER, HIERARCHICAL])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_generator_on_ranks_is_the_generator_on_one_process(world: int, config: GeneratorConfig) -> None:
    found, whole = run_ranks(_generator, world, config), _generator(config)
    for name, expected in whole.items():
        parts = [rank[name] for rank in found]
        value = torch.cat(parts) if name in ("out", "z") else parts[0]
        if ".statistics." in name:
            assert all(torch.equal(part, value) for part in parts)
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def test_generator_under_autocast_has_the_same_statistics_on_all_ranks() -> None:
    found = run_ranks(_generator, 2, PER_LAYER, True)
    whole = _generator(PER_LAYER, True)
    for name in (name for name in whole if ".statistics." in name):
        assert torch.equal(found[0][name], found[1][name])
        assert found[0][name].dtype == torch.float32
        torch.testing.assert_close(found[0][name], whole[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sum_over_ranks", [None, lambda tensor: tensor])
def test_alone_it_is_torchs_batch_norm(device: str, dtype: torch.dtype, sum_over_ranks: Any) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    x_NCHW = torch.randn(4, C, 6, 6, device=device).to(dtype, memory_format=torch.channels_last)
    scale, shift = torch.randn(2, 4, C, 1, 1, device=device).to(dtype)
    grad_NCHW = torch.randn_like(x_NCHW)

    def run(function: Any) -> list[Tensor]:
        statistics = SiteStatistics(C).to(device)
        statistics.momentum = 0.3
        leaves = [tensor.clone().requires_grad_() for tensor in (x_NCHW, scale, shift)]
        out_NCHW = function(*leaves, statistics)
        return [*torch.autograd.grad(out_NCHW, leaves, grad_NCHW), out_NCHW, *statistics.buffers()]

    def by_torch(x: Tensor, scale: Tensor, shift: Tensor, running: SiteStatistics) -> Tensor:
        mean, var, momentum = running.mean, running.var, running.momentum
        return F.relu(F.batch_norm(x, mean, var, training=True, momentum=momentum, eps=EPS) * scale + shift)

    ours = run(functools.partial(norm_scale_shift_relu, eps=EPS, sum_over_ranks=sum_over_ranks))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for own, other in zip(ours, run(by_torch), strict=True):
        assert own.dtype == other.dtype
        torch.testing.assert_close(own, other, rtol=tolerance, atol=tolerance)
