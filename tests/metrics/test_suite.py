"""The evaluator: which pictures it makes, what it compares them with, and what it refuses."""

import math
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from cgt.errors import RunError, UserError
from cgt.metrics.features import FeatureExtractor, Features
from cgt.metrics.settings import EvalConfig, directions, lower_is_better
from cgt.metrics.suite import Evaluator
from tests.tiny import RESOLUTION, MemoryPictures

CLASSES = ("ant", "bee", "cat")


class Means(FeatureExtractor):
    """Features that a test can predict: mean colours of the quadrants; the classifier goes by brightness."""

    def __init__(self, classes: tuple[str, ...] | None = CLASSES) -> None:
        super().__init__("means", 12, classes=classes, has_logits=True)
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.pictures_seen = 0
        self.frozen("0" * 64)

    def forward(self, x_N3HW: Tensor) -> Features:
        assert x_N3HW.dtype == torch.uint8
        self.pictures_seen += len(x_N3HW)
        pooled_ND = torch.nn.functional.adaptive_avg_pool2d(x_N3HW.float(), 2).flatten(1) / 255
        brightness = pooled_ND.mean(1, keepdim=True)
        return Features(pooled_ND, -((brightness - torch.tensor([0.25, 0.5, 0.75])) ** 2))


class Painter:
    """Plain pictures whose brightness says the class, with a little noise; classes in an order of its own."""

    training = False
    classes = ("cat", "dog", "ant", "bee")
    brightness = (0.75, 0.0, 0.25, 0.5)
    dim_z = 4
    resolution = RESOLUTION
    levelled = False

    def level(self, truncation: float | None) -> float:
        return 1.0

    def __init__(self) -> None:
        self.labels: list[int] = []
        self.noise: list[Tensor] = []

    def __call__(self, z_NZ: Tensor, y_N: Tensor) -> Tensor:
        self.labels += y_N.tolist()
        self.noise.append(z_NZ)
        level_N = torch.tensor(self.brightness)[y_N] * 2 - 1 + 0.05 * z_NZ.mean(1)
        texture = z_NZ.repeat(1, 3 * RESOLUTION**2 // 4).view(-1, 3, RESOLUTION, RESOLUTION)
        return level_N[:, None, None, None] + 0.05 * texture


def scores(batch_size: int = 16, **options: object) -> dict[str, float]:
    arguments = {"metrics": ("fid", "kmmd", "accuracy"), "images": 50, "seed": 0, **options}
    return Evaluator(MemoryPictures(CLASSES, 12), Means(), batch_size=batch_size, **arguments)(Painter())


def test_scores_do_not_depend_on_the_batch_size():
    whole = scores(batch_size=100)
    for batch_size in (1, 7, 16):
        assert scores(batch_size=batch_size) == pytest.approx(whole, rel=1e-6)


def test_scores_repeat_for_a_seed_and_change_with_it():
    assert scores(seed=3) == scores(seed=3)
    assert scores(seed=3)["fid"] != scores(seed=4)["fid"]


def test_the_generators_classes_are_matched_by_name():
    assert scores()["accuracy"] == 1


def test_labels_go_round_the_measured_classes():
    painter = Painter()
    Evaluator(MemoryPictures(CLASSES), Means(), ["fid"], 8, 0, 3)(painter)
    cat, _, ant, bee = range(4)
    assert painter.labels == [ant, bee, cat, ant, bee, cat, ant, bee]


def test_only_pictures_of_the_measured_classes_count():
    pictures, extractor = MemoryPictures(CLASSES, 12), Means()
    evaluator = Evaluator(pictures, extractor, ["fid"], 30, 0, 16, classes=["cat"])
    alone = Evaluator(MemoryPictures(CLASSES, 12), Means(), ["fid"], 30, 0, 16)
    assert evaluator.real_images == 12
    chosen = pictures.x_P3RR[pictures.y_P == 2]
    real, _ = evaluator._real_features(lambda: None)
    assert torch.equal(real.pooled_ND, extractor(chosen).pooled_ND)
    assert evaluator(Painter()) != alone(Painter())


def test_real_features_are_taken_once_for_many_generators():
    extractor = Means()
    evaluator = Evaluator(MemoryPictures(CLASSES, 12), extractor, ["fid", "kmmd", "kid"], 20, 0, 16)
    first = evaluator(Painter())
    assert extractor.pictures_seen == 36 + 20
    assert evaluator(Painter()) == first
    assert extractor.pictures_seen == 36 + 20 + 20


def test_every_batch_is_reported():
    calls: list[None] = []
    evaluator = Evaluator(MemoryPictures(CLASSES, 12), Means(), ["fid"], 20, 0, 16)
    expected = evaluator.batches()
    evaluator(Painter(), lambda: calls.append(None))
    assert len(calls) == expected == 3 + 2
    evaluator(Painter(), lambda: calls.append(None))
    assert len(calls) == expected + 2 == expected + evaluator.batches()


class SharedPictures(MemoryPictures):
    """Pictures of which each rank gets its part."""

    def once(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in super().once(batch_size):
            part = slice(len(x) * rank // world, len(x) * (rank + 1) // world)
            yield x[part], y[part]


@pytest.mark.parametrize("world", [2, 3, 40])
def test_the_shares_of_ranks_make_up_what_one_process_measures(world):
    """A world of 40 leaves ranks without real or generated pictures."""

    def shares(world: int) -> list[Tensor]:
        parts = []
        for rank in range(world):
            pictures = SharedPictures(CLASSES, 12)
            evaluator = Evaluator(pictures, Means(), ["fid"], 20, 0, 16, rank=rank, world=world)
            real, fake = (
                evaluator._real_features(lambda: None),
                evaluator._fake_features(Painter(), lambda: None),
            )
            parts.append((real[0].pooled_ND, fake[0].pooled_ND, fake[1]))
        return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]

    one, many = shares(1), shares(world)
    assert torch.equal(one[0].sort(0).values, many[0].sort(0).values)
    assert torch.allclose(one[1], many[1])
    assert torch.equal(one[2], many[2])


def test_pictures_that_are_not_finite_end_the_measurement():
    painter = Painter()
    painter.brightness = (0.75, 0.0, math.nan, 0.5)
    with pytest.raises(RunError, match="not finite"):
        Evaluator(MemoryPictures(CLASSES), Means(), ["fid"], 8, 0, 4)(painter)


def test_a_batch_that_does_not_fit_into_the_memory_ends_the_measurement_with_advice():
    class Large(Painter):
        def __call__(self, z_NZ, y_N):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RunError, match=r"no memory on cpu to measure 4 pictures .* lower the batch_size"):
        Evaluator(MemoryPictures(CLASSES), Means(), ["fid"], 8, 0, 4)(Large())


@pytest.mark.parametrize(
    ("metric", "pictures", "images", "words"),
    [
        ("inception-score", 2, 9, "inception-score needs 10 generated pictures at least, not 9: give more"),
        ("prdc", 2, 5, "prdc needs 6 generated pictures at least, not 5"),
        ("prdc", 1, 6, "prdc needs 6 real pictures at least, not 3"),
        ("fid-per-class", 2, 5, r"2 generated pictures of each class, and there are fewer of 'cat' \(1\)"),
        ("diversity", 1, 6, r"2 real pictures of each class, and there are fewer of 'ant' \(1\), 'bee'"),
    ],
)
def test_too_few_pictures_are_refused_before_any_features_are_taken(metric, pictures, images, words):
    extractor = Means()
    evaluator = Evaluator(MemoryPictures(CLASSES, pictures), extractor, [metric], images, 0, 4)
    with pytest.raises(UserError, match=words):
        evaluator(Painter())
    assert extractor.pictures_seen == 0


def test_statistics_that_do_not_fit_into_the_memory_end_with_advice():
    class Large(Means):
        def forward(self, x_N3HW):
            raise torch.OutOfMemoryError("CUDA out of memory")

    evaluator = Evaluator(MemoryPictures(CLASSES), Large(), ["fid"], 8, 0, 4)
    with pytest.raises(RunError, match=r"no memory on cpu to measure 4 pictures .* lower the batch_size"):
        evaluator.statistics()


def test_features_are_without_tf32_and_the_switch_is_left_as_it_was():
    class Asking(Means):
        def forward(self, x_N3HW):
            assert not torch.backends.cudnn.allow_tf32
            return super().forward(x_N3HW)

    before = torch.backends.cudnn.allow_tf32
    assert before, "torch's default, without which this shows nothing"
    Evaluator(MemoryPictures(CLASSES), Asking(), ["fid"], 8, 0, 4)(Painter())
    assert torch.backends.cudnn.allow_tf32 == before


def test_every_batch_of_measured_pictures_is_reported_whatever_their_classes():
    calls: list[None] = []
    pictures = MemoryPictures(CLASSES, 12)
    evaluator = Evaluator(pictures, Means(), ["fid"], 12, 0, 5, classes=["bee"])
    expected = evaluator.batches(pictures)
    evaluator.of_pictures(pictures, lambda: calls.append(None))
    assert len(calls) == expected == 8 + 8


def test_classes_that_the_data_lacks_are_named():
    with pytest.raises(UserError, match=r"the data has no pictures of 'cow'.*ant, bee, cat"):
        Evaluator(MemoryPictures(CLASSES), Means(), ["fid"], 8, 0, 4, classes=["ant", "cow"])


def test_classes_that_the_generator_lacks_are_named():
    evaluator = Evaluator(MemoryPictures(("ant", "dogs")), Means(), ["fid"], 8, 0, 4)
    with pytest.raises(UserError, match=r"the generator has no 'dogs' \(did you mean 'dog'\?\)"):
        evaluator(Painter())


def test_a_generator_of_another_picture_size_is_refused():
    painter = Painter()
    painter.resolution = 64
    with pytest.raises(UserError, match=r"64 px.*--size 64"):
        Evaluator(MemoryPictures(CLASSES), Means(), ["fid"], 8, 0, 4)(painter)


def test_an_extractor_for_another_picture_size_is_refused():
    extractor = Means()
    extractor.resolution = 64
    with pytest.raises(UserError, match="64 px"):
        Evaluator(MemoryPictures(CLASSES), extractor, ["fid"], 8, 0, 4)


@pytest.mark.parametrize(
    ("classes", "says"), [(None, "knows none by name"), (("ant", "bee"), "not trained on 'cat'")]
)
def test_accuracy_needs_a_classifier_of_the_measured_classes(classes, says):
    with pytest.raises(UserError, match=says):
        Evaluator(MemoryPictures(CLASSES), Means(classes), ["accuracy"], 8, 0, 4)


def test_an_inception_score_needs_a_classifier():
    extractor = Means()
    extractor.has_logits = False
    with pytest.raises(UserError, match="needs a classifier"):
        Evaluator(MemoryPictures(CLASSES), extractor, ["inception-score"], 8, 0, 4)


def test_an_unknown_metric_is_refused_with_a_guess():
    with pytest.raises(UserError, match=r"'kmdd' \(did you mean 'kmmd'\?\)"):
        Evaluator(MemoryPictures(CLASSES), Means(), ["kmdd"], 8, 0, 4)
    with pytest.raises(ValidationError, match="did you mean 'kmmd'"):
        EvalConfig(metrics=("fid", "kmdd"))


@pytest.mark.parametrize("classes", ["bee,ant", ("bee", "ant"), ["bee", "ant"], "names.txt"])
def test_the_measured_classes_are_given_in_the_forms_of_data(classes, tmp_path, monkeypatch):
    (tmp_path / "names.txt").write_text("# insects\nbee\nant\n")
    monkeypatch.chdir(tmp_path)
    config = EvalConfig(classes=classes)
    evaluator = Evaluator(MemoryPictures(CLASSES), Means(), ["fid"], 8, 0, 4, config.classes)
    assert evaluator.classes == ("bee", "ant")


def test_class_names_that_yaml_reads_as_numbers_are_names():
    evaluator = Evaluator(
        MemoryPictures(("7", "8")), Means(), ["fid"], 8, 0, 4, EvalConfig(classes=8).classes
    )
    assert evaluator.classes == ("8",)
    assert EvalConfig(classes=[7, 8]).classes == ("7", "8")


def test_an_empty_list_of_metrics_is_refused():
    with pytest.raises(ValidationError, match="at least"):
        EvalConfig(metrics=())


def test_every_score_says_which_way_is_better():
    assert directions(["fid", "accuracy"]) == {"fid": "lower", "accuracy": "higher"}
    assert lower_is_better("kmmd", ["fid", "kmmd"])
    assert not lower_is_better("recall", ["prdc"])


@pytest.mark.parametrize("score", ["accuracy", "fidd", "inception_score_std"])
def test_models_are_ranked_only_by_a_score_that_is_measured_and_has_a_better_side(score):
    with pytest.raises(UserError, match=rf"'{score}'.*fid, inception_score\b"):
        lower_is_better(score, ["fid", "inception-score"])


def test_reading_configs_does_not_wait_for_torchmetrics():
    code = "import sys, cgt.metrics.settings as s; s.EvalConfig(); sys.exit('torchmetrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
