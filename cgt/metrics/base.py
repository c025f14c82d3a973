"""What all metrics are: torchmetrics over features, whose states sum or gather across ranks.

Shapes: N pictures, D features, K classes of the extractor's classifier.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor
from torchmetrics import Metric

from cgt.metrics.features.base import Features

if TYPE_CHECKING:
    from cgt.metrics.fid import Gaussian

Better: TypeAlias = Literal["lower", "higher", "neither"]
Scores: TypeAlias = Mapping[str, Better]


class FeatureMetric(Metric):  # type: ignore[misc]  # torchmetrics is read without its types
    """A metric that is fed the features of real and of generated pictures.

    Every rank must call `update` for both kinds before `compute`, if only with no rows: that gives its share
    a shape to gather.
    """

    full_state_update = False
    reference: ClassVar[Literal["features", "moments", "nothing"]] = "features"
    """What it needs of the real pictures: all their features, a gaussian, or nothing."""
    labelled: ClassVar[bool] = False
    """Whether it needs the class of each picture."""

    def update(self, features: Features, y_N: Tensor, *, real: bool) -> None:
        """Take in some pictures.

        Args:
            features: of the pictures.
            y_N: int64 indices into the classes that the metric was built for; -1 for pictures without a
                class, which a metric that is `labelled` never gets.
            real: whether the pictures are real or generated.
        """
        raise NotImplementedError

    def compare_with(self, real: "Gaussian") -> None:
        """Take a gaussian in place of the features of real pictures, where `reference` is "moments"."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """The scores over everything taken in, on all ranks.

        Raises:
            UserError: too few pictures.
        """
        raise NotImplementedError


class PooledFeatureMetric(FeatureMetric):
    """A metric that needs all pooled features at once: it keeps them (float32) and gathers them."""

    real: list[Tensor] | Tensor
    fake: list[Tensor] | Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("real", default=[], dist_reduce_fx="cat")
        self.add_state("fake", default=[], dist_reduce_fx="cat")

    def update(self, features: Features, y_N: Tensor, *, real: bool) -> None:
        """Keep the pooled features."""
        kept = self.real if real else self.fake
        assert isinstance(kept, list), "the states are tensors only while ranks are in step"
        kept.append(features.pooled_ND)

    def pooled(self) -> tuple[Tensor, Tensor]:
        """All real features (N, D) and all generated ones (M, D)."""
        return rows(self.real), rows(self.fake)


def rows(state: list[Tensor] | Tensor) -> Tensor:
    """A list state as one tensor; torchmetrics has joined it already where it gathered it from ranks."""
    return state if isinstance(state, Tensor) else torch.cat(state)
