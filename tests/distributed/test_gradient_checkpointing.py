"""Gradient checkpointing under every strategy: two processes train as one does that keeps everything."""

from typing import Any

import pytest

from cgt.training.strategies import zero
from tests.distributed.ranks import run_ranks
from tests.distributed.test_strategies import STRATEGIES, assert_close, chosen, require, steps, trainer


def recomputed(strategy: str) -> dict[str, Any]:
    return steps(trainer("cgantransfer", strategy=chosen(strategy), gradient_checkpointing=True), 0, 3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_that_recompute_train_as_one_that_keeps_everything(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(strategy)
    monkeypatch.setattr(zero, "PERSISTENT", 0)
    expected = steps(trainer("cgantransfer"), 0, 3)
    for of_rank in run_ranks(recomputed, 2, strategy):
        assert_close(of_rank, expected, 1e-5)
