"""All metrics of a generator at once: pictures are made and features taken a single time.

Shapes: N pictures, Z latent size, R resolution, D features.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

import torch
from pydantic import Field, field_validator
from torch import Tensor

from cgt import catalog, images, rng
from cgt.config import Section
from cgt.data.selection import Classes, class_names
from cgt.errors import RunError, UserError
from cgt.metrics.features.base import STANDARD, FeatureExtractor, Features

if TYPE_CHECKING:  # torchmetrics takes seconds to import, and only whoever measures needs it
    from cgt.data import Pictures
    from cgt.metrics.base import FeatureMetric, Scores

PACKAGE = "cgt.metrics"


class EvalConfig(Section):
    """How models are measured."""

    data: str | None = None
    """Shards to compare with; None for the pictures that the run trains on."""
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


class Sampler(Protocol):
    """What is measured: a generator, or whatever else makes pictures of classes from noise."""

    training: bool

    @property
    def classes(self) -> Sequence[str]:
        """Names; y counts along them."""

    @property
    def dim_z(self) -> int:
        """Z."""

    @property
    def resolution(self) -> int:
        """R in pixels."""

    def __call__(self, z_NZ: Tensor, y_N: Tensor, /) -> Tensor:
        """Pictures (N, 3, R, R) in [-1, 1]."""


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


class Evaluator:
    """Measures generators, one after the other, against the same pictures, whose features are taken once.

    Every generator gets the same noise, and labels that go round the classes. On several ranks each makes its
    share, and all return the same scores.

    Args:
        pictures: the real ones.
        extractor: the features; generators must be on its device.
        metrics: names.
        images: generated pictures, over all ranks.
        seed: of the noise.
        batch_size: pictures at once.
        classes: those to measure, as `class_names` takes them; None for all of the pictures'.
        rank: this process's number.
        world: the number of processes.
        together: makes a block that fails on all ranks if it fails on one, as `World.together` does: so none
            waits for the features of a rank that has none.

    Raises:
        UserError: no such metric, an extractor that does not suit one or is for another picture size, or
            classes without pictures.
    """

    def __init__(
        self,
        pictures: "Pictures",
        extractor: FeatureExtractor,
        metrics: Sequence[str],
        images: int,
        seed: int,
        batch_size: int,
        classes: Sequence[str] | str | None = None,
        *,
        rank: int = 0,
        world: int = 1,
        together: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.pictures = pictures
        self.extractor = extractor
        self.classes = pictures.classes if classes is None else class_names(classes)
        self.images = images
        self.seed = seed
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.together = together
        _require("the data has no pictures of", self.classes, pictures.classes)
        if extractor.resolution not in (None, pictures.resolution):
            raise UserError(
                f"the extractor {extractor.name} was trained on pictures of {extractor.resolution} px, and "
                f"the data has {pictures.resolution} px: take another extractor, or train one on this data "
                "with `cgt features train`."
            )
        modules = [catalog.load(PACKAGE, name, kind="metric") for name in metrics]
        self._metrics: list[FeatureMetric] = [
            module.build(extractor, self.classes).to(extractor.device) for module in modules
        ]
        self._real: tuple[Features, Tensor] | None = None

    @property
    def real_images(self) -> int:
        """The number of real pictures, over all ranks."""
        counts = dict(zip(self.pictures.classes, self.pictures.counts, strict=True))
        return sum(counts[name] for name in self.classes)

    @property
    def batches(self) -> int:
        """Batches of the first measurement in one process; later ones make generated pictures alone."""
        return -(-len(self.pictures) // self.batch_size) + -(-self.images // self.batch_size)

    @torch.no_grad()
    def __call__(self, sampler: Sampler, on_batch: Callable[[], None] = lambda: None) -> dict[str, float]:
        """The scores of one generator by name; `directions` says which way they are better.

        Args:
            sampler: in eval mode.
            on_batch: called after every batch.

        Raises:
            UserError: the generator has other classes or another picture size, or a metric needs more
                pictures.
            RunError: it makes pictures that are not finite, or there is no memory for a batch.
        """
        assert not sampler.training, (
            "a generator is measured in eval mode: in training mode its statistics would move"
        )
        _require("the generator has no", self.classes, sampler.classes)
        if sampler.resolution != self.pictures.resolution:
            raise UserError(
                f"the generator makes pictures of {sampler.resolution} px, and the data has "
                f"{self.pictures.resolution} px: build shards of the generator's size with `cgt shards "
                f"build --size {sampler.resolution}`."
            )
        with self.together():
            try:
                if self._real is None:
                    self._real = self._real_features(on_batch)
                fake = self._fake_features(sampler, on_batch)
            except torch.OutOfMemoryError as error:
                raise RunError(
                    f"there is no memory on {self.extractor.device} to measure {self.batch_size} pictures at "
                    "once: lower the batch_size of eval."
                ) from error
        scores: dict[str, float] = {}
        for metric in self._metrics:
            metric.reset()
            metric.update(*self._real, real=True)
            metric.update(*fake, real=False)
            scores |= metric.compute()
            metric.reset()
        return scores

    def _real_features(self, on_batch: Callable[[], None]) -> tuple[Features, Tensor]:
        position = {name: i for i, name in enumerate(self.classes)}
        measured = torch.tensor([position.get(name, -1) for name in self.pictures.classes])
        parts = []
        for x_N3RR, y_N in self.pictures.once(self.batch_size, rank=self.rank, world=self.world):
            label_N = measured[y_N.cpu()]
            chosen = label_N >= 0
            if chosen.any():
                parts.append((self._features(x_N3RR[chosen]), label_N[chosen]))
            on_batch()
        return self._joined(parts)

    def _fake_features(self, sampler: Sampler, on_batch: Callable[[], None]) -> tuple[Features, Tensor]:
        # Drawn for all pictures at once, so that neither the batch size nor the number of ranks changes a
        # picture.
        z_NZ = rng.normal((self.images, sampler.dim_z), self.seed, "eval")
        label_N = torch.arange(self.images) % len(self.classes)
        names = list(sampler.classes)
        index = torch.tensor([names.index(name) for name in self.classes])
        first, last = (self.images * rank // self.world for rank in (self.rank, self.rank + 1))
        parts = []
        for start in range(first, last, self.batch_size):
            part = slice(start, min(start + self.batch_size, last))
            x_N3RR = sampler(
                z_NZ[part].to(self.extractor.device), index[label_N[part]].to(self.extractor.device)
            )
            if not torch.isfinite(x_N3RR).all():
                raise RunError(
                    "the generator makes pictures with values that are not finite (NaN or infinity): its "
                    "training has diverged. Measure an earlier checkpoint, or train again with a lower "
                    "learning rate."
                )
            parts.append((self._features(images.to_uint8(x_N3RR)), label_N[part]))
            on_batch()
        return self._joined(parts)

    def _features(self, x_N3RR: Tensor) -> Features:
        features: Features = self.extractor(x_N3RR.to(self.extractor.device))
        return features

    def _joined(self, parts: Sequence[tuple[Features, Tensor]]) -> tuple[Features, Tensor]:
        if not parts:  # a rank without a picture still has to say how wide its features are
            none = torch.zeros(0, 3, self.pictures.resolution, self.pictures.resolution, dtype=torch.uint8)
            parts = [(self._features(none), torch.zeros(0, dtype=torch.long))]
        features = [part for part, _ in parts]
        logits = [part.logits_NK for part in features if part.logits_NK is not None]
        pooled_ND = torch.cat([part.pooled_ND for part in features])
        y_N = torch.cat([y_N for _, y_N in parts]).to(self.extractor.device)
        return Features(pooled_ND, torch.cat(logits) if logits else None), y_N


def _require(what: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in known]
    if missing:
        raise UserError(
            f"{what} {', '.join(map(repr, missing))}{catalog.did_you_mean(missing[0], known)}. There are: "
            f"{', '.join(known)}."
        )
