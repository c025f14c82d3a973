"""Two processes train by every transfer method what one does."""

from typing import Any

import pytest

from cgt import catalog
from cgt.distributed import World
from cgt.training.step import fetch, train_step
from cgt.training.trainer import build_trainer, snapshot
from tests import tiny
from tests.distributed.ranks import require, run_ranks
from tests.distributed.test_strategies import OPTIM, assert_close, batches
from tests.transfer.methods import make

STEPS = 3
METHODS = [name for name in catalog.names("cgt.transfer") if name != "scratch"]
"""Scratch is pretraining, which has tests of its own."""


def found(names: list[str], strategy: str) -> dict[str, Any]:
    """The losses, and the models after some steps, of each of the methods."""
    results = {}
    for name in names:
        method = make(name, tiny.HIERARCHICAL)
        config = tiny.transfer_config(
            method.config, steps=STEPS, optim=OPTIM, strategy={"generator": strategy}
        )
        trainer = build_trainer(config, method, World(cpu=True))
        feed = batches(trainer)
        losses = fetch({step: train_step(trainer, feed, step) for step in range(STEPS)})
        results[name] = {"losses": losses, "model": snapshot(trainer).state_dict()}
    return results


def test_two_processes_train_as_one_does() -> None:
    expected = found(METHODS, "ddp")
    first, second = run_ranks(found, 2, METHODS, "ddp", seconds=300)
    for name in METHODS:
        assert_close(first[name], expected[name], 1e-5)
        assert_close(second[name], first[name], 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_two_processes_that_divide_the_state_train_as_one_does(strategy: str) -> None:
    """The methods that reparametrise weights, or have more than tables in their banks."""
    require(strategy)
    names = ["gefilter", "minegan"]
    expected = found(names, "ddp")
    for result in run_ranks(found, 2, names, strategy, seconds=300):
        for name in names:
            assert_close(result[name], expected[name], 1e-5)
