"""`cgt eval`, from shards and a model folder to a table and JSON."""

import inspect
import json
import re
from pathlib import Path

import pytest
import torch

from cgt import rng
from cgt.cli import main
from cgt.cli.eval import evaluate
from cgt.cli.measured import open_measured
from cgt.data.write import BuildOptions, build_shards
from cgt.metrics.features import cnn
from cgt.metrics.settings import EvalConfig
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.classifier import widths
from cgt.models.folder import save_model

OLD = ("red-disk", "red-square")
NEW = ("gold-disk",)
SIZE = 8


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("shards") / "shapes"
    build_shards(
        BuildOptions(source="shapes", size=SIZE, per_class=12, classes=OLD + NEW, shard_mb=1), "-", out
    )
    return str(out)


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> str:
    """An extractor of random weights that knows all classes."""
    folder = tmp_path_factory.mktemp("features") / "cnn"
    with rng.seeded_globally(0, "test extractor"):
        model = cnn.SmallCnn(OLD + NEW, SIZE, widths(SIZE))
    description = cnn.CnnDescription(
        classes=OLD + NEW,
        resolution=SIZE,
        widths=model.widths,
        training_accuracy=0,
        held_out_accuracy=0,
        provenance={},
    )
    cnn.save(folder, model, description)
    return str(folder)


def model_folder(folder: Path, *, extended: bool = True, classes: tuple[str, ...] = OLD) -> str:
    with rng.seeded_globally(0, "test generator"):
        generator = Generator(
            GeneratorConfig(channels=(8, 8), dim_z=4, init="orthogonal"), SIZE, classes
        ).eval()
        if extended:
            bank = generator.new_class_bank(NEW)
            for table in bank.parameters():
                torch.nn.init.normal_(table)
            generator.append(bank)
    save_model(folder, generator, provenance={})
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return model_folder(tmp_path_factory.mktemp("models") / "extended")


def measured(capsys, *arguments: str) -> dict:
    assert main(["eval", *arguments, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def test_stdout_holds_json_alone_and_stderr_the_table(model, shards, features, capsys):
    code = main(["eval", model, "--data", shards, "--features", features, "--images", "30", "--json", "-"])
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert code == 0
    assert set(result["metrics"]) == {"fid", "kmmd"}
    assert result["better"] == {"fid": "lower", "kmmd": "lower"}
    assert result["classes"] == [*OLD, *NEW]
    assert (result["images"], result["data"]["pictures"]) == (30, 36)
    assert result["features"] == cnn.load(Path(features)).protocol
    assert "lower is better" in err


def test_the_table_names_scores_features_and_counts(model, shards, features, capsys, tmp_path):
    file = tmp_path / "result.json"
    arguments = [
        "eval",
        model,
        "--data",
        shards,
        "--features",
        features,
        "--images",
        "30",
        "--json",
        str(file),
    ]
    assert main([*arguments, "--metrics", "prdc,accuracy,inception-score,kid"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    result = json.loads(file.read_text())
    for part in (
        "precision",
        "higher is better",
        "inception score std",
        "30 generated and 36 real pictures",
        "cnn",
    ):
        assert part in out
    assert result["features"]["sha256"][:12] in out
    assert all(name.replace("_", " ") in out for name in result["metrics"])


@pytest.mark.parametrize(
    ("choice", "classes"),
    [("new", NEW), ("old", OLD), ("all", OLD + NEW), ("gold-disk,red-disk", ("gold-disk", "red-disk"))],
)
def test_classes_choose_both_the_generated_and_the_real_pictures(
    model, shards, features, capsys, choice, classes
):
    result = measured(
        capsys, model, "--data", shards, "--features", features, "--images", "12", "--classes", choice
    )
    assert result["classes"] == list(classes)
    assert result["data"]["pictures"] == 12 * len(classes)


def test_scores_repeat_for_a_seed_and_do_not_depend_on_the_batch_size(model, shards, features, capsys):
    arguments = (model, "--data", shards, "--features", features, "--images", "40", "--metrics", "kmmd")
    first = measured(capsys, *arguments)["metrics"]["kmmd"]
    assert measured(capsys, *arguments)["metrics"]["kmmd"] == first
    # The convolutions round differently, which may move a few pixels by one grey level.
    small = measured(capsys, *arguments, "--batch-size", "7")["metrics"]["kmmd"]
    assert small == pytest.approx(first, rel=1e-3)
    assert measured(capsys, *arguments, "--seed", "1")["metrics"]["kmmd"] != first


def test_a_run_folder_will_do_for_the_model(shards, features, capsys, tmp_path):
    model_folder(tmp_path / "run" / "latest" / "model")
    result = measured(
        capsys, str(tmp_path / "run"), "--data", shards, "--features", features, "--images", "12"
    )
    assert result["model"].endswith("latest/model")


def refused(capsys, *arguments: str) -> str:
    assert main(["eval", *arguments]) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert out == ""
    return " ".join(err.split())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--metrics", "fid,kmdd"), "'kmdd' (did you mean 'kmmd'?)"),
        (("--features", "inception-ft"), "'inception-ft' (did you mean 'inception-tf'?)"),
        (("--features", "inception-tf", "--weights", "nowhere.pth"), "no Inception weights file nowhere.pth"),
        (("--classes", "red-disc"), "'red-disc' (did you mean 'red-disk'?)"),
        (("--data", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_refused_by_name(model, shards, features, capsys, options, says):
    assert says in refused(capsys, model, "--data", shards, "--features", features, *options)


def test_old_and_new_of_a_model_that_was_never_extended_are_refused(shards, features, capsys, tmp_path):
    model = model_folder(tmp_path / "source", extended=False)
    assert "--classes old" in refused(
        capsys, model, "--data", shards, "--features", features, "--classes", "old"
    )


def test_classes_of_the_model_that_the_data_lacks_are_named(shards, features, capsys, tmp_path):
    model = model_folder(tmp_path / "other", extended=False, classes=("red-disk", "cow"))
    assert "'cow'" in refused(capsys, model, "--data", shards, "--features", features)


def test_a_result_file_is_kept_unless_overwriting_is_asked_for(model, shards, features, capsys, tmp_path):
    file = tmp_path / "result.json"
    file.write_text("precious")
    arguments = (model, "--data", shards, "--features", features, "--images", "12", "--json", str(file))
    assert "--overwrite" in refused(capsys, *arguments)
    assert file.read_text() == "precious"
    assert main(["eval", *arguments, "--overwrite"]) == 0
    assert json.loads(file.read_text())["images"] == 12


def test_a_generator_that_overflows_ends_with_code_1(shards, features, capsys, tmp_path):
    generator = Generator(GeneratorConfig(channels=(8, 8), dim_z=4), SIZE, OLD).eval()
    torch.nn.init.constant_(generator.linear.bias, 3e38)  # finite, but not for long
    save_model(tmp_path / "broken", generator, provenance={})
    assert (
        main(["eval", str(tmp_path / "broken"), "--data", shards, "--features", features, "--images", "12"])
        == 1
    )
    assert "not finite" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["features", "batch_size", "cache"])
def test_the_options_default_to_what_configs_do(option):
    assert inspect.signature(evaluate).parameters[option].default == getattr(EvalConfig(), option)


def test_the_help_names_the_defaults_of_configs(capsys):
    assert main(["eval", "--help"]) == 0
    told = " ".join(re.sub(r"[^ -~]", " ", capsys.readouterr().out).split())
    assert f"[default: {EvalConfig().images};" in told
    assert f"[default: {','.join(EvalConfig().metrics)}]" in told


def test_a_model_makes_as_many_pictures_as_in_runs_where_nothing_is_said(model):
    assert open_measured(Path(model)).images(None, None) == EvalConfig().images
