"""Every metric over one, two and three processes, with uneven and empty shares."""

import pytest
import torch

from cgt import catalog
from cgt.metrics.fid import FrechetDistance
from tests.distributed.ranks import run_ranks
from tests.metrics.test_contract import CLASSES, DIM, FAKE, REAL, Extractor, part

METRICS = {
    name: catalog.load("cgt.metrics", name, kind="metric") for name in catalog.names("cgt.metrics")
}  # imported here once, and not by each rank


def measured(ends: tuple[int, ...]) -> dict[str, float]:
    """All scores, where rank r has the pictures from ends[r] to ends[r + 1] of either kind."""
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    mine = slice(ends[rank], ends[rank + 1])
    metrics = [module.build(Extractor(), CLASSES) for module in METRICS.values()]
    with_sums = FrechetDistance(DIM, few=7)
    scores: dict[str, float] = {}
    for metric in (*metrics, with_sums):
        for batch, real in ((REAL, True), (FAKE, False)):
            features, y = part(batch, mine)
            for rows in (slice(0, 9), slice(9, None)):
                metric.update(*part((features, y), rows), real=real)
        found = metric.compute()
        scores |= {"fid by sums": found["fid"]} if metric is with_sums else found
    return scores


def on_rank(shares: list[tuple[int, ...]]) -> list[dict[str, float]]:
    torch.distributed.init_process_group("gloo")
    return [measured(ends) for ends in shares]


@pytest.mark.parametrize(
    "shares",
    [
        [(0, 40)],
        [(0, 20, 40), (0, 3, 40), (0, 0, 40), (0, 40, 40)],
        [(0, 13, 26, 40), (0, 5, 5, 40), (0, 0, 0, 40), (0, 40, 40, 40)],
    ],
    ids=["1 process", "2 processes", "3 processes"],
)
def test_scores_over_processes_are_those_of_one(shares):
    whole = pytest.approx(measured((0, 40)), rel=1e-9, abs=1e-9)
    for of_rank in run_ranks(on_rank, len(shares[0]) - 1, shares):
        for scores in of_rank:
            assert scores == whole
