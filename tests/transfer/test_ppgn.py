"""PPGN: a classifier, and pictures that are looked for with it."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from cgt.errors import UserError
from cgt.metrics.features.cnn import SmallCnn
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.steered import LATENT_RANGE, SteeredBank
from cgt.training.trainer import snapshot
from cgt.transfer.base import Method
from cgt.transfer.ppgn import PPGN, PPGNConfig
from tests import tiny
from tests.transfer.methods import make, trained

BOTH = pytest.mark.parametrize(
    "config", [tiny.PER_LAYER, tiny.HIERARCHICAL], ids=["per-layer", "hierarchical"]
)


def steered(config: GeneratorConfig, **options: Any) -> Generator:
    return snapshot(trained(make("ppgn", config, **options), steps=20)[0])


def probability(generator: Generator, z_NZ: torch.Tensor, y_N: torch.Tensor) -> float:
    bank = generator.last_bank
    assert isinstance(bank, SteeredBank)
    x = generator(z_NZ, y_N + generator.first_of_last_bank)
    return float(bank.log_probability(x, bank.class_outputs[y_N]).mean())


@BOTH
def test_more_moves_make_pictures_more_like_their_class(config: GeneratorConfig) -> None:
    generator = steered(config)
    z_NZ, y_N = torch.randn(12, config.dim_z), torch.arange(12) % 3
    found = []
    for iterations in (1, 10, 60):
        generator.last_bank.iterations = iterations
        found.append(probability(generator, z_NZ, y_N))
    assert found[0] < found[1] < found[2]


@BOTH
def test_a_move_is_that_of_the_joint_formula_clipped_to_the_sources_range(config: GeneratorConfig) -> None:
    generator = steered(config, iterations=1, step=0.5, prior=0.3)
    bank = generator.last_bank
    z_NZ, y_N = torch.randn(4, config.dim_z) * 2.5, torch.tensor([0, 1, 2, 1])
    start = bank.vectors_SQ[(torch.special.ndtr(z_NZ[:, 0]) * 4).long()]
    h = torch.cat([z_NZ, start], 1).requires_grad_()
    x = generator.draw(bank, bank.joined(h[:, : config.dim_z], h[:, config.dim_z :], generator), y_N)
    logits = bank.classifier(x) / bank.log_temperature.exp()
    (slope,) = torch.autograd.grad(logits.log_softmax(1)[torch.arange(4), y_N].sum(), h)
    delta = slope - 0.3 * h
    moved = (h + 0.5 * delta / delta.abs().mean(1, keepdim=True)).detach()
    z, c = bank.points(z_NZ, y_N, generator)
    torch.testing.assert_close(z, moved[:, : config.dim_z].clamp(-LATENT_RANGE, LATENT_RANGE))
    low, high = bank.vectors_SQ.amin(0), bank.vectors_SQ.amax(0)
    torch.testing.assert_close(c, moved[:, config.dim_z :].clamp(low, high))


def test_pictures_are_found_where_gradients_are_switched_off_and_are_the_same_every_time() -> None:
    generator = steered(tiny.PER_LAYER)
    z_NZ, y_N = torch.randn(3, 6), torch.tensor([4, 5, 6])
    with torch.no_grad():
        first = generator(z_NZ, y_N)
    assert not first.requires_grad
    assert torch.equal(first, generator(z_NZ, y_N))


def test_samples_of_other_classes_are_not_steered() -> None:
    generator = steered(tiny.PER_LAYER)
    z_NZ = torch.randn(4, 6)
    z, _ = generator.last_bank.points(z_NZ, torch.tensor([-1, 0, -1, 2]), generator)
    assert torch.equal(z[[0, 2]], z_NZ[[0, 2]])
    assert not torch.equal(z[[1, 3]], z_NZ[[1, 3]])


def test_training_teaches_the_classifier_to_tell_the_classes_and_old_pictures_apart() -> None:
    _, losses = trained(make("ppgn", tiny.PER_LAYER), steps=40)
    assert losses[-1]["cross_entropy"] < 0.5 * losses[0]["cross_entropy"]


def given(classes: tuple[str, ...], resolution: int = tiny.RESOLUTION) -> Method[Any]:
    torch.manual_seed(0)
    extractor = SmallCnn(classes, resolution, (8, 12)).frozen("")
    task = replace(tiny.task(tiny.PER_LAYER), extractor=lambda name: extractor)
    return PPGN(PPGNConfig(name="ppgn", classifier="folder", iterations=2), task)


def test_a_given_classifier_stays_as_it_is_but_for_its_temperature_and_serves_by_name() -> None:
    method = given(("gnu", "yak", "fox", "elk"))
    bank = method.networks()[0].last_bank
    assert bank.class_outputs.tolist() == [3, 2, 0]
    before = {key: value.clone() for key, value in bank.classifier.state_dict().items()}
    trainer, _ = trained(method)
    after = trainer.generator.last_bank
    assert all(torch.equal(value, before[key]) for key, value in after.classifier.state_dict().items())
    assert float(after.log_temperature) != 0


@pytest.mark.parametrize(
    ("classes", "resolution", "message"),
    [
        (("elk", "fox"), 8, "does not know gnu"),
        (tiny.NEW, 16, "is for pictures of 16 px, and the data has 8"),
    ],
)
def test_a_classifier_that_does_not_fit_is_refused(
    classes: tuple[str, ...], resolution: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        given(classes, resolution)
