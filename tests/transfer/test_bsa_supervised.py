"""The published BSA: reconstruction without a discriminator."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from cgt.errors import UserError
from cgt.metrics.features import FeatureExtractor
from cgt.metrics.features.cnn import SmallCnn
from cgt.training.trainer import snapshot
from cgt.transfer.bsa_supervised import BSASupervised, BSASupervisedConfig, earth_mover
from tests import tiny
from tests.transfer.methods import make, trained

TERMS = ["pixels", "perceptual", "earth_mover", "weight_decay"]


def test_pictures_are_reproduced_better_and_better() -> None:
    _, losses = trained(make("bsa-supervised", tiny.PER_LAYER), steps=40)
    assert list(losses[0]) == TERMS
    start, end = (sum(record["pixels"] for record in part) for part in (losses[:5], losses[-5:]))
    assert end < 0.9 * start


def test_a_latent_moves_only_in_steps_that_show_its_picture() -> None:
    method = make("bsa-supervised", tiny.PER_LAYER)
    trainer, _ = trained(method, steps=1)
    shown = set(method.draws(8, 0)[0].tolist())
    moved = trainer.generator.last_bank.z_PZ.abs().sum(1) > 0
    assert set(moved.nonzero().flatten().tolist()) == shown
    assert len(shown) < len(moved)


def test_batch_norm_works_by_the_sources_statistics_throughout() -> None:
    method = make("bsa-supervised", tiny.PER_LAYER)
    trainer, _ = trained(method)
    source = method.task.given_source.generator.banks[0].statistics.state_dict()
    for statistics in (trainer.generator.last_bank.statistics, snapshot(trainer).last_bank.statistics):
        assert all(torch.equal(value, source[key]) for key, value in statistics.state_dict().items())


def test_the_finished_bank_has_no_latents_of_training_pictures() -> None:
    bank = snapshot(trained(make("bsa-supervised", tiny.HIERARCHICAL))[0]).last_bank
    assert not [key for key in bank.state_dict() if "z_PZ" in key]


@pytest.mark.parametrize("term", ["perceptual", "earth_mover", "weight_decay"])
def test_a_term_without_weight_is_left_out(term: str) -> None:
    _, losses = trained(make("bsa-supervised", tiny.PER_LAYER, **{term: 0.0}), steps=1)
    assert list(losses[0]) == [name for name in TERMS if name != term]


def test_micro_batches_give_the_losses_of_the_batch() -> None:
    method = make("bsa-supervised", tiny.PER_LAYER)
    whole, parts = (trained(method, micro_batch=size)[1] for size in (None, 2))
    for one, other in zip(whole, parts, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_weight_decay_pulls_tables_towards_zero() -> None:
    def size(**options: Any) -> float:
        trainer, _ = trained(make("bsa-supervised", tiny.PER_LAYER, **options), steps=20)
        return sum(float(table.abs().sum()) for table in trainer.bank.tables().scale)

    assert size(weight_decay=100.0) < 0.7 * size(weight_decay=0.0)


def test_latents_are_as_far_as_the_mean_square_distance_to_the_nearest_from_both_sides() -> None:
    z, samples = torch.randn(5, 3, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    squares = torch.tensor([[float(((a - b) ** 2).sum()) for b in samples] for a in z], dtype=torch.float64)
    expected = sum(squares.min(1).values) / 5 + sum(squares.min(0).values) / 20
    torch.testing.assert_close(earth_mover(z, samples), expected)


def test_a_network_without_maps_is_refused() -> None:
    extractor = FeatureExtractor("dinov2", 12)
    task = replace(tiny.task(tiny.PER_LAYER), extractor=lambda _: extractor)
    with pytest.raises(UserError, match=r"method.features dinov2 makes one vector of a picture.* take incep"):
        BSASupervised(BSASupervisedConfig(name="bsa-supervised", features="dinov2"), task)


def test_the_network_that_is_named_gives_the_perceptual_loss() -> None:
    torch.manual_seed(0)
    extractor = SmallCnn(("a", "b"), tiny.RESOLUTION, (8, 12)).frozen("")
    asked = []

    def extractor_of(name: str) -> SmallCnn:
        asked.append(name)
        return extractor

    task = replace(tiny.task(tiny.PER_LAYER), extractor=extractor_of)
    named = BSASupervised(BSASupervisedConfig(name="bsa-supervised", features="mine"), task)
    _, losses = trained(named, steps=1)
    _, by_source = trained(make("bsa-supervised", tiny.PER_LAYER), steps=1)
    assert asked == ["mine"]
    assert losses[0]["perceptual"] != by_source[0]["perceptual"]
    assert losses[0]["pixels"] == by_source[0]["pixels"]
