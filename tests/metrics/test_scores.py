"""Each score against an independent computation, and at its edges."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.neighbors import NearestNeighbors

from cgt import catalog, rng
from cgt.errors import RunError, UserError
from cgt.metrics.accuracy import Accuracy, accuracy
from cgt.metrics.diversity import Diversity, diversity
from cgt.metrics.features import Features
from cgt.metrics.fid import FrechetDistance, frechet_distance
from cgt.metrics.fid_per_class import FrechetDistancePerClass, frechet_distance_per_class
from cgt.metrics.gaussian import Gaussian, frechet_distance_of_gaussians
from cgt.metrics.inception_score import InceptionScore, inception_score
from cgt.metrics.kid import (
    KernelInceptionDistance,
    kernel_inception_distance,
    kernel_inception_distance_of_subsets,
    subset_size,
)
from cgt.metrics.kmmd import KernelMMD, kernel_mmd
from cgt.metrics.memorisation import Memorisation, memorisation, nearest_neighbours
from cgt.metrics.prdc import PrecisionRecallDensityCoverage, precision_recall_density_coverage


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


def test_the_frechet_distance_keeps_a_bounded_number_of_features():
    metric = FrechetDistance(4)
    for part in samples(10_000, 4, seed=0).split(999):
        metric.update(Features(part), torch.zeros(len(part)), real=True)
        assert sum(map(len, metric.real_few)) <= metric.few < 5000
    assert metric.real_count + sum(map(len, metric.real_few)) == 10_000


@pytest.mark.parametrize("few", [0, 7, 64, 1000])
def test_the_frechet_distance_from_sums_is_that_from_samples(few):
    """Also where one side is kept as sums and the other whole, and where the sums are asked for twice."""
    real, fake = samples(90, 19, seed=0), samples(50, 19, seed=1, mean=0.5)
    metric = FrechetDistance(19, few)
    for part in real.split(8):
        metric.update(Features(part), torch.zeros(len(part)), real=True)
    metric.update(Features(fake), torch.zeros(50), real=False)
    expected = pytest.approx(frechet_by_scipy(real, fake), rel=1e-6)
    assert metric.compute()["fid"] == expected
    metric.update(Features(real[:0]), torch.zeros(0), real=True)
    assert metric.compute()["fid"] == expected


def test_the_frechet_distance_of_dependent_features_is_that_of_those_they_depend_on():
    """Roots of eigenvalues that rounding alone makes do not count."""
    mixing = samples(20, 256, seed=2).double()
    real, fake = samples(900, 20, seed=0).double(), samples(900, 20, seed=1, mean=0.5).double()
    within = torch.linalg.qr(mixing.T).R.T  # the same distances in 20 dimensions
    expected = frechet_distance(real @ within, fake @ within)
    assert frechet_distance(real @ mixing, fake @ mixing) == pytest.approx(expected, rel=1e-10)


def test_the_frechet_distance_survives_features_that_never_move():
    """A singular covariance has no Cholesky factor."""
    real, fake = samples(60, 8, seed=0), samples(60, 8, seed=1, mean=0.5)
    real[:, 3], fake[:, 3] = 2, 2
    without = [x[:, [0, 1, 2, 4, 5, 6, 7]] for x in (real, fake)]
    assert frechet_distance(real, fake) == pytest.approx(frechet_by_scipy(*without), rel=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")  # theirs, about the size of the sums
def test_the_frechet_distance_is_that_of_torchmetrics():
    from torchmetrics.image.fid import _compute_fid

    real, fake = samples(200, 12, seed=0).double(), samples(150, 12, seed=1, mean=0.5).double()
    theirs = _compute_fid(real.mean(0), real.T.cov(), fake.mean(0), fake.T.cov())
    assert frechet_distance(real, fake) == pytest.approx(float(theirs), rel=1e-6)


def test_the_frechet_distance_per_class_is_that_of_each_class_alone():
    real, fake = samples(60, 5, seed=0), samples(40, 5, seed=1, mean=0.5)
    real_y, fake_y = torch.arange(60) % 2, torch.arange(40) % 2
    value = frechet_distance_per_class(real, real_y, fake, fake_y, ("even", "odd"))
    expected = {name: frechet_by_scipy(real[i::2], fake[i::2]) for i, name in enumerate(("even", "odd"))}
    assert value == pytest.approx(expected, rel=1e-6)


def test_the_scores_per_class_are_the_mean_and_the_worst():
    metric = FrechetDistancePerClass(("even", "odd"))
    for real, x in ((True, samples(60, 5, seed=0)), (False, samples(40, 5, seed=1, mean=0.5))):
        metric.update(Features(x), torch.arange(len(x)) % 2, real=real)
    scores = metric.compute()
    each = metric.by_class.values()
    assert scores == pytest.approx({"fid_per_class": np.mean([*each]), "fid_per_class_worst": max(each)})
    assert len(set(each)) == 2


def test_diversity_is_the_mean_over_all_pairs_of_a_class_and_then_over_the_classes():
    x, y = samples(31, 6, seed=0, mean=1), torch.arange(31) % 3
    x[4] = 0  # no direction: as far from every other as a half
    unit = torch.nn.functional.normalize(x.double(), dim=1)
    of_class = []
    for label in range(3):
        pairs = itertools.combinations(unit[y == label], 2)
        of_class.append(np.mean([float((u - v).square().sum()) for u, v in pairs]))
    assert diversity(x, y, "abc") == pytest.approx(np.mean(of_class), rel=1e-9)


def test_diversity_of_equal_pictures_is_zero_and_real_pictures_have_their_own():
    metric = Diversity(("only",), 6)
    metric.update(Features(torch.ones(5, 6)), torch.zeros(5, dtype=torch.long), real=False)
    real = samples(7, 6, seed=0)
    metric.update(Features(real), torch.zeros(7, dtype=torch.long), real=True)
    scores = metric.compute()
    assert scores["diversity"] == pytest.approx(0, abs=1e-12)
    assert scores["diversity_real"] == pytest.approx(
        diversity(real, torch.zeros(7, dtype=torch.long), ("only",)), rel=1e-12
    )


@pytest.mark.parametrize("pairs_per_block", [1, 50, 10**6])
def test_nearest_neighbours_are_those_of_a_nearest_neighbour_search(pairs_per_block):
    real, fake = samples(40, 3, seed=0), samples(30, 3, seed=1)
    distance, index = NearestNeighbors(n_neighbors=1).fit(real.numpy()).kneighbors(fake.numpy())
    found = nearest_neighbours(fake, real, pairs_per_block=pairs_per_block)
    assert found.index_N.tolist() == index[:, 0].tolist()
    assert found.distance_N.numpy() == pytest.approx(distance[:, 0], rel=1e-5)
    distance, index = NearestNeighbors(n_neighbors=2).fit(real.numpy()).kneighbors(real.numpy())
    among = nearest_neighbours(real, pairs_per_block=pairs_per_block)
    assert among.index_N.tolist() == index[:, 1].tolist()
    assert among.distance_N.numpy() == pytest.approx(distance[:, 1], rel=1e-5)


def test_memorisation_is_the_share_nearer_to_a_real_picture_than_its_real_neighbour():
    real = torch.tensor([[0.0, 0], [4, 0], [10, 0]])
    fake = torch.tensor([[1.0, 0], [5, 0], [16.5, 0], [0, 7]])
    scores = memorisation(real, fake)
    assert scores["memorised"] == 0.5
    assert scores["nearest_ratio"] == pytest.approx(((1 + 1 + 6.5 + 7) / 4) / ((4 + 4 + 6) / 3))


def test_copies_are_all_memorised_and_fresh_pictures_as_far_as_real_ones():
    real = samples(500, 16, seed=0)
    assert memorisation(real, real[:100])["memorised"] == 1
    generator = torch.Generator().manual_seed(5)
    x, y = torch.randn(500, 16, generator=generator), torch.randn(500, 16, generator=generator)
    assert memorisation(x, y)["nearest_ratio"] == pytest.approx(1, abs=0.05)


def test_memorisation_refuses_real_pictures_that_all_stand_there_twice():
    real = samples(50, 64, seed=0).repeat(2, 1)
    with pytest.raises(UserError, match="at least twice"):
        memorisation(real, samples(5, 64, seed=1))


def test_equal_features_are_at_no_distance_at_all():
    real = samples(50, 64, seed=0)
    copies = nearest_neighbours(real.flip(0), real)
    assert copies.index_N.tolist() == list(range(49, -1, -1))
    assert copies.distance_N.tolist() == [0] * 50


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


def test_kid_of_subsets_is_the_mean_of_torchmetrics_over_the_same_subsets():
    from torchmetrics.image.kid import poly_mmd

    real, fake = samples(50, 6, seed=0).double(), samples(40, 6, seed=1, mean=0.3).double()
    expected = []
    for i in range(7):
        x, y = (
            part[rng.permutation(len(part), 3, f"KID {side}", i)[:11]]
            for side, part in (("real", real), ("generated", fake))
        )
        expected.append(float(poly_mmd(x, y)))
    mean, std = kernel_inception_distance_of_subsets(real, fake, seed=3, subsets=7, size=11)
    assert mean == pytest.approx(np.mean(expected), rel=1e-9)
    assert std == pytest.approx(np.std(expected), rel=1e-9)


def test_kid_of_subsets_repeats_for_a_seed_changes_with_it_and_estimates_kid():
    real, fake = samples(80, 6, seed=0), samples(60, 6, seed=1, mean=0.3)
    first = kernel_inception_distance_of_subsets(real, fake, seed=1)
    assert kernel_inception_distance_of_subsets(real, fake, seed=1) == first
    assert kernel_inception_distance_of_subsets(real, fake, seed=2) != first
    mean, std = kernel_inception_distance_of_subsets(real, fake, subsets=400)
    assert mean == pytest.approx(kernel_inception_distance(real, fake), abs=4 * std / 400**0.5)


def test_subsets_have_the_published_size_where_there_are_enough_pictures_and_half_where_not():
    assert subset_size(50_000, 5000) == 1000
    assert subset_size(50_000, 600) == 300
    assert subset_size(3, 2) == 2


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
        (memorisation, 1, 10),
        (memorisation, 10, 0),
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


def fed(metric, real: torch.Tensor, fake: torch.Tensor):
    """The metric after these features, of three classes in turn; the logits hold what the features do."""
    for is_real, x in ((True, real), (False, fake)):
        metric.update(Features(x, x), torch.arange(len(x)) % 3, real=is_real)
    return metric


def of_every_kind() -> list:
    return [
        Accuracy((0, 1, 2)),
        Diversity(("ant", "bee", "cat"), 3),
        FrechetDistance(3),
        FrechetDistance(3, few=0),
        FrechetDistancePerClass(("ant", "bee", "cat")),
        InceptionScore(),
        KernelInceptionDistance(),
        KernelMMD(),
        Memorisation(),
        PrecisionRecallDensityCoverage(),
    ]


@pytest.fixture(params=range(len(of_every_kind())), ids=lambda i: type(of_every_kind()[i]).__name__)
def metric(request):
    return of_every_kind()[request.param]


def test_the_list_above_misses_no_metric():
    assert {type(metric).__module__ for metric in of_every_kind()} == {
        f"cgt.metrics.{name.replace('-', '_')}" for name in catalog.names("cgt.metrics")
    }


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused_as_what_they_are(metric, value):
    broken = samples(60, 3, seed=0)
    broken[7, 1] = value
    with pytest.raises(RunError, match=r"^(some|1 of 60) generated pictures .* not finite .*damaged weights"):
        fed(metric, samples(60, 3, seed=1), broken).compute()


def test_no_picture_is_too_few_and_said_so(metric):
    with pytest.raises(UserError, match=r"(give|generate) more"):
        fed(metric, samples(60, 3, seed=1), samples(0, 3, seed=0)).compute()


def test_classes_of_one_picture_are_named_with_their_numbers():
    for metric in (FrechetDistancePerClass(("ant", "bee", "cat")), Diversity(("ant", "bee", "cat"), 3)):
        with pytest.raises(UserError, match=r"2 .*'bee' \(.*1\), 'cat' \(.*1\)"):
            fed(metric, samples(60, 3, seed=1), samples(4, 3, seed=0)).compute()


def test_the_pairs_that_are_told_of_are_those_announced(metric):
    told: list[int] = []
    metric.on_pairs = told.append
    fed(metric, samples(33, 3, seed=1), samples(30, 3, seed=0)).compute()
    assert sum(told) == metric.pairs(33, 30)
