"""The folder of an unfinished build: whose it is, what is kept in it, and how it gets its place."""

import errno
import fcntl
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgt.data import partial
from cgt.data.merge import merge_shards
from cgt.data.split import split_by_classes
from cgt.data.write import BuildOptions, build_shards
from cgt.errors import RunError, UserError
from cgt.files import put_folder
from tests.data.miniatures import folder_input
from tests.data.test_repack import build, contents

SHAPES = BuildOptions("shapes", size=8, per_class=2, shard_mb=0.02)


def ignore(done: int, total: int) -> None:
    """No progress is shown."""


def build_shapes(out: Path, progress: Callable[[int, int], None] = ignore, *, overwrite: bool = False) -> int:
    """Build, and return the number of pictures that were there already: a finished shard's count at once."""
    seen = [0]

    def noted(done: int, total: int) -> None:
        seen.append(done)
        progress(done, total)

    build_shards(SHAPES, "-", out, progress=noted, overwrite=overwrite)
    return sum(later - done for done, later in itertools.pairwise(seen) if later - done > 1)


def interrupt(out: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_shapes(out, stop)


class TestOwner:
    @pytest.mark.parametrize("name", ["thesis.txt", "000000.tar", "manifest.json", "cat/1.png"])
    def test_folder_that_is_no_partial_build_is_refused_and_untouched(
        self, name: str, tmp_path: Path
    ) -> None:
        mine = tmp_path / "out.partial" / name
        mine.parent.mkdir(parents=True)
        mine.write_text("precious")
        with pytest.raises(UserError, match=r"out\.partial is not a partial build.*move it away"):
            build_shapes(tmp_path / "out")
        assert mine.read_text() == "precious"

    @pytest.mark.parametrize("add", [Path.touch, lambda path: path.symlink_to("..")], ids=["file", "link"])
    def test_so_is_a_partial_build_that_holds_something_else(
        self, add: Callable[[Path], None], tmp_path: Path
    ) -> None:
        interrupt(tmp_path / "out")
        add(tmp_path / "out.partial/mine")
        with pytest.raises(UserError, match=r"out\.partial holds mine beside"):
            build_shapes(tmp_path / "out")
        assert os.path.lexists(tmp_path / "out.partial/mine")
        (tmp_path / "out.partial/mine").unlink()
        assert build_shapes(tmp_path / "out") > 0

    def test_a_link_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "out.partial").symlink_to("elsewhere")
        with pytest.raises(UserError, match=r"out\.partial is no folder"):
            build_shapes(tmp_path / "out")

    def test_what_a_kill_leaves_at_the_very_start_is_no_obstacle(self, tmp_path: Path) -> None:
        (tmp_path / "out.partial").mkdir()
        (tmp_path / "out.partial/.0a1b2c3d.finished.jsonl").write_text("{")
        assert build_shapes(tmp_path / "out") == 0

    def test_half_written_files_are_removed(self, tmp_path: Path) -> None:
        interrupt(tmp_path / "out")
        (tmp_path / "out.partial/.0a1b2c3d.000009.tar").write_text("half")
        assert build_shapes(tmp_path / "out") > 0
        assert not [*(tmp_path / "out").glob(".*")]


@pytest.mark.parametrize(
    ("source", "out", "words"),
    [
        ("in.partial", "in", r"in\.partial can't be written: it is"),
        ("in", "in/out", r"in/out can't be written: it lies in"),
        ("out.partial/in", "out", r"out\.partial can't be written: it holds"),
    ],
)
def test_input_and_output_in_each_other_are_refused(
    source: str, out: str, words: str, tmp_path: Path
) -> None:
    root = folder_input(tmp_path / source, {"cat": 2})
    with pytest.raises(UserError, match=words):
        build_shards(BuildOptions("folder", size=8), str(root), tmp_path / out)
    assert len([*tmp_path.rglob("*.png")]) == 2
    assert not (tmp_path / out).exists()


def test_an_input_of_a_merge_is_not_its_partial_build(tmp_path: Path) -> None:
    one, other = build(tmp_path, "out.partial", {"cat": 2}), build(tmp_path, "other", {"dog": 2})
    before = contents(one)
    for name in (str(one), f"file://{one}"):
        with pytest.raises(UserError, match="which the command reads"):
            merge_shards([name, str(other)], tmp_path / "out")
    assert contents(one) == before


def test_full_disk_at_the_start_loses_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    interrupt(tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(partial, "write_text", full)
        with pytest.raises(RunError, match="Free some space"):
            build_shapes(tmp_path / "out")
    assert build_shapes(tmp_path / "out") > 0


class TestEnd:
    @pytest.mark.parametrize("name", ["manifest.json", "report.json"])
    def test_full_disk_at_the_very_end_loses_no_shard(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = folder_input(tmp_path / "in", {"cat": 9})
        (root / "cat/again.png").write_bytes((root / "cat/1.png").read_bytes())
        (root / "cat/broken.png").write_bytes(b"no picture")
        options = BuildOptions("folder", size=8, shard_mb=0.006)
        build_shards(options, str(root), tmp_path / "whole")
        real = os.replace

        def full(temporary: Path, path: Path) -> None:
            if Path(path).name == name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(temporary, path)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", full)
            with pytest.raises(RunError, match="Free some space"):
                build_shards(options, str(root), tmp_path / "out")
        seen: list[int] = []
        build_shards(options, str(root), tmp_path / "out", progress=lambda done, total: seen.append(done))
        assert seen[0] > 0
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")

    @pytest.mark.parametrize("renamed", [False, True])
    def test_kill_around_the_renaming_loses_no_shard(
        self, renamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build_shapes(tmp_path / "whole")

        def killed(built: Path, path: Path) -> None:
            if renamed:
                put_folder(built, path)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(partial, "put_folder", killed)
            with pytest.raises(KeyboardInterrupt):
                build_shapes(tmp_path / "out")
        assert build_shapes(tmp_path / "out") == 40
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]

    def test_a_renamed_build_is_not_taken_back_by_another_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def killed(built: Path, path: Path) -> None:
            put_folder(built, path)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(partial, "put_folder", killed)
            with pytest.raises(KeyboardInterrupt):
                build_shapes(tmp_path / "out")
        other = BuildOptions("shapes", size=8, per_class=1)
        before = contents(tmp_path / "out")
        with pytest.raises(UserError, match="--overwrite"):
            build_shards(other, "-", tmp_path / "out")
        assert contents(tmp_path / "out") == before
        build_shards(other, "-", tmp_path / "out", overwrite=True)
        assert not (tmp_path / "out/finished.jsonl").exists()

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_what_others_put_there_meanwhile_is_kept(self, overwrite: bool, tmp_path: Path) -> None:
        def progress(done: int, total: int) -> None:
            if done == 30:
                (tmp_path / "out").mkdir()
                (tmp_path / "out/thesis.txt").write_text("precious")

        words = "is not a shard folder" if overwrite else "exists already"
        with pytest.raises(UserError, match=words):
            build_shapes(tmp_path / "out", progress, overwrite=overwrite)
        assert contents(tmp_path / "out") == {"thesis.txt": b"precious"}
        assert build_shapes_again(tmp_path) == 40


def build_shapes_again(root: Path) -> int:
    """Build once more, after what was at `out` is moved away."""
    (root / "out").rename(root / "away")
    return build_shapes(root / "out")


class TestKept:
    def test_finished_shards_stay_where_an_input_of_a_merge_is_damaged(self, tmp_path: Path) -> None:
        one, other = build(tmp_path, "one", {"cat": 7}), build(tmp_path, "other", {"dog": 7})
        merge_shards([str(one), str(other)], tmp_path / "whole")
        damaged = other / "000001.tar"
        content = damaged.read_bytes()
        damaged.write_bytes(content[:700] + bytes([content[700] ^ 1]) + content[701:])
        with pytest.raises(UserError, match=r"000001\.tar is damaged"):
            merge_shards([str(one), str(other)], tmp_path / "out")
        kept = (tmp_path / "out.partial/000000.tar").stat()
        damaged.write_bytes(content)
        merge_shards([str(one), str(other)], tmp_path / "out")
        assert (tmp_path / "out/000000.tar").stat().st_mtime_ns == kept.st_mtime_ns
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")

    def test_strict_build_goes_on_without_strict(self, tmp_path: Path) -> None:
        root = folder_input(tmp_path / "in", {"cat": 20})
        (root / "cat/broken.png").write_bytes(b"no picture")
        options: dict[str, Any] = {"size": 8, "shard_mb": 0.003, "seed": 1}
        with pytest.raises(UserError, match="broken"):
            build_shards(BuildOptions("folder", strict=True, **options), str(root), tmp_path / "out")
        seen: list[int] = []
        build_shards(
            BuildOptions("folder", **options),
            str(root),
            tmp_path / "out",
            progress=lambda done, total: seen.append(done),
        )
        assert seen[0] > 0


def test_reading_finished_shards_anew_counts_as_progress(tmp_path: Path) -> None:
    shards = build_shards(SHAPES, "-", tmp_path / "whole").shards
    interrupt(tmp_path / "out")
    seen: list[int] = []
    build_shards(SHAPES, "-", tmp_path / "out", progress=lambda done, total: seen.append(done))
    assert seen[:2] == [shards[0].samples, shards[0].samples + shards[1].samples]
    assert seen == sorted(seen)


def test_folder_that_another_build_renames_before_it_is_locked_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_shapes(tmp_path / "ready")
    before = contents(tmp_path / "ready")
    (tmp_path / "out.partial").mkdir()
    flock = fcntl.flock

    def late(handle: int, flags: int) -> None:
        (tmp_path / "out.partial").rmdir()
        (tmp_path / "ready").rename(tmp_path / "out")
        flock(handle, flags)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(UserError, match="another process is building"):
        build_shapes(tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("puts", [1, 2])
def test_split_that_is_killed_between_its_folders_goes_on(
    puts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = build(tmp_path, "all", {"ant": 5, "bee": 4})

    def split(one: str, two: str) -> None:
        split_by_classes(str(shards), tmp_path / one, tmp_path / two, ["ant"])

    split("one", "two")
    left = [puts]

    def killed(built: Path, path: Path) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        put_folder(built, path)
        if puts == 2 and not left[0]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(partial, "put_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            split("first", "second")
    kept = (tmp_path / "first/000000.tar").stat()
    split("first", "second")
    assert (tmp_path / "first/000000.tar").stat().st_mtime_ns == kept.st_mtime_ns
    assert contents(tmp_path / "first") == contents(tmp_path / "one")
    assert contents(tmp_path / "second") == contents(tmp_path / "two")
    assert not [*tmp_path.glob("*.partial")]
