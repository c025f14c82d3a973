"""A convolution joined with the resizing beside it gives what both give one after the other."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cgt.models.layers import PIXELS_A_CHANNEL, Conv2d

Way = Callable[[Conv2d, Tensor], Tensor]
WAYS: dict[str, tuple[Way, Way]] = {
    "doubled": (Conv2d.of_doubled, lambda layer, x: layer(F.interpolate(x, scale_factor=2))),
    "halved": (Conv2d.halved, lambda layer, x: F.avg_pool2d(layer(x), 2)),
}
SIZES = {"few pixels": (1, 2, 2), "many": (5, 8, 6), "odd": (4, 9, 7)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES)
def test_pictures_gradients_and_power_iteration_are_those_of_both_in_turn(way: str, size: str) -> None:
    joined, in_turn = WAYS[way]
    pictures, height, width = SIZES[size]
    layer = Conv2d(6, 5, 3).double().train()
    twin = copy.deepcopy(layer)
    x = torch.randn(pictures, 6, height, width, dtype=torch.float64, requires_grad=True)
    own, expected = joined(layer, x), in_turn(twin, x)
    torch.testing.assert_close(own, expected)
    weight = torch.randn_like(expected)
    inputs = [x, layer.weight, layer.bias], [x, twin.weight, twin.bias]
    gradients = torch.autograd.grad((own * weight).sum(), inputs[0])
    for found, wanted in zip(
        gradients, torch.autograd.grad((expected * weight).sum(), inputs[1]), strict=True
    ):
        torch.testing.assert_close(found, wanted)
    assert torch.equal(layer.u, twin.u)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pays", [True, False])
def test_the_joined_kernel_is_used_where_there_are_pixels_enough(
    way: str, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = []

    def noting(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def noted(x: Tensor, weight: Tensor, *others: object, **options: object) -> Tensor:
            kernels.append(tuple(weight.shape[2:]))
            return call(x, weight, *others, **options)

        return noted

    for name in ("conv2d", "conv_transpose2d"):
        monkeypatch.setattr(F, name, noting(getattr(F, name)))
    small = PIXELS_A_CHANNEL * 8 // 4 - (0 if pays else 1)  # of 4 pictures, for 8 channels
    joined, _ = WAYS[way]
    times = 2 if way == "halved" else 1
    joined(Conv2d(8, 8, 3), torch.randn(4, 8, times, times * small))
    assert kernels == [(4, 4) if pays else (3, 3)]
