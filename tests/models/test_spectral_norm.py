"""Spectral norm as published BigGAN checkpoints rely on it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from cgt.models.layers import Conv2d, Embedding, Linear, SpectralNormalised

LAYERS = [lambda: Linear(7, 5), lambda: Conv2d(3, 6, 3), lambda: Embedding(4, 9), lambda: Linear(6, 1)]


def rule(weight: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """v = norm(u W), u' = norm(v W^T), sigma = v W^T u'^T, on rows; returns sigma, u', v."""
    matrix = weight.reshape(weight.shape[0], -1)
    row = u[None] @ matrix
    v = row / row.norm()
    row = v @ matrix.T
    new = row / row.norm()
    return (v @ matrix.T @ new.T).squeeze(), new[0], v[0]


@pytest.fixture(params=LAYERS, ids=["linear", "convolution", "embedding", "one output"])
def layer(request: pytest.FixtureRequest) -> SpectralNormalised:
    return request.param()


def test_normalised_weight_is_the_published_rules(layer: SpectralNormalised) -> None:
    sigma, u, _ = rule(layer.weight.detach(), layer.u)
    torch.testing.assert_close(layer.train().normalised_weight().detach(), layer.weight.detach() / sigma)
    torch.testing.assert_close(layer.u, u)


def test_evaluation_iterates_too_but_moves_nothing(layer: SpectralNormalised) -> None:
    before = layer.u.clone()
    sigma, _, _ = rule(layer.weight.detach(), before)
    first, second = layer.eval().normalised_weight(), layer.normalised_weight()
    torch.testing.assert_close(first.detach(), layer.weight.detach() / sigma)
    assert torch.equal(first, second)
    assert torch.equal(layer.u, before)


def test_training_finds_the_largest_singular_value(layer: SpectralNormalised) -> None:
    for _ in range(200):
        weight = layer.train().normalised_weight()
    assert float(torch.linalg.matrix_norm(weight.detach().flatten(1), 2)) == pytest.approx(1, abs=1e-4)


def test_gradient_takes_the_vectors_as_constants(layer: SpectralNormalised) -> None:
    sigma, u, v = rule(layer.weight.detach(), layer.u)
    weight = layer.weight.detach().flatten(1)
    above = torch.randn_like(weight)
    layer.normalised_weight().flatten(1).backward(above)
    expected = above / sigma - (above * weight).sum() / sigma**2 * torch.outer(u, v)
    torch.testing.assert_close(layer.weight.grad.flatten(1), expected)


def test_the_layer_applies_its_normalised_weight_and_its_bias() -> None:
    linear, convolution, embedding = Linear(7, 5).eval(), Conv2d(3, 6, 3).eval(), Embedding(4, 9).eval()
    x, pixels, y = torch.randn(2, 7), torch.randn(2, 3, 5, 5), torch.tensor([3, 0])
    assert torch.equal(linear(x), F.linear(x, linear.normalised_weight(), linear.bias))
    expected = F.conv2d(pixels, convolution.normalised_weight(), convolution.bias, padding=1)
    assert torch.equal(convolution(pixels), expected)
    assert torch.equal(embedding(y), embedding.normalised_weight()[y])


def test_folding_fixes_the_weight_to_the_bit(layer: SpectralNormalised) -> None:
    expected = layer.eval().normalised_weight().detach()
    layer.fold()
    assert torch.equal(layer.weight, expected)
    assert torch.equal(layer.train().normalised_weight(), expected)
    assert "u" not in layer.state_dict()


class AutocastAtProducts(TorchFunctionMode):
    """Notes for every matrix-vector product whether autocast is on; on a GPU it would round the product."""

    def __init__(self) -> None:
        super().__init__()
        self.rounded: list[bool] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.mv:
            self.rounded.append(torch.is_autocast_enabled("cpu"))
        return function(*args, **(kwargs or {}))


def test_autocast_does_not_reach_the_power_iteration(layer: SpectralNormalised) -> None:
    with torch.autocast("cpu", torch.bfloat16), AutocastAtProducts() as products:
        layer.normalised_weight()
    assert products.rounded == [False] * 3
