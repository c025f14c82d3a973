"""`cgt features train`: from shards to an extractor's folder."""

import inspect
import json

import pytest

from cgt.cli import main
from cgt.cli.features import train
from cgt.data.write import BuildOptions, build_shards
from cgt.metrics.features import load_extractor
from cgt.metrics.features.cnn_training import CnnTraining

CLASSES = ("red-disk", "gold-star", "dotted-plus")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("shards") / "shapes"
    build_shards(BuildOptions(source="shapes", size=16, per_class=30, classes=CLASSES, shard_mb=1), "-", out)
    return str(out)


def test_it_trains_a_classifier_that_is_then_loaded_with_its_class_names(shards, tmp_path, capsys):
    out = tmp_path / "features"
    assert main(["features", "train", shards, str(out), "--steps", "40"]) == 0
    config = json.loads((out / "config.json").read_text())
    extractor = load_extractor(str(out))
    assert extractor.classes == CLASSES
    assert extractor.resolution == 16
    assert config["held_out_accuracy"] > 0.8
    assert (config["provenance"]["pictures"], config["provenance"]["held_out"]) == (81, 9)
    assert config["provenance"]["data_sha256"]
    assert f"{config['held_out_accuracy']:.3f} on 9 held-out pictures" in capsys.readouterr().out


def test_equal_seeds_give_equal_files(shards, tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(["features", "train", shards, str(tmp_path / name), "--steps", "2", "--seed", seed]) == 0
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_classes_and_a_limit_are_selected(shards, tmp_path):
    options = [
        "--classes",
        "gold-star,red-disk",
        "--per-class",
        "10",
        "--steps",
        "1",
        "--flip",
        "--shift",
        "2",
    ]
    assert main(["features", "train", shards, str(tmp_path / "out"), *options]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["classes"] == ["gold-star", "red-disk"]
    assert (config["provenance"]["pictures"], config["provenance"]["held_out"]) == (18, 2)
    assert (config["provenance"]["flip"], config["provenance"]["shift"]) == (True, 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--classes", "red-disc,gold-star"), "did you mean 'red-disk'"),
        (("--classes", "red-disk"), "two classes"),
    ],
)
def test_bad_classes_are_refused(shards, tmp_path, capsys, options, says):
    assert main(["features", "train", shards, str(tmp_path / "out"), *options]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_shards_that_are_not_there_are_refused(tmp_path, capsys):
    assert main(["features", "train", str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_an_output_that_exists_is_kept_unless_overwriting_is_asked_for(shards, tmp_path, capsys):
    command = ["features", "train", shards, str(tmp_path / "out"), "--steps", "1"]
    assert main(command) == 0
    before = (tmp_path / "out" / "config.json").read_bytes()
    assert main([*command, "--seed", "1"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "out" / "config.json").read_bytes() == before
    assert main([*command, "--seed", "1", "--overwrite"]) == 0
    assert (tmp_path / "out" / "config.json").read_bytes() != before
    assert load_extractor(str(tmp_path / "out")).classes == CLASSES


def test_the_steps_default_to_what_the_training_does():
    assert inspect.signature(train).parameters["steps"].default == CnnTraining().steps


@pytest.mark.parametrize("steps", ["2", "3", "5", "10"])
def test_any_number_of_steps_trains(shards, tmp_path, steps):
    assert main(["features", "train", shards, str(tmp_path / "out"), "--steps", steps]) == 0
