"""What all metrics are: torchmetrics over features, whose states sum or gather across ranks.

Shapes: N pictures, D features, K classes of the extractor's classifier.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torchmetrics import Metric

from cgt.errors import RunError, UserError
from cgt.metrics.features.base import Features
from cgt.metrics.gaussian import Gaussian
from cgt.metrics.pairs import ROWS, OnPairs, unheard
from cgt.models.naming import listed

Better: TypeAlias = Literal["lower", "higher", "neither"]
Scores: TypeAlias = Mapping[str, Better]


class Fewest(NamedTuple):
    """Pictures that a metric needs at least."""

    real: int = 0
    generated: int = 0
    of_each_class: int = 0
    """Of either kind."""

    def check(self, name: str, kind: Literal["real", "generated"], by_class: Mapping[str, int]) -> None:
        """Refuse fewer, before any features are taken.

        Args:
            name: of the metric.
            kind: of the pictures.
            by_class: how many there are; under any name, where they have no classes.

        Raises:
            UserError: naming what is missing.
        """
        wanted = self.real if kind == "real" else self.generated
        total = sum(by_class.values())
        if total < wanted:
            raise UserError(
                f"{name} needs {wanted} {kind} pictures at least, not {total}: give more, or leave it out."
            )
        few = [f"{one!r} ({count})" for one, count in by_class.items() if count < self.of_each_class]
        if few:
            raise UserError(
                f"{name} needs {self.of_each_class} {kind} pictures of each class, and there are fewer of "
                f"{listed(few, 5)}: give more, measure other classes, or leave it out."
            )


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
    fewest: ClassVar[Fewest] = Fewest()
    """What `compute` would refuse for want of pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.on_pairs: OnPairs = unheard
        """Told of the pairs of pictures that `compute` has compared, where it is long: for a progress bar."""

    def pairs(self, real: int, fake: int) -> int:
        """How many pairs `on_pairs` will have been told of for so many real and generated pictures."""
        return 0

    def update(self, features: Features, y_N: Tensor, *, real: bool) -> None:
        """Take in some pictures.

        Args:
            features: of the pictures.
            y_N: int64 indices into the classes that the metric was built for; -1 for pictures without a
                class, which a metric that is `labelled` never gets.
            real: whether the pictures are real or generated.
        """
        raise NotImplementedError

    def compare_with(self, real: Gaussian) -> None:
        """Take a gaussian in place of the features of real pictures, where `reference` is "moments"."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """The scores over everything taken in, on all ranks.

        Raises:
            UserError: too few pictures.
            RunError: features that are not finite.
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
        """All real features (N, D) and all generated ones (M, D), in the order of ranks and updates."""
        return rows(self.real), rows(self.fake)


class ClassFeatureMetric(PooledFeatureMetric):
    """A `PooledFeatureMetric` that also keeps which class each picture is of.

    Args:
        classes: names.
    """

    labelled = True
    real_y: list[Tensor] | Tensor
    fake_y: list[Tensor] | Tensor

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.add_state("real_y", default=[], dist_reduce_fx="cat")
        self.add_state("fake_y", default=[], dist_reduce_fx="cat")

    def update(self, features: Features, y_N: Tensor, *, real: bool) -> None:
        """Keep the pooled features and the classes."""
        super().update(features, y_N, real=real)
        kept = self.real_y if real else self.fake_y
        assert isinstance(kept, list), "the states are tensors only while ranks are in step"
        kept.append(y_N)

    def labels(self) -> tuple[Tensor, Tensor]:
        """The classes of `pooled`: (N,) and (M,)."""
        return rows(self.real_y), rows(self.fake_y)


def rows(state: list[Tensor] | Tensor) -> Tensor:
    """A list state as one tensor; torchmetrics has joined it already where it gathered it from ranks."""
    if isinstance(state, Tensor):
        return state
    return state[0] if len(state) == 1 else torch.cat(state)


def require_finite(real_ND: Tensor, fake_MD: Tensor) -> None:
    """Refuse features that no score can be made of.

    Raises:
        RunError: there are some in either set.
    """
    for kind, x in (("real", real_ND), ("generated", fake_MD)):
        count = sum(int((~torch.isfinite(part)).any(1).sum()) for part in x.split(ROWS))
        if count:
            raise not_finite(f"{count:,} of {len(x):,}", kind)


def not_finite(count: str, kind: str) -> RunError:
    """What to say of `count` pictures ("3 of 10"), "real" or "generated", with NaN or infinite features."""
    return RunError(
        f"{count} {kind} pictures have features that are not finite (NaN or infinity): look for pictures "
        "with such values, or for damaged weights of the feature extractor."
    )
