"""The folder that `cgt sample` writes."""

import json
from pathlib import Path

import pytest

from cgt.cli import main
from cgt.cli.sample import subfolder
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.folder import save_model

CLASSES = ("..", "a/b", "a_b", "a\\b", "鳥", "." * 9 + "x" * 300)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    generator = Generator(GeneratorConfig(channels=(8, 8), dim_z=4), 8, CLASSES).eval()
    save_model(folder, generator, provenance={})
    return folder


def test_every_class_has_a_folder_of_its_own_within_the_output(tmp_path: Path, model: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    out = tmp_path / "out"
    assert main(["sample", str(model), "--out", str(out), "--per-class", "2"]) == 0
    assert {path.name for path in tmp_path.iterdir()} - before == {"out"}
    record = json.loads((out / "samples.json").read_text(encoding="utf-8"))
    assert tuple(record["classes"].values()) == CLASSES
    assert sorted(path.name for path in out.iterdir()) == sorted([*record["classes"], "samples.json"])
    for folder in record["classes"]:
        assert sorted(path.name for path in (out / folder).iterdir()) == ["00000.png", "00001.png"]


def test_the_record_says_what_was_drawn_and_lets_it_be_drawn_anew(tmp_path: Path, model: Path) -> None:
    words = ["sample", str(model), "--out", str(tmp_path / "out"), "--per-class", "1", "--overwrite"]
    for seed in ("3", "4"):
        assert main([*words, "--seed", seed, "--truncation", "0.5", "--classes", "a/b,.."]) == 0
    record = json.loads((tmp_path / "out" / "samples.json").read_text(encoding="utf-8"))
    assert record == {
        "model": str(model),
        "classes": {"001-a-b": "a/b", "000": ".."},
        "per_class": 1,
        "seed": 4,
        "truncation": 0.5,
    }


@pytest.mark.parametrize(
    ("number", "name", "expected"),
    [(0, "red-disk", "000-red-disk"), (7, "a/b", "007-a-b"), (1234, "..", "1234"), (1, "-x-", "001-x")],
)
def test_a_folder_is_named_by_the_class_id_and_what_is_safe_of_the_name(
    number: int, name: str, expected: str
) -> None:
    assert subfolder(number, name) == expected
