"""Draws are pure functions of seed, stream and position."""

import math

import pytest
import torch

from cgt import rng


def test_equal_arguments_draw_alike_whatever_was_drawn_before() -> None:
    first = rng.normal((4,), 3, "noise", 7)
    torch.randn(5)
    rng.normal((4,), 3, "noise", 8)
    assert torch.equal(rng.normal((4,), 3, "noise", 7), first)


@pytest.mark.parametrize(
    "other", [(4, "noise", 7), (3, "labels", 7), (3, "noise", 8), (3, "noise"), (3, "noise", 7, 0)]
)
def test_every_argument_changes_the_draw(other: tuple[int, str, *tuple[int, ...]]) -> None:
    assert not torch.equal(rng.normal((4,), *other), rng.normal((4,), 3, "noise", 7))


def test_streams_and_positions_are_kept_apart() -> None:
    assert rng.key(0, "a", 1, 23) != rng.key(0, "a", 12, 3)
    assert rng.key(0, "a/1", 2) != rng.key(0, "a", 1, 2)


def test_a_key_is_the_same_on_every_machine() -> None:
    assert rng.key(1, "noise", 2, 3) == 5091480946508364206
    assert 0 <= rng.key(-1, "x") < 2**63


def test_a_permutation_holds_every_index_once() -> None:
    order = rng.permutation(100, 0, "order", 1)
    assert sorted(order.tolist()) == list(range(100))
    assert order.tolist() != list(range(100))


def test_truncated_draws_stay_within_and_have_the_moments_of_the_cut_normal() -> None:
    z = rng.truncated_normal((100_000,), 0.5, 0, "z")
    assert z.abs().max() <= 0.5
    density = math.exp(-0.125) / math.sqrt(2 * math.pi)
    variance = 1 - 2 * 0.5 * density / math.erf(0.5 / math.sqrt(2))
    assert z.mean().abs() < 0.005
    assert z.var().item() == pytest.approx(variance, rel=0.02)


def test_uniform_and_integer_draws_fill_their_ranges() -> None:
    u = rng.uniform((10_000,), 0, "u")
    assert 0 <= u.min() < 0.01
    assert 0.99 < u.max() < 1
    assert set(rng.integers(1000, 3, 0, "i").tolist()) == {0, 1, 2}


def test_a_block_seeded_globally_repeats_and_leaves_the_generator_as_it_was() -> None:
    before = torch.get_rng_state()
    with rng.seeded_globally(0, "weights"):
        first = torch.randn(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(1)
    with rng.seeded_globally(0, "weights"):
        assert torch.equal(torch.randn(3), first)


def test_a_block_seeded_globally_leaves_the_generators_of_other_devices_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reseeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    with rng.seeded_globally(0, "weights"):
        pass
    assert not reseeded
