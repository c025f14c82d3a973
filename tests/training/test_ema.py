"""The average of the weights."""

import torch
from torch import nn

from cgt.training.ema import EMA, EMAConfig


def test_it_follows_the_recurrence_and_is_the_weights_before_its_start() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    ema = EMA([parameter], EMAConfig(decay=0.75, start=2))
    seen = []
    for step, value in enumerate([2.0, 3.0, 7.0, 11.0]):
        parameter.data.fill_(value)
        ema.update(step)
        seen.append(ema.average[0].item())
    assert seen == [2.0, 3.0, 3.0 + 0.25 * 4, 4.0 + 0.25 * 7]


def test_applying_it_gives_the_weights_back_to_the_bit_even_after_an_error() -> None:
    parameter = nn.Parameter(torch.randn(5))
    before, data = parameter.detach().clone(), parameter.data_ptr()
    ema = EMA([parameter], EMAConfig(decay=0.5, start=0))
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
    first, second = (EMA([parameter], EMAConfig(decay=0.9, start=0)) for _ in range(2))
    parameter.data.add_(1)
    first.update(0)
    second.load_state_dict(first.state_dict())
    for ema in (first, second):
        ema.update(1)
    assert torch.equal(first.average[0], second.average[0])
