"""Frechet distance of each class alone: how well a class is met, which the distance of all of them may hide.

`fid_per_class` is the mean over the classes (the "intra-FID" of Miyato & Koyama, 2018, weighs them alike
too), `fid_per_class_worst` that of the class that is met worst. Classes mostly have fewer pictures than
features have dimensions: such distances compare only between equal numbers of pictures a class.

Shapes: N real and M generated pictures, D features.
"""

from collections.abc import Sequence

from torch import Tensor

from cgt.errors import UserError
from cgt.metrics.base import ClassFeatureMetric, Fewest, Scores, require_finite
from cgt.metrics.features.base import FeatureExtractor
from cgt.metrics.fid import frechet_distance
from cgt.wording import counted

SCORES: Scores = {"fid_per_class": "lower", "fid_per_class_worst": "lower"}


def frechet_distance_per_class(
    real_ND: Tensor, real_y_N: Tensor, fake_MD: Tensor, fake_y_M: Tensor, classes: Sequence[str]
) -> dict[str, float]:
    """The Frechet distance of each class by its name, in float64.

    Args:
        real_ND: real features.
        real_y_N: int64 indices of their classes.
        fake_MD: generated features.
        fake_y_M: int64 indices of their classes.
        classes: names.

    Raises:
        UserError: fewer than two pictures of a class in either set.
        RunError: features that are not finite.
    """
    few = [
        f"{name!r} ({real} and {fake})"
        for name, real, fake in zip(
            classes,
            real_y_N.bincount(minlength=len(classes)).tolist(),
            fake_y_M.bincount(minlength=len(classes)).tolist(),
            strict=True,
        )
        if min(real, fake) < 2
    ]
    if few:
        shown = ", ".join(few[:5]) + (f" and {counted(len(few) - 5, 'class')} more" if len(few) > 5 else "")
        raise UserError(
            f"the Frechet distance per class needs 2 real and 2 generated pictures of each, and there are "
            f"fewer of {shown}: give more, or measure other classes."
        )
    require_finite(real_ND, fake_MD)
    return {
        name: frechet_distance(real_ND[real_y_N == y], fake_MD[fake_y_M == y])
        for y, name in enumerate(classes)
    }


class FrechetDistancePerClass(ClassFeatureMetric):
    """Mean and worst of `frechet_distance_per_class` over everything taken in."""

    fewest = Fewest(of_each_class=2)
    by_class: dict[str, float]
    """Each class's own distance, of the last `compute`."""

    def compute(self) -> dict[str, float]:
        """{"fid_per_class": the mean, "fid_per_class_worst": the largest}."""
        (real, fake), (real_y, fake_y) = self.pooled(), self.labels()
        self.by_class = frechet_distance_per_class(real, real_y, fake, fake_y, self.classes)
        distances = self.by_class.values()
        return {"fid_per_class": sum(distances) / len(distances), "fid_per_class_worst": max(distances)}


def build(extractor: FeatureExtractor, classes: Sequence[str]) -> FrechetDistancePerClass:
    """Any extractor will do."""
    return FrechetDistancePerClass(classes)
