"""Building from imperfect input, and building parts: unreadable pictures, duplicates, holdout, tasks."""

import json
import tarfile
from pathlib import Path

import pytest

from cgt.data.manifest import open_shards
from cgt.data.verify import problems
from cgt.data.write import BuildOptions, build_shards
from cgt.errors import UserError
from tests.data.miniatures import folder_input

OPTIONS = BuildOptions("folder", size=8, shard_mb=0.006)


@pytest.fixture
def imperfect(tmp_path: Path) -> str:
    """9 cats and 8 dogs; two can't be read, and a dog is a cat."""
    root = folder_input(tmp_path / "in", {"cat": 9, "dog": 8})
    (root / "cat/2.png").write_bytes(b"no picture")
    content = (root / "dog/3.png").read_bytes()
    (root / "dog/3.png").write_bytes(content[: len(content) // 2])
    (root / "dog/5.png").write_bytes((root / "cat/1.png").read_bytes())
    return str(root)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def keys(folder: Path) -> list[str]:
    """The pictures that the shards hold, as `cat/3`."""
    names = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            names += [name.rpartition("-")[0].replace("-", "/") for name in tar.getnames() if "cls" in name]
    return names


class TestImperfectInput:
    def test_unreadable_pictures_are_left_out_and_listed_with_duplicates(
        self, imperfect: str, tmp_path: Path
    ) -> None:
        lines: list[str] = []
        manifest = build_shards(OPTIONS, imperfect, tmp_path / "out", remark=lines.append)
        assert manifest.counts() == {"cat": 8, "dog": 7}
        report = json.loads((tmp_path / "out/report.json").read_text())
        assert {entry["picture"][:5] for entry in report["unreadable"]} == {"cat-2", "dog-3"}
        assert all("can't be read" in entry["reason"] for entry in report["unreadable"])
        (double,) = report["duplicates"]
        assert {double["picture"][:5], double["same_as"][:5]} == {"cat-1", "dog-5"}
        assert {double["class"], double["same_as_class"]} == {"cat", "dog"}
        assert len(lines) == 1
        assert "2 unreadable pictures left out, 1 duplicate kept" in lines[0]
        assert not problems(open_shards(str(tmp_path / "out")), lambda done, total: None)

    def test_no_report_where_there_is_nothing_to_say(self, tmp_path: Path) -> None:
        build_shards(OPTIONS, str(folder_input(tmp_path / "in")), tmp_path / "out")
        assert not (tmp_path / "out/report.json").exists()

    @pytest.mark.parametrize("after", [0, 5, 9, 13, 17])
    def test_interrupted_build_goes_on_to_the_same_bytes_and_report(
        self, after: int, imperfect: str, tmp_path: Path
    ) -> None:
        build_shards(OPTIONS, imperfect, tmp_path / "whole")

        def progress(done: int, total: int) -> None:
            if done == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build_shards(OPTIONS, imperfect, tmp_path / "out", progress=progress)
        seen: list[int] = []
        build_shards(OPTIONS, imperfect, tmp_path / "out", progress=lambda done, total: seen.append(done))
        assert (seen[0] > 0) == (after > 0)
        assert seen[-1] == 17
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")

    def test_class_of_which_nothing_can_be_read_is_refused(self, tmp_path: Path) -> None:
        root = folder_input(tmp_path / "in", {"cat": 3, "dog": 2})
        for i in range(2):
            (root / f"dog/{i}.png").write_bytes(b"no picture")
        with pytest.raises(UserError, match="no picture of the class 'dog'.*--classes"):
            build_shards(OPTIONS, str(root), tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["in"]

    def test_report_is_replaced_with_the_folder(self, imperfect: str, tmp_path: Path) -> None:
        build_shards(OPTIONS, imperfect, tmp_path / "out")
        fine = str(folder_input(tmp_path / "fine"))
        build_shards(OPTIONS, fine, tmp_path / "out", overwrite=True)
        assert not (tmp_path / "out/report.json").exists()


class TestHoldout:
    def test_every_picture_is_in_one_part_and_equal_ones_in_the_same(self, tmp_path: Path) -> None:
        root = folder_input(tmp_path / "in", {"cat": 30, "dog": 30})
        for i in range(30):  # every dog is a cat
            (root / f"dog/{i}.png").write_bytes((root / f"cat/{i}.png").read_bytes())
        parts = {}
        for part in ("train", "holdout"):
            options = BuildOptions("folder", size=8, holdout=0.3, part=part)  # type: ignore[arg-type]
            build_shards(options, str(root), tmp_path / part)
            parts[part] = keys(tmp_path / part)
        assert len(parts["train"] + parts["holdout"]) == 60
        numbers = {part: {name.rpartition("/")[2] for name in names} for part, names in parts.items()}
        assert numbers["holdout"]
        assert not numbers["train"] & numbers["holdout"]

    def test_per_class_limits_both_parts_together(self, tmp_path: Path) -> None:
        root = str(folder_input(tmp_path / "in", {"cat": 30}))
        total = 0
        for part in ("train", "holdout"):
            options = BuildOptions("folder", size=8, per_class=20, holdout=0.4, part=part)  # type: ignore[arg-type]
            total += build_shards(options, root, tmp_path / part).samples
        assert total == 20

    def test_part_that_no_picture_is_in_is_refused(self, tmp_path: Path) -> None:
        options = BuildOptions("folder", size=8, holdout=1e-12, part="holdout")
        with pytest.raises(UserError, match="choose another share"):
            build_shards(options, str(folder_input(tmp_path / "in")), tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["in"]


class TestTask:
    def test_tasks_together_are_the_whole_build_in_its_order(self, tmp_path: Path) -> None:
        root = str(folder_input(tmp_path / "in", {"cat": 7, "dog": 1}))
        build_shards(BuildOptions("folder", size=8), root, tmp_path / "whole")
        together: list[str] = []
        for task in ("1/3", "2/3", "3/3"):
            out = tmp_path / task.replace("/", "-")
            manifest = build_shards(BuildOptions("folder", size=8, task=task), root, out)
            assert manifest.classes == ("cat", "dog")
            assert 2 <= manifest.samples <= 3
            together += keys(out)
        assert together == keys(tmp_path / "whole")

    def test_more_tasks_than_pictures_are_refused(self, tmp_path: Path) -> None:
        root = str(folder_input(tmp_path / "in", {"cat": 2}))
        with pytest.raises(UserError, match="fewer tasks"):
            build_shards(BuildOptions("folder", size=8, task="1/5"), root, tmp_path / "out")

    @pytest.mark.parametrize("task", ["0/2", "3/2", "1", "1/0", "-1/2", "a/b", "1/2/3"])
    def test_what_is_no_task_is_refused(self, task: str) -> None:
        with pytest.raises(UserError, match="write I/N"):
            BuildOptions("folder", task=task)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter": "nearest"}, "choose one of lanczos, box, bicubic"),
        ({"jpeg_quality": 0}, "from 1 to 100"),
        ({"jpeg_quality": 101}, "from 1 to 100"),
        ({"holdout": 0.0}, "between 0 and 1"),
        ({"holdout": 1.0}, "between 0 and 1"),
        ({"holdout": float("nan")}, "between 0 and 1"),
        ({"part": "holdout"}, "say which share"),
        ({"part": "test", "holdout": 0.5}, "choose one of train, holdout"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BuildOptions("folder", **options)  # type: ignore[arg-type]
