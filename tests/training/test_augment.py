"""DiffAugment."""

import pytest
import torch

from cgt import rng
from cgt.training.augment import DRAWS, GATES, diff_augment

X = rng.normal((6, 3, 16, 16), 0, "augment test").clamp(-1, 1)
U = rng.uniform((6, DRAWS), 0, "augment draws")
GATED = torch.cat([U, rng.uniform((6, GATES), 0, "augment gates")], 1)
ALL = ("color", "translation", "cutout")


def test_an_empty_policy_changes_nothing() -> None:
    assert torch.equal(diff_augment(X, U, ()), X)


def test_each_picture_depends_on_its_own_draws_alone() -> None:
    together = diff_augment(X, U, ALL)
    alone = torch.cat([diff_augment(X[i : i + 1], U[i : i + 1], ALL) for i in range(6)])
    torch.testing.assert_close(together, alone)


def test_translation_shifts_by_whole_pixels_within_an_eighth_and_fills_with_grey() -> None:
    # A draw of 0 reads from the far top left: the picture moves down and right by 2 of 16 pixels.
    low = torch.zeros(6, DRAWS)
    moved = diff_augment(X, low, ("translation",))
    assert torch.equal(moved[:, :, 2:, 2:], X[:, :, :-2, :-2])
    assert (moved[:, :, :2] == 0).all()
    high = torch.full((6, DRAWS), 0.999)
    moved = diff_augment(X, high, ("translation",))
    assert torch.equal(moved[:, :, :-2, :-2], X[:, :, 2:, 2:])
    middle = torch.full((6, DRAWS), 0.5)
    torch.testing.assert_close(diff_augment(X, middle, ("translation",)), X)


def test_cutout_greys_at_most_a_quarter_and_leaves_the_rest() -> None:
    ones = torch.ones(6, 3, 16, 16)
    centre = diff_augment(ones, torch.full((6, DRAWS), 0.5), ("cutout",))
    assert (centre == 0).sum().item() == 6 * 3 * 8 * 8
    corner = diff_augment(ones, torch.zeros(6, DRAWS), ("cutout",))
    assert (corner == 0).sum().item() == 6 * 3 * 4 * 4
    assert (corner[:, :, :4, :4] == 0).all()


def test_colour_with_neutral_draws_changes_nothing_and_brightness_adds() -> None:
    neutral = torch.full((6, DRAWS), 0.5)
    torch.testing.assert_close(diff_augment(X, neutral, ("color",)), X)
    brighter = neutral.clone()
    brighter[:, 0] = 0.75
    torch.testing.assert_close(diff_augment(X, brighter, ("color",)), X + 0.25)
    gray = neutral.clone()
    gray[:, 1] = 0
    without_colour = diff_augment(X, gray, ("color",))
    torch.testing.assert_close(without_colour, X.mean(1, keepdim=True).expand(-1, 3, -1, -1))


def test_gradients_reach_the_pictures() -> None:
    x = X.clone().requires_grad_()
    diff_augment(x, U, ALL).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_a_probability_of_0_changes_no_bit_and_1_is_the_same_as_none() -> None:
    assert torch.equal(diff_augment(X, GATED, ALL, 0.0), X)
    assert torch.equal(diff_augment(X, GATED, ALL, 1.0), diff_augment(X, U, ALL))


def test_a_probability_decides_for_each_picture_and_transformation_by_a_draw_of_its_own() -> None:
    """Brightness adds 0.25 and saturation and contrast change nothing; the cutout greys the centre."""
    n = 2000
    draws = torch.full((n, DRAWS), 0.5)
    draws[:, 0] = 0.75
    draws = torch.cat([draws, rng.uniform((n, GATES), 0, "many gates")], 1)
    seen = diff_augment(torch.full((n, 3, 8, 8), 0.5), draws, ("color", "cutout"), 0.5)
    brighter, cut = seen[:, 0, 0, 0] == 0.75, seen[:, 0, 4, 4] == 0
    assert (seen[~brighter, 0, 0, 0] == 0.5).all()
    for share, wanted in ((brighter, 0.5), (cut, 0.5), (brighter & cut, 0.25)):
        assert share.float().mean().item() == pytest.approx(wanted, abs=0.04)


def test_gradients_reach_pictures_that_are_augmented_and_those_that_are_not() -> None:
    x = X.clone().requires_grad_()
    diff_augment(x, GATED, ("cutout",), 0.5).sum().backward()
    cut = GATED[:, DRAWS + 2] < 0.5
    assert x.grad is not None
    assert 0 < cut.sum() < len(X)
    assert (x.grad[~cut] == 1).all()
    assert all(0 < (gradient == 0).sum() < gradient.numel() for gradient in x.grad[cut])
