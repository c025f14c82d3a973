"""The mode-seeking term, which is no mean over pictures, is that of all processes' pictures all the same."""

from typing import Any

from tests.distributed.ranks import run_ranks
from tests.distributed.test_strategies import OPTIM, assert_close, steps, trainer


def seeking(micro_batch: int) -> dict[str, Any]:
    return steps(trainer("pretraining", optim={**OPTIM, "mode_seeking": 1.0}, micro_batch=micro_batch), 0, 3)


def test_two_processes_seek_modes_as_one_does() -> None:
    for micro_batch in (4, 2):
        expected = seeking(2 * micro_batch)
        for of_rank in run_ranks(seeking, 2, micro_batch):
            assert_close(of_rank, expected, 1e-5)
