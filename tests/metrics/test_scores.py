"""Each score against an independent computation, and at its edges."""

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.neighbors import NearestNeighbors

from cgt.errors import UserError
from cgt.metrics.accuracy import accuracy
from cgt.metrics.features import Features
from cgt.metrics.fid import FrechetDistance, Gaussian, frechet_distance, frechet_distance_of_gaussians
from cgt.metrics.inception_score import inception_score
from cgt.metrics.kid import kernel_inception_distance
from cgt.metrics.kmmd import kernel_mmd
from cgt.metrics.prdc import precision_recall_density_coverage


def samples(n: int, dim: int, *, seed: int, mean: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator)
    return torch.randn(n, dim, generator=generator) @ mix + mean


def frechet_by_scipy(real: torch.Tensor, fake: torch.Tensor) -> float:
    x, y = real.double().numpy(), fake.double().numpy()
    covariance_x, covariance_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(covariance_x @ covariance_y).real
    means = np.sum((x.mean(0) - y.mean(0)) ** 2)
    return float(means + np.trace(covariance_x + covariance_y - 2 * root))


def test_the_frechet_distance_is_that_of_the_matrix_square_root():
    real, fake = samples(200, 12, seed=0), samples(150, 12, seed=1, mean=0.5)
    assert frechet_distance(real, fake) == pytest.approx(frechet_by_scipy(real, fake), rel=1e-8)


@pytest.mark.parametrize(("n", "m"), [(9, 7), (9, 200), (200, 9), (16, 16)])
def test_the_frechet_distance_from_few_samples_is_that_from_whole_covariances(n, m):
    real, fake = samples(n, 16, seed=0), samples(m, 16, seed=1, mean=0.5)
    whole = [Gaussian.of_sums(len(x), x.double().sum(0), x.double().T @ x.double()) for x in (real, fake)]
    assert frechet_distance(real, fake) == pytest.approx(frechet_distance_of_gaussians(*whole), rel=1e-5)


def test_the_frechet_distance_of_a_shift_is_its_squared_length():
    real = samples(100, 5, seed=0)
    assert frechet_distance(real, real + 3) == pytest.approx(5 * 9, rel=1e-6)


def test_the_frechet_distance_keeps_no_features_once_there_are_more_than_dimensions():
    metric = FrechetDistance(4)
    for part in samples(50, 4, seed=0).split(3):
        metric.update(Features(part), torch.zeros(len(part)), real=True)
    assert sum(map(len, metric.real_few)) == 0
    assert metric.real_count == 50


@pytest.mark.parametrize("pairs_per_block", [1, 7, 64, 10**6])
def test_kmmd_in_blocks_is_kmmd_over_all_pairs_at_once(pairs_per_block):
    real, fake = samples(33, 6, seed=0).double(), samples(21, 6, seed=1, mean=0.3).double()
    x = torch.cat([real, fake])
    d2 = (x[:, None] - x[None]).square().sum(2)
    k = torch.exp(-d2 / (2 * d2[:33, :33].mean()))
    expected = (k[:33, :33].mean() + k[33:, 33:].mean() - 2 * k[:33, 33:].mean()).sqrt()
    assert kernel_mmd(real, fake, pairs_per_block=pairs_per_block) == pytest.approx(
        float(expected), rel=1e-12
    )


def test_kmmd_of_a_set_with_itself_is_zero():
    real = samples(50, 6, seed=0)
    assert kernel_mmd(real, real) == pytest.approx(0, abs=1e-7)


def test_kmmd_is_not_moved_by_an_offset_of_all_features():
    real, fake = samples(50, 6, seed=0).double(), samples(40, 6, seed=1).double()
    assert kernel_mmd(real + 1e6, fake + 1e6) == pytest.approx(kernel_mmd(real, fake), rel=1e-6)


@pytest.mark.parametrize("pairs_per_block", [5, 10**6])
def test_kid_is_the_polynomial_mmd_of_torchmetrics(pairs_per_block):
    from torchmetrics.image.kid import poly_mmd

    real, fake = samples(40, 6, seed=0).double(), samples(40, 6, seed=1, mean=0.3).double()
    value = kernel_inception_distance(real, fake, pairs_per_block=pairs_per_block)
    assert value == pytest.approx(float(poly_mmd(real, fake)), rel=1e-9)


@pytest.mark.filterwarnings("ignore::UserWarning")  # theirs, about memory and a deviation over one split
def test_the_inception_score_without_splits_is_that_of_torchmetrics():
    from torchmetrics.image.inception import InceptionScore

    logits = samples(60, 8, seed=0)
    theirs = InceptionScore(feature=torch.nn.Identity(), splits=1)
    theirs.update(logits)
    assert inception_score(logits, splits=1)[0] == pytest.approx(float(theirs.compute()[0]), rel=1e-5)


def test_the_inception_score_is_one_where_all_pictures_look_alike():
    assert inception_score(torch.ones(20, 5)) == pytest.approx((1, 0), abs=1e-12)


def test_the_inception_score_is_the_number_of_classes_where_each_is_certain():
    certain = torch.eye(5).repeat(20, 1) * 1000
    assert inception_score(certain) == pytest.approx((5, 0), abs=1e-9)


@pytest.mark.parametrize("pairs_per_block", [1, 10**6])
def test_neighbourhood_scores_are_those_of_a_nearest_neighbour_search(pairs_per_block):
    real, fake = samples(40, 3, seed=0), samples(30, 3, seed=1, mean=0.5)
    radius = {
        name: NearestNeighbors(n_neighbors=4).fit(x).kneighbors(x)[0][:, -1]
        for name, x in (("real", real.numpy()), ("fake", fake.numpy()))
    }
    distance = torch.cdist(real, fake).numpy()
    in_real = distance < radius["real"][:, None]
    expected = {
        "precision": in_real.any(0).mean(),
        "recall": (distance < radius["fake"][None]).any(1).mean(),
        "density": in_real.sum(0).mean() / 3,
        "coverage": in_real.any(1).mean(),
    }
    assert 0 < expected["precision"] < 1, "else the comparison says little"
    scores = precision_recall_density_coverage(real, fake, k=3, pairs_per_block=pairs_per_block)
    assert scores == pytest.approx(expected, rel=1e-12)


def test_accuracy_is_the_share_of_rows_whose_largest_logit_is_right():
    logits = torch.tensor([[0.0, 1], [2, 1], [0, 3], [5, 0]])
    assert accuracy(logits, torch.tensor([1, 0, 0, 0])) == 0.75


@pytest.mark.parametrize(
    ("function", "real", "fake"),
    [
        (frechet_distance, 1, 10),
        (frechet_distance, 10, 1),
        (kernel_mmd, 1, 10),
        (kernel_mmd, 10, 0),
        (kernel_inception_distance, 10, 1),
        (precision_recall_density_coverage, 5, 10),
        (precision_recall_density_coverage, 10, 5),
    ],
)
def test_too_few_pictures_are_refused_with_their_number(function, real, fake):
    with pytest.raises(UserError, match=rf"\b{min(real, fake)}\b.*more"):
        function(samples(real, 3, seed=0), samples(fake, 3, seed=1))


def test_an_inception_score_of_fewer_pictures_than_splits_is_refused():
    with pytest.raises(UserError, match="10 generated pictures at least, not 9"):
        inception_score(torch.ones(9, 5))


def test_kmmd_refuses_real_pictures_that_are_all_alike():
    with pytest.raises(UserError, match="same features"):
        kernel_mmd(torch.ones(5, 3), samples(5, 3, seed=0))
