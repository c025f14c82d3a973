"""Runs of moments that the tests of the report read: none of them may change these."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cgt.cli import main
from tests.tiny import SHORT_RUN, SMALL_NETWORKS

OLD, NEW = "red-disk,gold-plus", "red-plus,gold-disk"


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `source`, `ours/0` and `ours/1` (cgantransfer by two seeds), and `bsa`."""
    root = tmp_path_factory.mktemp("runs")
    shards = {"old": OLD, "new": NEW, "all": f"{OLD},{NEW}"}
    for name, classes in shards.items():
        build = ["shards", "build", "shapes", "-", str(root / name), "--classes", classes]
        assert main([*build, "--size", "16", "--per-class", "4"]) == 0
    features = ["features", "train", str(root / "all"), str(root / "features"), "--steps", "2"]
    assert main(features) == 0
    measured = [
        f"eval.data={root / 'all'}",
        f"eval.features={root / 'features'}",
        "eval.metrics=[fid,kmmd]",
        "eval.images=8",
    ]
    place = ["--run", str(root / "source")]
    begin = ["pretrain", "shapes/pretrain", f"data={root / 'old'}", *SHORT_RUN, *SMALL_NETWORKS]
    assert main([*begin, *measured, *place]) == 0
    for name, config, seed in (
        ("ours/0", "shapes/cgantransfer", 0),
        ("ours/1", "shapes/cgantransfer", 1),
        ("bsa", "shapes/bsa", 0),
    ):
        words = ["transfer", config, "--source", str(root / "source"), f"data={root / 'new'}", f"seed={seed}"]
        assert main([*words, *SHORT_RUN, *measured, "--run", str(root / name)]) == 0
    return root


@pytest.fixture
def own(runs: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of the runs, for a test to damage."""

    def copy(name: str) -> Path:
        place = tmp_path / name.replace("/", "-")
        shutil.copytree(runs / name, place, symlinks=True)
        return place

    return copy
