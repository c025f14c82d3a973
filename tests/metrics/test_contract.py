"""What every metric promises, whichever files there are."""

import pytest
import torch

from cgt import catalog
from cgt.metrics.features import FeatureExtractor, Features

CLASSES = ("ant", "bee", "cat")
DIM = 6


class Extractor(FeatureExtractor):
    """An extractor that suits every metric."""

    def __init__(self) -> None:
        super().__init__("test", DIM, classes=("cat", "bee", "ant"), has_logits=True)


def features(n: int, seed: int) -> tuple[Features, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pooled_ND = torch.randn(n, DIM, generator=generator) + seed
    logits_NK = torch.randn(n, len(CLASSES), generator=generator)
    return Features(pooled_ND, logits_NK), torch.arange(n) % len(CLASSES)


def part(batch: tuple[Features, torch.Tensor], rows: slice) -> tuple[Features, torch.Tensor]:
    (pooled, logits), y = batch
    return Features(pooled[rows], logits[rows]), y[rows]


REAL, FAKE = features(40, seed=0), features(31, seed=1)


@pytest.fixture(params=catalog.names("cgt.metrics"))
def module(request):
    return catalog.load("cgt.metrics", request.param, kind="metric")


def measured(module, *parts: slice):
    metric = module.build(Extractor(), CLASSES)
    for rows in parts:
        metric.update(*part(REAL, rows), real=True)
        metric.update(*part(FAKE, rows), real=False)
    return metric


def test_a_metric_gives_the_scores_it_announces(module):
    scores = measured(module, slice(None)).compute()
    assert list(scores) == list(module.SCORES)
    assert set(module.SCORES.values()) <= {"lower", "higher", "neither"}
    assert all(type(value) is float for value in scores.values())


def test_scores_do_not_depend_on_how_features_come_in(module):
    whole = measured(module, slice(None)).compute()
    in_parts = measured(module, slice(0, 3), slice(3, 17), slice(17, None)).compute()
    assert in_parts == pytest.approx(whole, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("ends", [(20, 40), (0, 40), (5, 40), (40, 40)])
def test_two_ranks_score_what_one_process_does(module, ends):
    """Also where a rank has no picture, or so few that it keeps them while the other has sums."""
    whole = measured(module, slice(None)).compute()
    ranks = [measured(module, slice(0, ends[0])), measured(module, slice(ends[0], ends[1]))]
    sent: list[torch.Tensor] = []

    def record(state, group=None):
        sent.append(state)
        return [state]

    ranks[1].sync(dist_sync_fn=record, distributed_available=lambda: True)
    others = iter(sent)
    ranks[0].sync(
        dist_sync_fn=lambda state, group=None: [state, next(others)], distributed_available=lambda: True
    )
    assert type(ranks[0]).compute(ranks[0]) == pytest.approx(whole, rel=1e-9, abs=1e-9)


def test_reset_forgets_everything(module):
    metric = measured(module, slice(None))
    whole = metric.compute()
    metric.reset()
    metric.update(*REAL, real=True)
    metric.update(*FAKE, real=False)
    assert metric.compute() == pytest.approx(whole, rel=1e-12)
