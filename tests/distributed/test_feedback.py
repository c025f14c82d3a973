"""What regularises D by its own outputs goes by those on all processes' pictures."""

from typing import Any

import torch

from tests import tiny
from tests.distributed.ranks import run_ranks
from tests.distributed.test_strategies import OPTIM, assert_close, steps, trainer


def regularised(micro_batch: int) -> dict[str, Any]:
    augment = {**tiny.RUN["augment"], "target": -0.7, "adjust_pictures": 80}
    optim = {**OPTIM, "lecam": 0.3}
    t = trainer("pretraining", optim=optim, augment=augment, micro_batch=micro_batch)
    t.feedback.augment_probability = torch.tensor(0.3)
    return steps(t, 0, 5)


def test_two_processes_are_regularised_as_one_is() -> None:
    for micro_batch in (4, 2):
        expected = regularised(2 * micro_batch)
        assert len({losses["augment_probability"] for losses in expected["losses"]}) > 2
        assert expected["losses"][-1]["lecam"] > 0
        ranks = run_ranks(regularised, 2, micro_batch)
        for of_rank in ranks:
            assert_close(of_rank, expected, 1e-5)
        assert ranks[0]["state"]["feedback"] == ranks[1]["state"]["feedback"]
