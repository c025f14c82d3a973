"""How models are measured, and which way each score is better."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from cgt import catalog
from cgt.config import Section
from cgt.data.selection import Classes
from cgt.errors import UserError
from cgt.metrics.features.base import STANDARD

if TYPE_CHECKING:  # torchmetrics takes seconds to import, and only whoever measures needs it
    from cgt.metrics.base import Scores

PACKAGE = "cgt.metrics"


class EvalConfig(Section):
    """How models are measured."""

    data: str | None = None
    """Shards to compare with, or statistics that `cgt eval --save-stats` wrote; None for the pictures that
    the run trains on."""
    features: str = STANDARD
    """Name of a feature extractor, or folder of one that `cgt features train` made."""
    weights: str | None = None
    """Weights file of a named extractor; None for the place where it looks by itself."""
    metrics: tuple[str, ...] = ("fid", "kmmd")
    images: int = Field(default=5000, ge=2)
    """Generated pictures."""
    classes: Classes = None
    """Classes to measure, given as in `data`; None for all of the data's."""
    batch_size: int = Field(default=64, ge=1)
    """Pictures at once. No score depends on it."""
    cache: bool = True
    """Keep the features of real pictures in $CGT_CACHE or ~/.cache/cgt, for later measurements."""
    best: str = "fid"
    """The score that chooses a run's best model."""

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        if not metrics:
            raise ValueError(f"there must be a metric at least, of {', '.join(catalog.names(PACKAGE))}")
        known = catalog.names(PACKAGE)
        for name in metrics:
            if name not in known:
                raise ValueError(
                    f"no metric is called {name!r}{catalog.did_you_mean(name, known)}; there are "
                    f"{', '.join(known)}"
                )
        return metrics


def directions(metrics: Sequence[str]) -> "Scores":
    """The scores that the metrics give, and what is better of each: "lower", "higher" or "neither".

    Raises:
        UserError: no such metric.
    """
    return {
        score: better
        for name in metrics
        for score, better in catalog.load(PACKAGE, name, kind="metric").SCORES.items()
    }


def lower_is_better(score: str, metrics: Sequence[str]) -> bool:
    """Whether the better of two models is the one with the lower `score`, which one of the metrics gives.

    Raises:
        UserError: none of the metrics gives such a score, or neither direction of it is better.
    """
    known = {name: better for name, better in directions(metrics).items() if better != "neither"}
    if score not in known:
        raise UserError(
            f"models can't be ranked by {score!r}{catalog.did_you_mean(score, known)}: the metrics "
            f"{', '.join(metrics)} give {', '.join(known)}. Name one of these, or measure more."
        )
    return known[score] == "lower"
