"""Learning rates."""

import pytest
import torch
from torch import nn

from cgt.training.optim import OptimConfig, ParameterGroup, adam, set_learning_rates


def rates(step: int, decay_from: float) -> list[float]:
    groups = [
        ParameterGroup([nn.Parameter(torch.zeros(1))]),
        ParameterGroup([nn.Parameter(torch.zeros(1))], 8.0),
    ]
    optimiser = adam(groups, 0.1, OptimConfig())
    set_learning_rates(optimiser, step, 100, decay_from)
    return [group["lr"] for group in optimiser.param_groups]


def test_a_group_has_its_own_factor() -> None:
    assert rates(0, 1.0) == [0.1, 0.8]


@pytest.mark.parametrize(("step", "factor"), [(0, 1.0), (59, 1.0), (60, 1.0), (80, 0.5), (99, 0.025)])
def test_the_rates_fall_linearly_to_zero_after_the_given_share(step: int, factor: float) -> None:
    assert rates(step, 0.6) == pytest.approx([0.1 * factor, 0.8 * factor])


def test_without_decay_the_rates_are_constant() -> None:
    assert rates(99, 1.0) == [0.1, 0.8]
