"""ADA's probability and LeCam's averages, and what a step does with them."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cgt import rng
from cgt.images import to_float
from cgt.training.augment import AugmentConfig
from cgt.training.feedback import Feedback
from cgt.training.step import discriminator_step, train_step
from cgt.training.trainer import Trainer
from tests import tiny
from tests.training.test_step import recorded_gradients, trainer

ADAPTIVE = {**tiny.RUN["augment"], "target": 0.6, "adjust_pictures": 320}
OPTIM = tiny.RUN["optim"]
CPU = torch.device("cpu")


def adaptive(batch_size: int = 8) -> Feedback:
    """Four updates of eight pictures move its probability by a tenth."""
    return Feedback(AugmentConfig.model_validate(ADAPTIVE), 0.0, batch_size, CPU)


def after(feedback: Feedback, *signs: float) -> float:
    """The probability after updates in which the mean signs on real pictures were these."""
    for sign in signs:
        logged = feedback.update({"real_sign": torch.tensor(sign), "loss_discriminator": torch.ones(())})
        assert logged == {"augment_probability": feedback.augment_probability}
    return float(feedback.augment_probability)


def test_the_probability_rises_above_the_target_and_falls_below_by_the_documented_speed() -> None:
    feedback = adaptive()
    assert feedback.augment_probability == 0
    assert after(feedback, 1.0, 1.0, 1.0) == 0
    assert after(feedback, 1.0) == pytest.approx(0.1)
    assert after(feedback, *[1.0] * (320 // 8 - 4)) == pytest.approx(1.0)
    assert after(feedback, *[0.5] * 12) == pytest.approx(0.7)


def test_the_probability_stays_within_0_and_1() -> None:
    feedback = adaptive()
    assert after(feedback, *[-1.0] * 8) == 0
    assert after(feedback, *[1.0] * 48) == 1
    assert after(feedback, *[0.0] * 4) == pytest.approx(0.9)


def test_the_probability_goes_by_all_pictures_since_its_last_change() -> None:
    feedback = adaptive()
    after(feedback, *[1.0] * 8)
    assert after(feedback, 1.0, 1.0, 1.0, -0.75) == pytest.approx(0.1)
    assert after(feedback, -0.25, 1.0, 1.0, 1.0) == pytest.approx(0.2)


@pytest.mark.parametrize("error", [-1e-7, 0.0, 1e-7])
def test_at_the_target_the_probability_stays_however_the_mean_is_rounded(error: float) -> None:
    feedback = adaptive(batch_size=50)
    assert after(feedback, *[1.0] * 4) == 200 / 320
    assert after(feedback, *[0.6 + error] * 4) == 200 / 320


def lecam_by_hand(weight: float, batches: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The penalty of each update of D, transcribed from the paper's formula."""
    penalties = []
    a_R = a_F = None
    for real_N, fake_N in batches:
        if a_R is None or a_F is None:
            penalties.append(torch.zeros(()))
            a_R, a_F = real_N.mean().item(), fake_N.mean().item()
        else:
            penalties.append(weight * (((real_N - a_F) ** 2).mean() + ((fake_N - a_R) ** 2).mean()))
            a_R = 0.99 * a_R + 0.01 * real_N.mean().item()
            a_F = 0.99 * a_F + 0.01 * fake_N.mean().item()
    return penalties


def test_lecam_is_the_formula_with_averages_of_the_updates_before() -> None:
    feedback = Feedback(AugmentConfig(), 0.3, 5, CPU)
    logits = [
        (rng.normal((5,), 0, "real", i).requires_grad_(), rng.normal((5,), 0, "fake", i).requires_grad_())
        for i in range(4)
    ]
    for (real_N, fake_N), expected in zip(logits, lecam_by_hand(0.3, logits), strict=True):
        penalty = feedback.penalties(real_N, fake_N)["lecam"]
        torch.testing.assert_close(penalty, expected)
        if expected.requires_grad:
            gradients = torch.autograd.grad(penalty, (real_N, fake_N))
            torch.testing.assert_close(gradients, torch.autograd.grad(expected, (real_N, fake_N)))
        feedback.update(feedback.observed(real_N, fake_N))


def logits(t: Trainer, discriminator: torch.nn.Module, x: Tensor, y: Tensor, update: int) -> Tensor:
    """What D says in an update without augmentation: of the real pictures, then of the generated ones."""
    z_NZ = rng.normal((8, t.generator.dim_z), 0, "discriminator latents", 0, update)
    y_N = rng.integers(8, len(tiny.OLD), 0, "discriminator labels", 0, update)
    with torch.no_grad():
        fake_N3RR = copy.deepcopy(t.generator)(z_NZ, y_N)
    return discriminator(torch.cat([to_float(x), fake_N3RR]), torch.cat([y, y_N]))


def test_a_step_adds_lecam_to_the_loss_of_the_discriminator() -> None:
    t = trainer(optim={**OPTIM, "lecam": 0.5}, augment={})
    batches = tiny.MemoryPictures(tiny.OLD).batches(8, seed=0)
    with torch.no_grad():
        tables = t.bank.tables()
    x, y = next(batches)
    a_R, a_F = (kind.mean().item() for kind in logits(t, copy.deepcopy(t.discriminator), x, y, 0).chunk(2))
    assert discriminator_step(t, x, y, tables, 0, 0)["lecam"] == 0
    x, y = next(batches)
    plain, gradients = copy.deepcopy(t.discriminator), recorded_gradients(t.discriminator)
    real_N, fake_N = logits(t, plain, x, y, 1).chunk(2)
    losses = discriminator_step(t, x, y, tables, 0, 1)
    hinge = F.relu(1 - real_N).mean() + F.relu(1 + fake_N).mean()
    penalty = 0.5 * ((real_N - a_F).square().mean() + (fake_N - a_R).square().mean())
    assert float(losses["loss_discriminator"]) == pytest.approx(hinge.item(), rel=1e-4)
    assert float(losses["lecam"]) == pytest.approx(penalty.item(), rel=1e-4)
    (hinge + penalty).backward()
    for key, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-3, atol=1e-5)


def weights_after_a_step(augment: dict[str, Any], probability: float | None) -> dict[str, Tensor]:
    t = trainer(augment=augment)
    t.feedback.augment_probability = None if probability is None else torch.tensor(probability)
    train_step(t, tiny.MemoryPictures(tiny.OLD).batches(8, seed=0), 0)
    return t.generator.state_dict() | t.discriminator.state_dict()


@pytest.mark.parametrize(
    ("probability", "policy"), [(0.0, []), (1.0, tiny.RUN["augment"]["policy"])], ids=["0", "1"]
)
def test_both_networks_are_trained_on_pictures_augmented_with_the_present_probability(
    probability: float, policy: list[str]
) -> None:
    """Up to the last bits: convolutions add up in another order where pictures lie otherwise in memory."""
    adapted = weights_after_a_step(ADAPTIVE, probability)
    expected = weights_after_a_step({"policy": policy}, None)
    torch.testing.assert_close(adapted, expected, rtol=0, atol=1e-6)


def test_a_run_without_feedback_logs_nothing_of_it_and_goes_on_from_a_state_without_it() -> None:
    t, resumed, pictures = trainer(), trainer(), tiny.MemoryPictures(tiny.OLD)
    losses = train_step(t, pictures.batches(8, seed=0), 0)
    assert losses.keys() == {"loss_discriminator", "loss_generator", "mode_seeking"}
    state = copy.deepcopy(t.state_dict())
    del state["feedback"]
    resumed.load_state_dict(state)
    left_alone, gone_on = (train_step(own, pictures.batches(8, seed=0, first=2), 1) for own in (t, resumed))
    assert left_alone == gone_on
