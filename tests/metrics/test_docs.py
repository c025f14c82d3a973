"""The page about metrics names everything that there is."""

from pathlib import Path

import pytest

from cgt import catalog
from cgt.metrics.features.base import PACKAGE

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", catalog.names("cgt.metrics"))
def test_every_metric_and_score_is_on_the_page(name):
    scores = catalog.load("cgt.metrics", name, kind="metric").SCORES
    assert f"| `{name}` |" in PAGE
    assert all(f"`{score}`" in PAGE for score in scores)


@pytest.mark.parametrize("name", [name for name in catalog.names(PACKAGE) if name != "cnn"])
def test_every_extractor_is_on_the_page(name):
    assert f"| `{name}` |" in PAGE
