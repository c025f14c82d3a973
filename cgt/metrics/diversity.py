"""How different generated pictures of one class are from each other: beside it, how different real ones are.

The mean over all pairs within a class of |f/|f| - g/|g||^2, and then over the classes. That is the distance
of LPIPS (Zhang et al., 2018), squared and between features of length 1, as few-shot papers measure diversity
within a class; but between the extractor's pooled features instead of the maps of each layer of AlexNet, and
without learned weights. In [0, 2], where the features are not negative.

The mean over pairs needs no pairs: of n vectors u it is 2 (sum |u|^2 - |sum u|^2 / n) / (n - 1). So sums by
class are all that is kept, for any number of pictures, and they add up across ranks.

Shapes: N pictures, K classes, D features.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cgt.errors import UserError
from cgt.metrics.base import FeatureMetric, Fewest, Scores, not_finite
from cgt.metrics.features.base import FeatureExtractor, Features
from cgt.metrics.pairs import ROWS
from cgt.wording import counted

SCORES: Scores = {"diversity": "higher", "diversity_real": "neither"}


class Spread:
    """Sums of unit features by class, float64, which grow in place.

    Args:
        count_K: int64 pictures of each class.
        norm_K: sum of |u|^2: the number of pictures whose features are not all 0.
        sum_KD: sum of u.
    """

    def __init__(self, count_K: Tensor, norm_K: Tensor, sum_KD: Tensor) -> None:
        self.count_K, self.norm_K, self.sum_KD = count_K, norm_K, sum_KD

    @classmethod
    def of_nothing(cls, classes: int, dim: int, device: torch.device) -> "Spread":
        """The sums over no picture."""
        sum_KD = torch.zeros(classes, dim, dtype=torch.float64, device=device)
        norm_K = torch.zeros(classes, dtype=torch.float64, device=device)
        return cls(norm_K.long(), norm_K, sum_KD)

    def add(self, x_ND: Tensor, y_N: Tensor) -> None:
        """Take in features of pictures of the classes `y_N`."""
        for part_ND, part_N in zip(x_ND.split(ROWS), y_N.split(ROWS), strict=True):
            unit_ND = F.normalize(part_ND.double(), dim=1, eps=1e-12)
            self.count_K.index_add_(0, part_N, torch.ones_like(part_N))
            self.norm_K.index_add_(0, part_N, unit_ND.square().sum(1))
            self.sum_KD.index_add_(0, part_N, unit_ND)

    def distances(self) -> Tensor:
        """Mean distance (K,) between two pictures of each class; NaN where there are not two."""
        within_K = self.norm_K - self.sum_KD.square().sum(1) / self.count_K
        return 2 * within_K.clamp_min(0) / (self.count_K - 1)


def diversity(x_ND: Tensor, y_N: Tensor, classes: Sequence[str]) -> float:
    """Mean distance between pictures of one class, over the classes.

    Args:
        x_ND: features.
        y_N: int64 indices of their classes.
        classes: names.

    Raises:
        UserError: fewer than two pictures of a class.
        RunError: features that are not finite.
    """
    spread = Spread.of_nothing(len(classes), x_ND.shape[1], x_ND.device)
    spread.add(x_ND, y_N)
    return _mean(spread, classes, "given")


class Diversity(FeatureMetric):
    """`diversity` of the generated pictures and of the real ones.

    Args:
        classes: names.
        dim: D.
    """

    fewest = Fewest(of_each_class=2)
    labelled = True

    def __init__(self, classes: Sequence[str], dim: int) -> None:
        super().__init__()
        self.classes = tuple(classes)
        for side in ("real", "fake"):
            nothing = Spread.of_nothing(len(classes), dim, torch.device("cpu"))
            self.add_state(f"{side}_count", default=nothing.count_K, dist_reduce_fx="sum")
            self.add_state(f"{side}_norm", default=nothing.norm_K, dist_reduce_fx="sum")
            self.add_state(f"{side}_sum", default=nothing.sum_KD, dist_reduce_fx="sum")

    def update(self, features: Features, y_N: Tensor, *, real: bool) -> None:
        """Add to the sums."""
        self._spread("real" if real else "fake").add(features.pooled_ND, y_N)

    def compute(self) -> dict[str, float]:
        """{"diversity": of generated pictures, "diversity_real": of real ones}."""
        return {
            "diversity": _mean(self._spread("fake"), self.classes, "generated"),
            "diversity_real": _mean(self._spread("real"), self.classes, "real"),
        }

    def _spread(self, side: str) -> Spread:
        return Spread(*(getattr(self, f"{side}_{name}") for name in ("count", "norm", "sum")))


def _mean(spread: Spread, classes: Sequence[str], kind: str) -> float:
    few = [
        f"{name!r} ({count})"
        for name, count in zip(classes, spread.count_K.tolist(), strict=True)
        if count < 2
    ]
    if few:
        shown = ", ".join(few[:5]) + (f" and {counted(len(few) - 5, 'class')} more" if len(few) > 5 else "")
        raise UserError(
            f"diversity needs 2 {kind} pictures of each class, and there are fewer of {shown}: give more, or "
            "measure other classes."
        )
    if not torch.isfinite(spread.sum_KD).all():
        raise not_finite("some", kind)
    return float(spread.distances().mean())


def build(extractor: FeatureExtractor, classes: Sequence[str]) -> Diversity:
    """Any extractor will do."""
    return Diversity(classes, extractor.dim)
