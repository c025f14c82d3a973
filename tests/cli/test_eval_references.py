"""`cgt eval` of pictures that are there already, against statistics, and with features that are kept."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cgt import images
from cgt.cli import main
from cgt.files import sha256
from cgt.metrics.feature_cache import FeatureCache
from cgt.metrics.features import Features
from tests.cli.test_eval import NEW, OLD, SIZE, features, measured, model, model_folder, refused, shards

__all__ = ["features", "model", "shards"]  # fixtures


@pytest.fixture
def of(shards: str, features: str) -> tuple[str, ...]:
    return "--data", shards, "--features", features


@pytest.fixture
def samples(model: str, tmp_path: Path) -> Path:
    assert main(["sample", model, "--out", str(tmp_path / "samples"), "--per-class", "10"]) == 0
    return tmp_path / "samples"


def test_samples_on_disk_score_what_they_are(samples: Path, of: tuple[str, ...], capsys) -> None:
    result = measured(capsys, str(samples), *of, "--metrics", "fid,accuracy")
    assert (result["images"], result["seed"]) == (30, None)
    assert sorted(result["classes"]) == sorted([*OLD, *NEW])
    assert set(result["metrics"]) == {"fid", "accuracy"}
    only = measured(capsys, str(samples), *of, "--classes", "gold-disk")
    assert (only["images"], only["data"]["pictures"]) == (10, 12)


def test_real_pictures_measured_as_such_are_at_no_distance(shards: str, of: tuple[str, ...], capsys) -> None:
    result = measured(capsys, shards, *of, "--metrics", "fid,kmmd")
    assert result["images"] == result["data"]["pictures"] == 36
    assert result["metrics"]["fid"] == pytest.approx(0, abs=1e-6)
    assert result["metrics"]["kmmd"] == pytest.approx(0, abs=1e-6)


def flat(folder: Path, count: int = 6, size: int = SIZE) -> Path:
    folder.mkdir()
    for i in range(count):
        picture = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
        (folder / f"{i}.png").write_bytes(images.encode_png(picture))
    return folder


def test_pictures_without_classes_are_measured_by_what_needs_none(tmp_path: Path, of, capsys) -> None:
    folder = flat(tmp_path / "flat")
    assert measured(capsys, str(folder), *of)["images"] == 6
    assert "accuracy needs to know the class of each picture" in refused(
        capsys, str(folder), *of, "--metrics", "fid,accuracy"
    )


def test_pictures_of_another_size_are_refused(tmp_path: Path, of: tuple[str, ...], capsys) -> None:
    folder = flat(tmp_path / "large", size=2 * SIZE)
    assert "has pictures of 16 px, and the data has 8 px" in refused(capsys, str(folder), *of)
    odd = flat(tmp_path / "odd")
    (odd / "9.png").write_bytes(images.encode_png(torch.zeros(3, 4, 4, dtype=torch.uint8)))
    assert "9.png has 4 x 4 pixels" in refused(capsys, str(odd), *of)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--images", "5"), "--images says how many pictures a model makes"),
        (("--seed", "0"), "--seed is of the latents that a model is given"),
        (("--classes", "new"), "nothing says which of its classes are new"),
        (("--classes", "red-disc"), "'red-disc' (did you mean 'red-disk'?)"),
    ],
)
def test_options_that_only_models_have_are_refused_for_pictures(samples, of, capsys, options, says) -> None:
    assert says in refused(capsys, str(samples), *of, *options)


def test_a_run_without_a_checkpoint_is_not_taken_for_pictures(tmp_path: Path, of, capsys) -> None:
    run = tmp_path / "run"
    run.mkdir()
    flat(run / "samples")
    (run / "config.yaml").write_text("steps: 3\n")
    assert "is a run folder without a checkpoint yet" in refused(capsys, str(run), *of)


def test_pictures_beside_subfolders_are_refused(tmp_path: Path, of: tuple[str, ...], capsys) -> None:
    flat(flat(tmp_path / "mixed") / "red-disk")
    assert "put all of them into subfolders" in refused(capsys, str(tmp_path / "mixed"), *of)


@pytest.fixture
def statistics(shards: str, features: str, tmp_path: Path, capsys) -> str:
    file = tmp_path / "stats.safetensors"
    assert main(["eval", "--data", shards, "--features", features, "--save-stats", str(file)]) == 0
    assert "statistics of 36 pictures" in capsys.readouterr().err
    return str(file)


def test_statistics_give_the_distance_that_the_pictures_give(
    model, shards, features, statistics, capsys
) -> None:
    common = ("--features", features, "--metrics", "fid", "--images", "40")
    by_pictures = measured(capsys, model, "--data", shards, *common)
    by_statistics = measured(capsys, model, "--data", statistics, *common)
    assert by_statistics["metrics"]["fid"] == pytest.approx(by_pictures["metrics"]["fid"], rel=1e-9)
    assert by_statistics["data"]["pictures"] == 36


def test_published_statistics_are_read_and_not_executed(model, shards, features, tmp_path, capsys) -> None:
    np.savez(tmp_path / "small.npz", mu=np.zeros(3), sigma=np.eye(3))
    says = refused(capsys, model, "--data", str(tmp_path / "small.npz"), "--features", features, *FID)
    dim = int(says.partition("cnn gives ")[2].partition(":")[0])
    np.savez(tmp_path / "published.npz", mu=np.zeros(dim), sigma=np.eye(dim))
    result = measured(
        capsys,
        model,
        "--data",
        str(tmp_path / "published.npz"),
        "--features",
        features,
        *FID,
        "--images",
        "9",
    )
    assert result["metrics"]["fid"] > 0
    assert result["data"]["pictures"] is None
    np.savez(tmp_path / "bad.npz", mu=np.array([print], dtype=object), sigma=np.eye(1))
    bad = refused(capsys, model, "--data", str(tmp_path / "bad.npz"), "--features", features, *FID)
    assert "holds no statistics (it has pickled objects" in bad
    assert "allow_pickle" not in bad
    for content in (b"", b"hello world", (tmp_path / "bad.npz").read_bytes()[:60]):
        (tmp_path / "bad.npz").write_bytes(content)
        bad = refused(capsys, model, "--data", str(tmp_path / "bad.npz"), "--features", features, *FID)
        assert "holds no statistics (it is no .npz)" in bad


def test_a_path_is_no_markup(model, of: tuple[str, ...], tmp_path, capsys) -> None:
    place = tmp_path / "x[" / "b].safetensors"
    place.parent.mkdir()
    words = ["eval", model, *of, "--metrics", "fid", "--images", "8", "--save-stats", str(place)]
    assert main([*words, "--json", str(tmp_path / "scores.json")]) == 0
    assert str(place) in "".join(capsys.readouterr().err.split())
    assert "fid" in json.loads((tmp_path / "scores.json").read_text())["metrics"]


FID = ("--metrics", "fid")


def test_what_statistics_are_not_enough_for_is_refused(model, features, statistics, tmp_path, capsys) -> None:
    of = ("--data", statistics, "--features", features)
    assert "kmmd can't be had of saved statistics" in refused(capsys, model, *of)
    assert "statistics are of the classes" in refused(capsys, model, *of, *FID, "--classes", "new")
    assert "the data is statistics already" in refused(
        capsys, *of, "--save-stats", str(tmp_path / "again.safetensors")
    )


def test_statistics_of_other_features_are_refused(
    model, shards, features, statistics, tmp_path, capsys
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in Path(features).iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    weights = next(other.glob("*.safetensors"))
    save_file({name: tensor + 1e-3 for name, tensor in load_file(weights).items()}, weights)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"sha256": sha256(weights)}))
    says = refused(capsys, model, "--data", statistics, "--features", str(other), *FID)
    assert "name the extractor that they were made with" in says


def test_neither_a_model_nor_a_place_for_statistics_is_refused(of: tuple[str, ...], tmp_path, capsys) -> None:
    assert "name the MODEL to measure" in refused(capsys, *of)
    assert "written as FILE.safetensors" in refused(capsys, *of, "--save-stats", str(tmp_path / "stats.npz"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--seed", "0"), "--seed is about a model's pictures, and there is no MODEL"),
        (("--metrics", "fid", "--images", "5"), "--metrics, --images are about a model's pictures"),
        (("--json", "-"), "--json is about a model's pictures"),
    ],
)
def test_without_a_model_options_that_are_about_one_are_refused(of, tmp_path, capsys, options, says) -> None:
    place = tmp_path / "stats.safetensors"
    assert says in refused(capsys, *of, "--save-stats", str(place), *options)
    assert not place.exists()


def test_what_can_not_be_measured_is_refused_before_statistics_are_taken(of, tmp_path, capsys) -> None:
    place = tmp_path / "stats.safetensors"
    large, nameless = flat(tmp_path / "large", size=2 * SIZE), flat(tmp_path / "nameless")
    save = ("--save-stats", str(place))
    assert "has pictures of 16 px" in refused(capsys, str(large), *of, *save)
    assert "accuracy needs to know" in refused(capsys, str(nameless), *of, *save, "--metrics", "accuracy")
    model = model_folder(tmp_path / "model", extended=False, classes=("red-disk", "cow"))
    assert "'cow'" in refused(capsys, model, *of, *save)
    assert not place.exists()


def test_features_of_real_pictures_are_kept_for_the_next_measurement(
    model, of, capsys, monkeypatch, tmp_path
) -> None:
    monkeypatch.setenv("CGT_CACHE", str(tmp_path / "cache"))
    common = (model, *of, "--images", "12", "--metrics", "fid,kmmd,accuracy")
    without = measured(capsys, *common, "--no-cache")
    assert not (tmp_path / "cache").exists()
    first = measured(capsys, *common)
    (kept,) = (tmp_path / "cache" / "features").iterdir()
    whole = kept.read_bytes()
    assert measured(capsys, *common)["metrics"] == first["metrics"] == without["metrics"]
    measured(capsys, *common, "--classes", "new")
    assert len(list(kept.parent.iterdir())) == 2
    kept.write_bytes(b"cut off")
    assert measured(capsys, *common)["metrics"] == first["metrics"]
    assert kept.read_bytes() == whole


def test_the_features_read_longest_ago_make_room(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    y_N = torch.arange(10)
    FeatureCache(tmp_path).keep({"number": 0}, Features(torch.zeros(10, 3)), y_N)
    size = next((tmp_path / "features").iterdir()).stat().st_size
    cache = FeatureCache(tmp_path, limit=3 * size + 50)
    for i in range(1, 4):
        for file in cache.folder.iterdir():  # clocks of file systems are coarse
            os.utime(file, (0, int(file.stat().st_mtime) - 10))
        cache.keep({"number": i}, Features(torch.full((10, 3), float(i))), y_N)
    found = [cache.load({"number": i}, cpu) for i in range(4)]
    assert found[0] is None
    assert found[3] is not None
    assert torch.equal(found[3][0].pooled_ND, torch.full((10, 3), 3.0))
    FeatureCache(tmp_path, limit=10).keep({"number": 9}, Features(torch.zeros(10, 3)), y_N)
    assert cache.load({"number": 9}, cpu) is None


def test_a_cache_that_can_not_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file where the folder should be")
    FeatureCache(tmp_path).keep({"number": 0}, Features(torch.zeros(2, 3)), torch.zeros(2))
    assert FeatureCache(tmp_path).load({"number": 0}, torch.device("cpu")) is None


def test_a_damaged_record_of_samples_is_named(samples: Path, of: tuple[str, ...], capsys) -> None:
    (samples / "samples.json").write_text(json.dumps({"classes": 3}))
    assert "samples.json does not say the classes" in refused(capsys, str(samples), *of)
