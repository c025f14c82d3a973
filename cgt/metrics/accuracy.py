"""Share of generated pictures that the extractor's classifier takes for the class they were meant to be.

Shapes: N pictures, K classes of the classifier.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.metrics.base import FeatureMetric, Fewest, Scores, not_finite
from cgt.metrics.features.base import FeatureExtractor, Features

SCORES: Scores = {"accuracy": "higher"}


def right(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """Of each row whether its largest logit is that of class y (int64 in [0, K)), bool (N,)."""
    return logits_NK.argmax(1) == y_N


def accuracy(logits_NK: Tensor, y_N: Tensor) -> float:
    """Share in [0, 1] of rows that are `right`."""
    return float(right(logits_NK, y_N).double().mean())


class Accuracy(FeatureMetric):
    """`accuracy` of all generated pictures.

    Args:
        classifier_index: the classifier's index of each class that the metric is built for.
    """

    fewest = Fewest(generated=1)
    reference = "nothing"
    labelled = True
    correct: Tensor
    total: Tensor
    broken: Tensor
    classifier_index: Tensor

    def __init__(self, classifier_index: Sequence[int]) -> None:
        super().__init__()
        self.add_state("correct", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("broken", default=torch.tensor(0), dist_reduce_fx="sum")
        self.register_buffer("classifier_index", torch.tensor(classifier_index), persistent=False)

    def update(self, features: Features, y_N: Tensor, *, real: bool) -> None:
        """Count the generated pictures that are named rightly; real ones play no part."""
        if not real:
            assert features.logits_NK is not None, "build has refused such an extractor"
            self.correct += right(features.logits_NK, self.classifier_index[y_N]).sum()
            self.total += len(y_N)
            self.broken += (~torch.isfinite(features.logits_NK)).any(1).sum()

    def compute(self) -> dict[str, float]:
        """{"accuracy": in [0, 1]}.

        Raises:
            UserError: no generated picture.
            RunError: logits that are not finite.
        """
        if self.total == 0:
            raise UserError("accuracy needs 1 generated picture at least, not 0: generate more.")
        if self.broken > 0:
            raise not_finite(f"{int(self.broken):,} of {int(self.total):,}", "generated")
        return {"accuracy": int(self.correct) / int(self.total)}


def build(extractor: FeatureExtractor, classes: Sequence[str]) -> Accuracy:
    """Needs an extractor whose classifier knows all of `classes` by name.

    Raises:
        UserError: it doesn't.
    """
    known = extractor.classes
    if known is None:
        raise UserError(
            f"accuracy needs a classifier of the classes measured, and the extractor {extractor.name} knows "
            "none by name: train one with `cgt features train SHARDS OUT` and name its folder, or leave "
            "accuracy out."
        )
    missing = [name for name in classes if name not in known]
    if missing:
        raise UserError(
            f"the classifier of {extractor.name} was not trained on {', '.join(map(repr, missing))}: train "
            "one on these classes with `cgt features train`, or leave accuracy out."
        )
    return Accuracy([known.index(name) for name in classes])
