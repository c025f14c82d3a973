"""The reference values of `metrics.npz`: float64 results of the original programs on stored features."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cgt.metrics.fid import frechet_distance
from cgt.metrics.inception_score import inception_score
from cgt.metrics.kid import kernel_inception_distance
from cgt.metrics.kmmd import kernel_mmd
from cgt.metrics.prdc import precision_recall_density_coverage

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.mark.parametrize("case", ["tall", "short"])
@pytest.mark.parametrize(
    ("score", "function"),
    [("frechet", frechet_distance), ("kmmd", kernel_mmd), ("kid", kernel_inception_distance)],
)
def test_a_distance_equals_the_reference(golden, case, score, function):
    # With fewer rows than columns the reference's own square root is good to 1e-3.
    tolerance = 1e-3 if (case, score) == ("short", "frechet") else 1e-6
    value = function(golden[f"{case}_real"], golden[f"{case}_fake"])
    assert value == pytest.approx(float(golden[f"{case}_{score}"]), rel=tolerance)


@pytest.mark.parametrize("case", ["tall", "short"])
def test_the_neighbourhood_scores_equal_the_references(golden, case):
    scores = precision_recall_density_coverage(golden[f"{case}_real"], golden[f"{case}_fake"])
    assert scores == pytest.approx({name: float(golden[f"{case}_{name}"]) for name in scores}, rel=1e-6)


def test_the_inception_score_equals_the_reference(golden):
    mean, std = inception_score(golden["is_logits"])
    assert mean == pytest.approx(float(golden["is_mean"]), rel=1e-6)
    assert std == pytest.approx(float(golden["is_std"]), rel=1e-6)


def test_every_number_of_the_file_is_looked_at(golden):
    scores = {name for name, value in golden.items() if value.ndim == 0}
    pairs = ("frechet", "kmmd", "kid", "precision", "recall", "density", "coverage")
    assert scores == {f"{case}_{score}" for case in ("tall", "short") for score in pairs} | {
        "is_mean",
        "is_std",
    }
