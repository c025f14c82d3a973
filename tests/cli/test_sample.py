"""What `cgt sample` writes, and what it refuses."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cgt.cli import main
from cgt.cli.sample_outputs import subfolder
from cgt.data import DataConfig, open_pictures
from cgt.data import generated as generated_shards
from cgt.data.manifest import open_shards
from cgt.data.verify import problems
from cgt.files import sha256
from cgt.images import from_pil
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.folder import save_model

CLASSES = ("..", "a/b", "a_b", "a\\b", "鳥", "." * 9 + "x" * 300)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    config = GeneratorConfig(channels=(8, 8), dim_z=4, init="orthogonal")
    generator = Generator(config, 8, CLASSES).eval()
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
        "model_sha256": sha256(model / "generator.safetensors"),
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


def pictures(folder: Path) -> dict[str, torch.Tensor]:
    """The pixels of every picture in a folder of samples."""
    return {str(path.relative_to(folder)): from_pil(Image.open(path)) for path in folder.rglob("*.[pj][np]g")}


def test_a_picture_depends_on_its_class_and_number_alone(tmp_path: Path, model: Path) -> None:
    words = ["sample", str(model), "--per-class"]
    assert main([*words, "3", "--out", str(tmp_path / "all"), "--workers", "3"]) == 0
    few = ["--classes", "a_b,a/b", "--batch-size", "2", "--workers", "1"]
    assert main([*words, "2", "--out", str(tmp_path / "few"), *few]) == 0
    every, some = pictures(tmp_path / "all"), pictures(tmp_path / "few")
    assert set(some) == {f"{part}/0000{i}.png" for part in ("001-a-b", "002-a-b") for i in range(2)}
    for name, x_3HW in some.items():
        assert (x_3HW.int() - every[name].int()).abs().max() <= 1  # batches of other sizes round otherwise
    assert len({x_3HW.numpy().tobytes() for x_3HW in every.values()}) == len(every)


def test_a_mix_has_a_folder_and_a_name_of_its_own(tmp_path: Path, model: Path) -> None:
    mixes = "a/b:0.5+a_b:0.5,a_b,a_b:0.2+a/b:0.8"
    out = tmp_path / "out"
    assert main(["sample", str(model), "--out", str(out), "--per-class", "1", "--classes", mixes]) == 0
    record = json.loads((out / "samples.json").read_text(encoding="utf-8"))
    assert record["classes"] == {
        "mix000-a-b-0-5-a-b-0-5": "a/b:0.5+a_b:0.5",
        "002-a-b": "a_b",
        "mix001-a-b-0-2-a-b-0-8": "a_b:0.2+a/b:0.8",
    }
    again = ["sample", str(model), "--out", str(out), "--per-class", "1", "--overwrite"]
    assert main([*again, "--jpeg-quality", "90"]) == 0
    assert {path.suffix for path in out.glob("*/*")} == {".jpg"}


def test_a_grid_has_a_row_for_each_class_and_mix(tmp_path: Path, model: Path) -> None:
    words = ["sample", str(model), "--per-class", "2", "--classes", "a/b,a/b:0.5+a_b:0.5,a_b"]
    assert main([*words, "--out", str(tmp_path / "grid.png")]) == 0
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.height == 2 + 3 * 66
        assert grid.width > 2 + 2 * 66


@pytest.mark.parametrize("name", ["film.webp", "film.gif"])
def test_a_film_goes_round_the_classes(tmp_path: Path, model: Path, name: str) -> None:
    words = ["sample", str(model), "--classes", "a/b,a_b,..", "--frames", "4", "--per-class", "2"]
    assert main([*words, "--fps", "20", "--out", str(tmp_path / name)]) == 0
    with Image.open(tmp_path / name) as film:
        assert film.n_frames == 12
        assert film.size == (2 * 66 + 2, 66 + 2)
        film.load()
        assert film.info["duration"] == 50
    assert main([*words, "--out", str(tmp_path / name), "--overwrite", "--moving"]) == 0


def test_shards_are_sound_say_how_they_were_made_and_hold_the_pictures_of_the_folder(
    tmp_path: Path, model: Path
) -> None:
    words = ["sample", str(model), "--per-class", "4", "--classes", "a_b,a/b", "--seed", "5"]
    assert main([*words, "--out", str(tmp_path / "shards"), "--shards"]) == 0
    assert main([*words, "--out", str(tmp_path / "folder")]) == 0
    assert not (tmp_path / "shards.partial").exists()
    folder = open_shards(str(tmp_path / "shards"))
    assert problems(folder) == []
    assert folder.manifest.counts() == {"a_b": 4, "a/b": 4}
    build = folder.manifest.build
    assert (build["seed"], build["truncation"], build["source"]) == (5, None, "cgt sample")
    assert build["model_sha256"] == sha256(model / "generator.safetensors")
    read = open_pictures(DataConfig(shards=str(tmp_path / "shards")))
    ((x_N3RR, y_N),) = read.once(100)
    part = {"a_b": "002-a-b", "a/b": "001-a-b"}
    expected = pictures(tmp_path / "folder")
    for y, name in enumerate(read.classes):
        shown = {x_3RR.numpy().tobytes() for x_3RR in x_N3RR[y_N == y]}
        assert shown == {expected[f"{part[name]}/0000{i}.png"].numpy().tobytes() for i in range(4)}
    labels = y_N.tolist()
    assert labels not in (sorted(labels), sorted(labels, reverse=True))


def test_shards_that_were_interrupted_are_gone_on_with_to_the_same_bytes(tmp_path: Path) -> None:
    def make(die_at: int | None) -> Callable[..., Any]:
        def pictures_of(wanted: Any) -> Any:
            for made, (_, number) in enumerate(wanted):
                if made == die_at:
                    raise KeyboardInterrupt
                numbers.append(number)
                yield torch.full((3, 8, 8), number, dtype=torch.uint8)

        return pictures_of

    def write(out: Path, die_at: int | None = None) -> None:
        made_by = {"model_sha256": "0" * 64}
        generated_shards.write_generated(
            out, ("a", "b"), 20, 8, make(die_at), made_by, shard_mb=0.02, ahead=4
        )

    numbers: list[int] = []
    write(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cut", die_at=25)
    assert not (tmp_path / "cut").exists()
    numbers.clear()
    write(tmp_path / "cut")
    assert 0 < len(numbers) < 40
    assert len(list((tmp_path / "whole").iterdir())) > 3
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "cut" / file.name).read_bytes() == file.read_bytes()


def test_a_folder_that_fails_leaves_nothing_and_what_stood_there(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["sample", str(model), "--per-class", "2", "--out", str(tmp_path / "out"), "--overwrite"]
    assert main(words) == 0
    before = pictures(tmp_path / "out")
    forward = Generator.forward

    def diverging(self: Generator, *inputs: Any, **options: Any) -> torch.Tensor:
        return forward(self, *inputs, **options) * torch.tensor(float("nan"))

    monkeypatch.setattr(Generator, "forward", diverging)
    assert main(words) == 1
    assert pictures(tmp_path / "out").keys() == before.keys()
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out"}


REFUSED: dict[str, tuple[Sequence[str], str]] = {
    "an unknown class": (["out", "--classes", "a/b,a/c"], "no class 'a/c' (did you mean 'a/b'?)"),
    "an unknown class in a mix": (["out", "--classes", "a/b:0.5+a-b:0.5"], "'a-b' (did you mean 'a_b'?)"),
    "weights that add up to too much": (
        ["out", "--classes", "a/b:1+a_b:1"],
        "add up to 2, and must to 1: write a/b:0.5+a_b:0.5",
    ),
    "a weight of nothing": (["out", "--classes", "a/b:1+a_b:0"], "weights must be above 0"),
    "a weight that is none": (["out", "--classes", "a/b:x+a_b:1"], "'x' is no weight"),
    "a class mixed with itself": (["out", "--classes", "a/b:0.5+a/b:0.5"], "mixes 'a/b' with itself"),
    "no frames": (["film.gif", "--frames", "0"], "greater than or equal to 1"),
    "no truncation": (["out", "--truncation", "0"], "greater than or equal to 0.01"),
    "a truncation without bounds": (["out", "--truncation", "inf"], "give a number above 0"),
    "a grid beyond all screens": (["grid.png", "--per-class", "100000"], "is too large to be looked at"),
    "a film of what stands still": (["film.webp", "--classes", "a/b"], "stands still"),
    "a film without end": (["film.webp", "--frames", "1000"], "film of 6,000 frames is too long"),
    "a fast GIF": (["film.gif", "--fps", "60"], "at most 50 frames a second"),
    "a JPEG grid": (["grid.jpg"], "a grid is written as .png"),
    "a video": (["film.MP4"], "a film as .webp or .gif"),
    "shards in a file": (["grid.png", "--shards"], "--shards writes a folder"),
    "a grid that moves": (["grid.png", "--moving"], "--moving are of films"),
    "a grid of JPEG": (["grid.png", "--jpeg-quality", "90"], "--jpeg-quality is for single pictures"),
    "a grid by threads": (["grid.png", "--workers", "2"], "--workers is for single pictures"),
    "an output that is there": (["model"], "exists already"),
    "shards over a model": (["model", "--shards", "--overwrite"], "it is"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_named_before_anything_is_written(
    case: str, tmp_path: Path, model: Path, refusal: Callable[[int], str]
) -> None:
    (name, *options), rule = REFUSED[case]
    message = refusal(main(["sample", str(model), "--out", str(tmp_path / name), *options]))
    assert rule in " ".join(message.replace("│", " ").split())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
