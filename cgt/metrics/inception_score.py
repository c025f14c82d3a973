"""Inception score (Salimans et al., 2016): exp of the mean KL divergence from p(class | picture) to p(class).

The mean and the population standard deviation over 10 consecutive parts of the generated pictures, as
published results give them. Those are about the logits of Inception: `inception-tf`, or the paper's protocol
`inception-torchvision`. Of another classifier it is a score of the same kind, and compares with nothing else.

Shapes: N pictures, K classes of the classifier.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.metrics.base import FeatureMetric, Fewest, Scores, require_finite, rows
from cgt.metrics.features.base import FeatureExtractor, Features

SCORES: Scores = {"inception_score": "higher", "inception_score_std": "neither"}
SPLITS = 10


def inception_score(logits_NK: Tensor, *, splits: int = SPLITS) -> tuple[float, float]:
    """Mean (in [1, K]) and standard deviation over `splits` consecutive parts, in float64.

    Raises:
        UserError: fewer rows than splits.
        RunError: logits that are not finite.
    """
    n = len(logits_NK)
    if n < splits:
        raise UserError(
            f"the Inception score needs {splits} generated pictures at least, not {n}: generate more."
        )
    require_finite(logits_NK[:0], logits_NK)
    parts = []
    for i in range(splits):
        log_p = logits_NK[i * n // splits : (i + 1) * n // splits].double().log_softmax(1)
        p = log_p.exp()
        # xlogy gives 0 for a class of probability 0.
        marginal_entropy = -torch.xlogy(p.mean(0), p.mean(0)).sum()
        parts.append(((p * log_p).sum(1).mean() + marginal_entropy).exp())
    scores = torch.stack(parts)
    return float(scores.mean()), float(scores.std(correction=0))


class InceptionScore(FeatureMetric):
    """`inception_score` with 10 splits of all generated pictures, in the order of ranks and updates."""

    fewest = Fewest(generated=SPLITS)
    reference = "nothing"
    logits: list[Tensor] | Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("logits", default=[], dist_reduce_fx="cat")

    def update(self, features: Features, y_N: Tensor, *, real: bool) -> None:
        """Keep the logits of generated pictures; real ones play no part."""
        if not real:
            assert features.logits_NK is not None, "build has refused such an extractor"
            assert isinstance(self.logits, list), "the state is a tensor only while ranks are in step"
            self.logits.append(features.logits_NK)

    def compute(self) -> dict[str, float]:
        """{"inception_score": mean, "inception_score_std": over the splits}."""
        mean, std = inception_score(rows(self.logits))
        return {"inception_score": mean, "inception_score_std": std}


def build(extractor: FeatureExtractor, classes: Sequence[str]) -> InceptionScore:
    """Needs an extractor with a classifier, whatever its classes.

    Raises:
        UserError: it has none.
    """
    if not extractor.has_logits:
        raise UserError(
            f"the Inception score needs a classifier, and the extractor {extractor.name} has none: use "
            "inception-tf, inception-torchvision, clean or one that `cgt features train` made, or leave "
            "inception-score out."
        )
    return InceptionScore()
