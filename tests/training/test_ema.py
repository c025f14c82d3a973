"""The average of the weights."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from cgt.distributed import World
from cgt.training.ema import EMA, EMAConfig


def test_it_follows_the_recurrence_and_is_the_weights_before_its_start() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    ema = EMA([parameter], EMAConfig(decay=0.75, start=2), World())
    seen = []
    for step, value in enumerate([2.0, 3.0, 7.0, 11.0]):
        parameter.data.fill_(value)
        ema.update(step)
        seen.append(ema.average[0].item())
    assert seen == [2.0, 3.0, 3.0 + 0.25 * 4, 4.0 + 0.25 * 7]


def test_applying_it_gives_the_weights_back_to_the_bit_even_after_an_error() -> None:
    parameter = nn.Parameter(torch.randn(5))
    before, data = parameter.detach().clone(), parameter.data_ptr()
    ema = EMA([parameter], EMAConfig(decay=0.5, start=0), World())
    parameter.data.add_(1)
    ema.update(0)
    try:
        with ema.applied():
            torch.testing.assert_close(parameter.data, before + 0.5)
            raise KeyError
    except KeyError:
        pass
    torch.testing.assert_close(parameter.data, before + 1, rtol=0, atol=0)
    assert parameter.data_ptr() == data


def test_a_loaded_average_continues_as_the_saved_one() -> None:
    parameter = nn.Parameter(torch.randn(5))
    first, second = (EMA([parameter], EMAConfig(decay=0.9, start=0), World()) for _ in range(2))
    parameter.data.add_(1)
    first.update(0)
    second.load_state_dict(first.state_dict())
    for ema in (first, second):
        ema.update(1)
    assert torch.equal(first.average[0], second.average[0])


def test_half_life_is_the_steps_after_which_a_weight_counts_half() -> None:
    parameter = nn.Parameter(torch.tensor([0.0]))
    ema = EMA([parameter], EMAConfig(half_life=10, start=0), World())
    parameter.data.fill_(1)
    for step in range(10):
        ema.update(step)
    assert ema.average[0].item() == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("options", [{"half_life": 100}, {"decay": 0.5**0.01}])
def test_ramp_up_bounds_the_half_life_by_a_share_of_the_steps_done(options: dict[str, float]) -> None:
    config = EMAConfig(**options, ramp_up=0.05, start=0)
    half_lives = [math.log(0.5) / math.log(config.decay_after(step)) for step in (20, 200, 2000, 20000)]
    assert half_lives == pytest.approx([1, 10, 100, 100])
    assert config.decay_after(0) == 0


def test_either_decay_or_half_life_is_given_and_survives_a_round_trip() -> None:
    assert EMAConfig().decay == 0.9999
    for config in (EMAConfig(), EMAConfig(half_life=50), EMAConfig(decay=0.5)):
        assert EMAConfig.model_validate(config.model_dump()) == config
    for both in ({"decay": 0.5, "half_life": 50}, {"decay": None}):
        with pytest.raises(ValidationError, match="give one of decay and half_life"):
            EMAConfig.model_validate(both)
