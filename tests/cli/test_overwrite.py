"""What `--overwrite` never replaces: the input of the command, and folders that some other program wrote."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cgt.cli import main
from tests.data.miniatures import folder_input

GOLDEN = Path(__file__).parents[1] / "golden" / "biggan_pytorch_cifar32"


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


CASES: dict[str, tuple[Callable[[Path], Sequence[object]], str]] = {
    "photographs by shards": (
        lambda t: ["shards", "build", "folder", t / "photographs", t / "photographs", "--size", 8],
        "it is",
    ),
    "what holds the photographs by shards": (
        lambda t: ["shards", "build", "folder", t / "photographs" / "cat", t / "photographs"],
        "it holds",
    ),
    "photographs by shards of something else": (
        lambda t: ["shards", "build", "shapes", "-", t / "photographs"],
        "is not a shard folder (it has no manifest.json)",
    ),
    "a run by its samples": (lambda t: ["sample", t / "run", "--out", t / "run"], "it holds"),
    "the grids of a run by samples": (
        lambda t: ["sample", t / "run", "--out", t / "run" / "samples"],
        "is not a folder of samples (it has no samples.json)",
    ),
    "a model's card by a grid": (
        lambda t: ["sample", t / "run", "--out", t / "run" / "latest" / "model" / "samples.png"],
        "it lies in",
    ),
    "a checkpoint by its conversion": (
        lambda t: ["convert", "biggan-pytorch", t / "checkpoint", t / "checkpoint"],
        "it is",
    ),
    "a model by what is left of it": (
        lambda t: ["banks", "remove", t / "run", t / "run" / "latest" / "model", "--bank", 0],
        "it lies in",
    ),
    "photographs by a model": (
        lambda t: ["convert", "biggan-pytorch", t / "checkpoint", t / "photographs"],
        "is not a model folder (it has no config.json)",
    ),
    "shards by features": (
        lambda t: ["features", "train", t / "shards", t / "shards", "--steps", 1],
        "it is",
    ),
    "photographs by features": (
        lambda t: ["features", "train", t / "shards", t / "photographs", "--steps", 1],
        "is not the folder of a feature extractor",
    ),
    "a model's config by scores": (
        lambda t: [
            *("eval", t / "run", "--data", t / "shards"),
            *("--json", t / "run" / "latest" / "model" / "config.json"),
        ],
        "it lies in",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_is_kept(case: str, workspace: Path, tmp_path: Path, refusal: Callable[[int], str]) -> None:
    folder_input(tmp_path / "photographs")
    shutil.copytree(workspace / "source", tmp_path / "run")
    shutil.copytree(workspace / "old", tmp_path / "shards")
    shutil.copytree(GOLDEN, tmp_path / "checkpoint")
    before = content(tmp_path)
    words, rule = CASES[case]
    message = refusal(main([*map(str, words(tmp_path)), "--overwrite"]))
    assert rule in " ".join(message.split())
    assert content(tmp_path) == before
