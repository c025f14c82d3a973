"""A convolution joined with the resizing beside it gives what both give one after the other."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cgt.models.layers import PIXELS_A_CHANNEL, PIXELS_A_CHANNEL_OF_KEPT, Conv2d

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


def frozen() -> tuple[Conv2d, Tensor]:
    """A folded layer for use alone, and a picture of just enough pixels for a kept kernel to pay."""
    layer = Conv2d(8, 5, 3).double().eval().requires_grad_(False)
    layer.fold()
    height = int(PIXELS_A_CHANNEL_OF_KEPT * layer.in_channels)
    return layer, torch.randn(1, 8, height, 1, dtype=torch.float64)


def test_a_kept_kernel_gives_the_same_where_a_made_one_would_not_pay() -> None:
    layer, x = frozen()
    expected = layer(F.interpolate(x, scale_factor=2))
    assert torch.equal(layer.of_doubled(x), expected)
    layer.keep_doubling_kernel()
    torch.testing.assert_close(layer.of_doubled(x), expected)
    layer.doubling_kernel.zero_()
    assert layer.of_doubled(x).std(dim=(2, 3)).max() == 0  # nothing but the bias: so it is what is used
    assert layer.of_doubled(x[:, :, 1:]).std(dim=(2, 3)).min() > 0  # with fewer pixels, the weight is


def test_a_kernel_is_kept_only_where_so_many_pixels_make_it_pay() -> None:
    layer, x = frozen()
    layer.keep_doubling_kernel(x.shape[2])
    assert layer.doubling_kernel is not None
    layer.keep_doubling_kernel(x.shape[2] - 1)
    assert layer.doubling_kernel is None


def test_a_kept_kernel_is_no_part_of_the_state_and_goes_with_a_new_one() -> None:
    layer, x = frozen()
    other, _ = frozen()
    names = set(layer.state_dict())
    layer.keep_doubling_kernel()
    assert set(layer.state_dict()) == names
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer.of_doubled(x), other.of_doubled(x))


def test_a_weight_that_is_trained_after_all_is_used_and_not_its_kept_kernel() -> None:
    layer, x = frozen()
    layer.keep_doubling_kernel()
    layer.weight.requires_grad_()
    with torch.no_grad():
        layer.weight.mul_(2)
    assert torch.equal(layer.of_doubled(x), layer(F.interpolate(x, scale_factor=2)))
