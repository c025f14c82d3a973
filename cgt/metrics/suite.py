"""All metrics of a generator at once: pictures are made and features taken a single time.

Shapes: N pictures, Z latent size, R resolution, D features.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cgt import catalog, images
from cgt.data.selection import class_names
from cgt.errors import RunError, UserError
from cgt.metrics.features.base import FeatureExtractor, Features
from cgt.metrics.rounding import arithmetic
from cgt.metrics.settings import PACKAGE
from cgt.metrics.subjects import PictureSet, Sampler, counts_of
from cgt.models.sampling import latent_range

if TYPE_CHECKING:  # torchmetrics takes seconds to import, and only whoever measures needs it
    from cgt.data import Pictures
    from cgt.metrics.base import FeatureMetric
    from cgt.metrics.feature_cache import FeatureCache
    from cgt.metrics.gaussian import Gaussian
    from cgt.metrics.statistics import About, Statistics


class Evaluator:
    """Measures generators, one after the other, against the same pictures, whose features are taken once.

    Every generator gets the same noise, and labels that go round the classes. On several ranks each makes its
    share, and all return the same scores.

    Args:
        reference: the real pictures, or what was saved of them.
        extractor: the features; generators must be on its device.
        metrics: names.
        images: generated pictures, over all ranks; of pictures that are there already, how many there are.
        seed: of the noise.
        batch_size: pictures at once.
        classes: those to measure, as `class_names` takes them; None for all of the reference's.
        rank: this process's number.
        world: the number of processes.
        together: makes a block that fails on all ranks if it fails on one, as `World.together` does: so none
            waits for the features of a rank that has none.
        cache: where features of the real pictures are kept; None for nowhere.

    Raises:
        UserError: no such metric, an extractor that does not suit one or is for another picture size, classes
            without pictures, or statistics that do not suit a metric, the extractor or the classes.
    """

    def __init__(
        self,
        reference: "Pictures | Statistics",
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
        cache: "FeatureCache | None" = None,
    ) -> None:
        from cgt.metrics.statistics import Statistics

        self.digest = reference.digest
        """SHA-256 of the real pictures or their statistics."""
        self.extractor = extractor
        self.images = images
        self.seed = seed
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.together = together
        self.cache = cache
        self.on_pairs: Callable[[int, int], None] = lambda done, total: None
        """Told how many pairs of pictures the scores have compared, and of how many, where it is long."""
        self._statistics = reference if isinstance(reference, Statistics) else None
        self._pictures = None if isinstance(reference, Statistics) else reference
        about = reference.about if isinstance(reference, Statistics) else reference
        known = () if about is None else about.classes
        self.classes = known if classes is None else class_names(classes)
        self.resolution = None if about is None else about.resolution
        """R in pixels; None where nothing says it."""
        if known:
            _require("the data has no pictures of", self.classes, known)
        if self.resolution is not None and extractor.resolution not in (None, self.resolution):
            raise UserError(
                f"the extractor {extractor.name} was trained on pictures of {extractor.resolution} px, and "
                f"the data has {self.resolution} px: take another extractor, or train one on this data "
                "with `cgt features train`."
            )
        modules = {name: catalog.load(PACKAGE, name, kind="metric") for name in metrics}
        self._metrics: dict[str, FeatureMetric] = {
            name: module.build(extractor, self.classes).to(extractor.device)
            for name, module in modules.items()
        }
        self._real: tuple[Features, Tensor] | None = None
        if self._statistics is not None:
            self._compare_with(self._statistics)
        elif cache is not None:
            self._real = cache.load(self._facts(), extractor.device)

    @property
    def real_images(self) -> int | None:
        """The number of real pictures, over all ranks; None where nothing says it."""
        if self._pictures is None:
            assert self._statistics is not None, "there is one of the two"
            return None if self._statistics.about is None else self._statistics.about.pictures
        return sum(counts_of(self._pictures, self.classes).values())

    def batches(self, measured: PictureSet | None = None) -> int:
        """Batches of the next measurement in one process: of real pictures until their features are known.

        Args:
            measured: pictures that are measured; None for a generator.
        """
        real = 0 if self._real is not None or self._pictures is None else len(self._pictures)
        other = self.images if measured is None else len(measured)
        return -(-real // self.batch_size) + -(-other // self.batch_size)

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
        self.check_generator(sampler)
        return self._scores(lambda: self._fake_features(sampler, on_batch), on_batch)

    @torch.no_grad()
    def of_pictures(
        self, pictures: PictureSet, on_batch: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """The scores of pictures that something else made: all of those of the measured classes, or all.

        Raises:
            UserError: as of a generator, or a metric needs the pictures' classes, and they have none.
            RunError: there is no memory for a batch.
        """
        self.check_pictures(pictures)
        return self._scores(lambda: self._features_of(pictures, on_batch), on_batch)

    def check_generator(self, sampler: Sampler) -> None:
        """Refuse one that can't be measured against these pictures.

        Raises:
            UserError: it has other classes or another picture size.
        """
        self._check("the generator", sampler.classes, sampler.resolution, "makes")
        self.check_images()

    def check_images(self) -> None:
        """Refuse fewer generated or real pictures than the metrics need.

        Raises:
            UserError: naming the metric, and how many it needs.
        """
        each, more = divmod(self.images, max(1, len(self.classes)))
        self._check_counts({name: each + (i < more) for i, name in enumerate(self.classes)})

    def check_pictures(self, pictures: PictureSet) -> None:
        """Refuse those that can't be measured against these pictures.

        Raises:
            UserError: as of a generator, or a metric needs the pictures' classes, and they have none.
        """
        classes = pictures.classes or self.classes
        self._check("the folder", classes, pictures.resolution, "has")
        unfit = [name for name, metric in self._metrics.items() if metric.labelled and not pictures.classes]
        if unfit:
            raise UserError(
                f"{', '.join(unfit)} needs to know the class of each picture: put the pictures into "
                f"subfolders with the classes' names, or leave {'them' if len(unfit) > 1 else 'it'} out."
            )
        self._check_counts(counts_of(pictures, self.classes) if pictures.classes else {"": len(pictures)})

    def statistics(self, on_batch: Callable[[], None] = lambda: None) -> "tuple[Gaussian, About]":
        """The gaussian of all real features, the same on all ranks, and what it is of.

        Raises:
            UserError: fewer than two pictures, or there are only statistics of them.
        """
        from cgt.metrics.fid import FrechetDistance
        from cgt.metrics.statistics import About

        if self._pictures is None or self.real_images is None:
            raise UserError("statistics are made of pictures, and the data is statistics already.")
        with self.together(), self._enough_memory():
            real = self._real_features(on_batch)
        metric = FrechetDistance(self.extractor.dim).to(self.extractor.device)
        metric.update(*real, real=True)
        metric.update(*self._joined([]), real=False)
        with metric.sync_context():
            gaussian: Gaussian = metric.gaussian("real")
        about = About(
            pictures=self.real_images,
            classes=tuple(self.classes),
            resolution=self._pictures.resolution,
            data_sha256=self.digest,
            features=self.extractor.protocol,
        )
        return gaussian, about

    def _scores(
        self, fake: Callable[[], tuple[Features, Tensor]], on_batch: Callable[[], None]
    ) -> dict[str, float]:
        with self.together(), self._enough_memory():
            real, made = self._real_features(on_batch), fake()
        scores: dict[str, float] = {}
        counts = len(real[1]) * self.world, len(made[1]) * self.world  # nearly: it is for a bar
        total, done = sum(metric.pairs(*counts) for metric in self._metrics.values()), 0

        def advance(pairs: int) -> None:
            nonlocal done
            done += pairs
            self.on_pairs(min(done, total), total)

        for metric in self._metrics.values():
            metric.reset()
            metric.on_pairs = advance
            metric.update(*real, real=True)
            metric.update(*made, real=False)
            scores |= metric.compute()
            metric.reset()
        return scores

    @contextmanager
    def _enough_memory(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"there is no memory on {self.extractor.device} to measure {self.batch_size} pictures at "
                "once: lower the batch_size of eval."
            ) from error

    def _check(self, what: str, classes: Sequence[str], resolution: int, does: str) -> None:
        _require(f"{what} has no", self.classes, classes)
        if self.resolution not in (None, resolution):
            raise UserError(
                f"{what} {does} pictures of {resolution} px, and the data has {self.resolution} px: build "
                f"shards of that size with `cgt shards build --size {resolution}`."
            )

    def _check_counts(self, generated: Mapping[str, int]) -> None:
        real = None if self._pictures is None else counts_of(self._pictures, self.classes)
        for name, metric in self._metrics.items():
            metric.fewest.check(name, "generated", generated)
            if real is not None:
                metric.fewest.check(name, "real", real)

    def _compare_with(self, statistics: "Statistics") -> None:
        """Take what was saved of the real pictures in their place."""
        if needing := [name for name, metric in self._metrics.items() if metric.reference == "features"]:
            raise UserError(
                f"{', '.join(needing)} can't be had of saved statistics, which are enough for the Frechet "
                "distance alone: give the real pictures' shards, or other metrics."
            )
        statistics.check(self.extractor, self.classes)
        for metric in self._metrics.values():
            if metric.reference == "moments":
                metric.compare_with(statistics.gaussian.to(self.extractor.device))
        self._real = self._joined([])

    def _facts(self) -> dict[str, object]:
        """What the bits of the real features depend on."""
        return {
            "data": self.digest,
            "classes": self.classes,
            "features": self.extractor.protocol,
            "batch_size": self.batch_size,
            "place": (self.rank, self.world),
            "machine": arithmetic(self.extractor.device),
        }

    def _real_features(self, on_batch: Callable[[], None]) -> tuple[Features, Tensor]:
        if self._real is None:
            assert self._pictures is not None, "of statistics there is nothing to take features of"
            self._real = self._features_of(self._pictures, on_batch)
            if self.cache is not None and not self._pictures.skipped:
                self.cache.keep(self._facts(), *self._real)
        return self._real

    def _features_of(self, pictures: PictureSet, on_batch: Callable[[], None]) -> tuple[Features, Tensor]:
        """Of those of the measured classes or, where the pictures have no classes, of all."""
        position = {name: i for i, name in enumerate(self.classes)}
        measured = torch.tensor([position.get(name, -1) for name in pictures.classes])
        parts = []
        for x_N3RR, y_N in pictures.once(self.batch_size, rank=self.rank, world=self.world):
            label_N = measured[y_N.cpu()] if pictures.classes else y_N
            chosen = label_N >= 0 if pictures.classes else torch.ones_like(y_N, dtype=torch.bool)
            if chosen.any():
                parts.append((self.extractor.take(x_N3RR[chosen]), label_N[chosen]))
            on_batch()
        return self._joined(parts)

    def _fake_features(self, sampler: Sampler, on_batch: Callable[[], None]) -> tuple[Features, Tensor]:
        # Drawn for all pictures at once, so that neither the batch size nor the number of ranks changes a
        # picture.
        shape = (self.images, sampler.dim_z)
        z_NZ = latent_range(sampler, None).drawn(shape, self.seed, "eval")
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
            parts.append((self.extractor.take(images.to_uint8(x_N3RR)), label_N[part]))
            on_batch()
        return self._joined(parts)

    def _joined(self, parts: Sequence[tuple[Features, Tensor]]) -> tuple[Features, Tensor]:
        if not parts:  # a rank without a picture still has to say how wide its features are
            side = self.resolution or self.extractor.resolution or 1
            blank = self.extractor.take(torch.zeros(1, 3, side, side, dtype=torch.uint8))
            logits_0K = None if blank.logits_NK is None else blank.logits_NK[:0]
            parts = [(Features(blank.pooled_ND[:0], logits_0K), torch.zeros(0, dtype=torch.long))]
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
