"""Merging: every picture once, as it was, with the number of its class."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from cgt.data import partial
from cgt.data.manifest import open_shards
from cgt.data.merge import merge_shards
from cgt.data.verify import problems
from cgt.data.write import BuildOptions, build_shards
from cgt.errors import UserError
from tests.data.miniatures import folder_input
from tests.data.test_repack import build, contents, stored, unequal


@pytest.fixture
def tasks(tmp_path: Path) -> list[str]:
    """The folders of the tasks of one build, and beside them `whole`, the same without tasks."""
    root = unequal(tmp_path / "in", {"cat": 9, "dog": 6, "owl": 5}, 0)
    (root / "dog/broken.png").write_bytes(b"no picture")
    (root / "owl/again.png").write_bytes((root / "owl/0-1.png").read_bytes())
    options: dict[str, object] = {"size": 8, "shard_mb": 0.006}
    build_shards(BuildOptions("folder", **options), str(root), tmp_path / "whole")  # type: ignore[arg-type]
    parts = []
    for number in (1, 2, 3):
        parts.append(tmp_path / f"task-{number}")
        task = BuildOptions("folder", task=f"{number}/3", **options)  # type: ignore[arg-type]
        build_shards(task, str(root), parts[-1])
    return [str(part) for part in parts]


class TestMerge:
    def test_tasks_give_the_pictures_of_the_whole_build_in_its_order(
        self, tasks: list[str], tmp_path: Path
    ) -> None:
        manifest = merge_shards(tasks, tmp_path / "out")
        whole = open_shards(str(tmp_path / "whole")).manifest
        assert stored(tmp_path / "out") == stored(tmp_path / "whole")
        assert manifest.build == whole.build
        assert manifest.classes == whole.classes
        assert manifest.counts() == whole.counts()
        assert open_shards(str(tmp_path / "out")).manifest == manifest
        assert problems(open_shards(str(tmp_path / "out"))) == []

    def test_shards_of_equal_classes_are_copied_byte_by_byte_and_not_linked(
        self, tasks: list[str], tmp_path: Path
    ) -> None:
        merge_shards(tasks, tmp_path / "out")
        before = [path for task in tasks for path in sorted(Path(task).glob("*.tar"))]
        after = sorted((tmp_path / "out").glob("*.tar"))
        assert [path.read_bytes() for path in before] == [path.read_bytes() for path in after]
        assert {path.stat().st_nlink for path in after} == {1}

    def test_tasks_of_another_input_are_refused(self, tasks: list[str], tmp_path: Path) -> None:
        (tmp_path / "in/owl/0-1.png").unlink()
        task = BuildOptions("folder", size=8, shard_mb=0.006, task="3/3")
        build_shards(task, str(tmp_path / "in"), tmp_path / "other")
        with pytest.raises(UserError, match="are tasks of different builds"):
            merge_shards([*tasks[:2], str(tmp_path / "other")], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_reports_are_joined(self, tasks: list[str], tmp_path: Path) -> None:
        merge_shards(tasks, tmp_path / "out")
        report = json.loads((tmp_path / "out/report.json").read_text())
        assert [entry["class"] for entry in report["unreadable"]] == ["dog"]

    def test_some_of_the_tasks_are_named(self, tasks: list[str], tmp_path: Path) -> None:
        assert merge_shards(tasks[:2], tmp_path / "out").build["task"] == "1/3+2/3"

    def test_build_values_that_differ_are_left_out(self, tmp_path: Path) -> None:
        parts = [build(tmp_path, f"part{seed}", {"cat": 3}, seed=seed) for seed in (1, 2)]
        made = merge_shards([*map(str, parts)], tmp_path / "out").build
        assert made["seed"] is None
        assert made["source"] == "folder"

    def test_lists_of_classes_that_differ_are_united(self, tmp_path: Path) -> None:
        one = build(tmp_path, "one", {"cat": 4, "dog": 4})
        other = build(tmp_path, "other", {"ant": 3, "cat": 4, "owl": 2})
        manifest = merge_shards([str(one), str(other)], tmp_path / "out")
        assert manifest.classes == ("cat", "dog", "ant", "owl")
        assert manifest.counts() == {"cat": 8, "dog": 4, "ant": 3, "owl": 2}
        assert stored(tmp_path / "out") == stored(one) + stored(other)
        assert problems(open_shards(str(tmp_path / "out"))) == []

    def test_bytes_depend_on_the_content_of_the_folders_alone(self, tmp_path: Path) -> None:
        for place in ("a", "b/c"):
            parts = [build(tmp_path / place, "x", {"cat": 4}), build(tmp_path / place, "y", {"ant": 3})]
            merge_shards([*map(str, parts)], tmp_path / place / "out")
        assert contents(tmp_path / "a/out") == contents(tmp_path / "b/c/out")

    def test_progress_counts_pictures(self, tmp_path: Path) -> None:
        parts = [build(tmp_path, "x", {"cat": 4}), build(tmp_path, "y", {"ant": 3})]
        seen: list[tuple[int, int]] = []
        merge_shards([*map(str, parts)], tmp_path / "out", progress=lambda *counts: seen.append(counts))
        assert seen == [(done, 7) for done in range(8)]


class TestMergeRefuses:
    @pytest.fixture
    def parts(self, tmp_path: Path) -> list[str]:
        return [str(build(tmp_path, name, {name: 7})) for name in ("ant", "bee")]

    def refused(self, parts: list[str], tmp_path: Path, message: str, *, overwrite: bool = False) -> None:
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(UserError, match=message):
            merge_shards(parts, tmp_path / "out", overwrite=overwrite)
        assert sorted(path.name for path in tmp_path.iterdir()) == before

    def test_a_damaged_part(self, parts: list[str], tmp_path: Path) -> None:
        damaged = Path(parts[1]) / "000001.tar"
        content = bytearray(damaged.read_bytes())
        content[-1] ^= 1
        damaged.write_bytes(content)
        for order in (parts, parts[::-1]):
            with pytest.raises(UserError, match=r"000001\.tar is damaged: it has the SHA-256"):
                merge_shards(order, tmp_path / "out", overwrite=True)  # what the first order had finished
            assert not (tmp_path / "out").exists()

    def test_a_part_that_is_not_whole(self, parts: list[str], tmp_path: Path) -> None:
        (Path(parts[1]) / "000001.tar").unlink()
        self.refused(parts, tmp_path, "000001.tar is missing")

    def test_one_folder_twice(self, parts: list[str], tmp_path: Path) -> None:
        self.refused([parts[0], *parts], tmp_path, "hold the same pictures .* leave one")

    def test_keys_that_are_in_two_folders(self, tmp_path: Path) -> None:
        parts = []
        for name in ("x", "y"):
            (tmp_path / name).mkdir()
            folder_input(tmp_path / name / "in", {"cat": 5})
            (tmp_path / name / "in/cat" / f"{name}.png").write_bytes(
                (tmp_path / name / "in/cat/1.png").read_bytes()
            )
            parts.append(str(tmp_path / name / "out"))
            build_shards(BuildOptions("folder", size=8), str(tmp_path / name / "in"), tmp_path / name / "out")
        with pytest.raises(UserError, match=r"the key cat-\S+ is in \S+x/out and in \S+y/out"):
            merge_shards(parts, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_but_not_keys_that_only_hash_alike(
        self, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in ("cgt.data.keys", "cgt.data.merge"):
            monkeypatch.setattr(f"{module}.key_digest", lambda key: bytes(partial.DIGEST_BYTES))
        assert merge_shards(parts, tmp_path / "out").samples == 14

    def test_pictures_of_another_size_or_encoding(self, parts: list[str], tmp_path: Path) -> None:
        for options in ({"size": 16}, {"size": 8, "jpeg_quality": 90}):
            build_shards(
                BuildOptions("folder", **options),  # type: ignore[arg-type]
                str(tmp_path / "ant-pictures"),
                tmp_path / "other",
                overwrite=True,
            )
            self.refused([*parts, str(tmp_path / "other")], tmp_path, "--size and --jpeg-quality")

    def test_a_single_folder(self, parts: list[str], tmp_path: Path) -> None:
        self.refused(parts[:1], tmp_path, "two shard folders or more")

    def test_an_output_that_is_there_or_is_an_input(self, parts: list[str], tmp_path: Path) -> None:
        (tmp_path / "out").symlink_to(parts[0])
        self.refused(parts, tmp_path, "--overwrite")
        self.refused(parts, tmp_path, "which the command reads", overwrite=True)

    @pytest.mark.parametrize(
        "content",
        ["[]", "[" * 100_000, '{"unreadable": "abc", "duplicates": []}', '{"unreadable": []}', "\ud800"],
    )
    def test_a_damaged_report(self, content: str, parts: list[str], tmp_path: Path) -> None:
        (Path(parts[0]) / "report.json").write_bytes(content.encode("utf-8", "surrogatepass"))
        self.refused(parts, tmp_path, "report.json is damaged")

    def test_a_disk_that_is_too_small(
        self, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        size = sum(open_shards(part).manifest.bytes for part in parts)
        free = [size - 1]
        monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free[0]))
        self.refused(parts, tmp_path, "GB free: free some space")
        free[0] += 1
        merge_shards(parts, tmp_path / "out")
