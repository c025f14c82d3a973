"""Building: deterministic bytes, resumption, refusals, full disks."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cgt.data import shard_writer, write
from cgt.data.manifest import open_shards
from cgt.data.write import BuildOptions, build_shards
from cgt.errors import RunError, UserError
from tests.data.miniatures import folder_input

SHAPES = BuildOptions("shapes", size=8, per_class=2, shard_mb=0.02)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def members(folder: Path) -> list[tuple[str, bytes]]:
    result = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                stream = tar.extractfile(info)
                assert stream is not None
                result.append((info.name, stream.read()))
    return result


class TestBytes:
    def test_are_the_same_for_any_number_of_workers(self, tmp_path: Path) -> None:
        for workers in (1, 2, 5):
            build_shards(SHAPES, "-", tmp_path / str(workers), workers=workers)
        assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "5")

    def test_are_the_same_wherever_input_and_output_lie(self, tmp_path: Path) -> None:
        options = BuildOptions("folder", size=8)
        for place in ("a", "b/c"):
            build_shards(options, str(folder_input(tmp_path / place / "in")), tmp_path / place / "out")
        assert contents(tmp_path / "a/out") == contents(tmp_path / "b/c/out")

    def test_order_follows_the_seed_and_mixes_classes(self, tmp_path: Path) -> None:
        root = str(folder_input(tmp_path / "in", {"cat": 8, "dog": 8}))
        orders = []
        for seed in (0, 1):
            build_shards(BuildOptions("folder", size=8, seed=seed), root, tmp_path / str(seed))
            orders.append(
                [content for name, content in members(tmp_path / str(seed)) if name.endswith(".cls")]
            )
        assert orders[0] != orders[1]
        assert sorted(orders[0]) == sorted(orders[1])
        assert all(order != sorted(order) for order in orders)

    def test_size_of_shards_stays_below_the_limit(self, tmp_path: Path) -> None:
        manifest = build_shards(SHAPES, "-", tmp_path / "out")
        record = 10240  # tar files end on a multiple of it
        assert all(shard.bytes <= 20_000 + record for shard in manifest.shards)
        assert len(manifest.shards) > 2

    def test_picture_larger_than_a_shard_gets_one_of_its_own(self, tmp_path: Path) -> None:
        root = folder_input(tmp_path / "in", {"cat": 3}, size=(64, 64))
        manifest = build_shards(BuildOptions("folder", size=64, shard_mb=0.001), str(root), tmp_path / "out")
        assert [shard.samples for shard in manifest.shards] == [1, 1, 1]


class TestSelection:
    def test_classes_are_labelled_in_the_order_given(self, tmp_path: Path) -> None:
        root = folder_input(tmp_path / "in", {"cat": 2, "dog": 3, "owl": 1})
        options = BuildOptions("folder", size=8, classes=("owl", "dog"))
        manifest = build_shards(options, str(root), tmp_path / "out")
        assert manifest.classes == ("owl", "dog")
        assert manifest.counts() == {"owl": 1, "dog": 3}
        labels = {
            name.split("-")[0]: content for name, content in members(tmp_path / "out") if name.endswith("cls")
        }
        assert labels == {"owl": b"0", "dog": b"1"}

    def test_per_class_takes_the_first_in_the_seeded_order(self, tmp_path: Path) -> None:
        root = str(folder_input(tmp_path / "in", {"cat": 6, "dog": 5}))
        build_shards(BuildOptions("folder", size=8), root, tmp_path / "all")
        manifest = build_shards(BuildOptions("folder", size=8, per_class=2), root, tmp_path / "two")
        assert manifest.counts() == {"cat": 2, "dog": 2}
        everything = [item for item in members(tmp_path / "all") if item[0].startswith("cat")]
        assert [item for item in members(tmp_path / "two") if item[0].startswith("cat")] == everything[:4]

    def test_unknown_class_is_refused(self, tmp_path: Path) -> None:
        root = str(folder_input(tmp_path / "in"))
        with pytest.raises(UserError, match=r"did you mean 'cat'"):
            build_shards(BuildOptions("folder", classes=("cats",)), root, tmp_path / "out")

    def test_class_without_pictures_is_refused_unless_left_out(self, tmp_path: Path) -> None:
        root = folder_input(tmp_path / "in")
        (root / "empty").mkdir()
        with pytest.raises(UserError, match="no pictures of 'empty'"):
            build_shards(BuildOptions("folder", size=8), str(root), tmp_path / "out")
        build_shards(BuildOptions("folder", size=8, classes=("cat",)), str(root), tmp_path / "out")

    @pytest.mark.parametrize("name", ["cat, tabby", " cat", "#cat", "cat\n", os.fsdecode(b"caf\xe9")])
    def test_class_name_that_no_list_could_hold_is_refused(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="won't do.*; rename it"):
            build_shards(
                BuildOptions("folder"), str(folder_input(tmp_path / "in", {name: 1})), tmp_path / "out"
            )


KILLED_BUILD = """
import sys
from pathlib import Path
from cgt.data.write import BuildOptions, build_shards

def progress(done, total):
    print(done, flush=True)
    if done == int(sys.argv[2]):
        import time
        time.sleep(60)

options = BuildOptions("shapes", size=8, per_class=2, shard_mb=0.02)
build_shards(options, "-", Path(sys.argv[1]), progress=progress)
"""


class TestInterruptedBuild:
    @pytest.fixture
    def whole(self, tmp_path: Path) -> dict[str, bytes]:
        build_shards(SHAPES, "-", tmp_path / "whole")
        return contents(tmp_path / "whole")

    def interrupt(self, out: Path, after: int) -> None:
        """Stop a build of `out` once so many pictures are written."""

        def progress(done: int, total: int) -> None:
            if done == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build_shards(SHAPES, "-", out, progress=progress)

    def test_killed_build_goes_on_to_the_same_bytes(self, tmp_path: Path, whole: dict[str, bytes]) -> None:
        out = tmp_path / "out"
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED_BUILD, str(out), "25"], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert any(line.strip() == "25" for line in child.stdout)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert not out.exists()
        kept = (tmp_path / "out.partial/000000.tar").stat()
        seen: list[int] = []
        build_shards(SHAPES, "-", out, progress=lambda done, total: seen.append(done))
        assert seen[0] > 0
        assert (out / "000000.tar").stat().st_mtime_ns == kept.st_mtime_ns
        assert contents(out) == whole
        assert not (tmp_path / "out.partial").exists()

    @pytest.mark.parametrize("after", [0, 1, 11, 24, 40])
    def test_stopped_anywhere_goes_on_to_the_same_bytes(
        self, after: int, tmp_path: Path, whole: dict[str, bytes]
    ) -> None:
        self.interrupt(tmp_path / "out", after)
        assert not (tmp_path / "out").exists()
        build_shards(SHAPES, "-", tmp_path / "out")
        assert contents(tmp_path / "out") == whole

    def test_finished_shard_that_was_spoilt_meanwhile_is_written_again(
        self, tmp_path: Path, whole: dict[str, bytes]
    ) -> None:
        self.interrupt(tmp_path / "out", 38)
        spoilt = tmp_path / "out.partial/000001.tar"
        content = bytearray(spoilt.read_bytes())
        content[700] ^= 1
        spoilt.write_bytes(content)
        build_shards(SHAPES, "-", tmp_path / "out")
        assert contents(tmp_path / "out") == whole

    def test_log_cut_short_by_the_kill_is_no_obstacle(self, tmp_path: Path, whole: dict[str, bytes]) -> None:
        self.interrupt(tmp_path / "out", 38)
        log = tmp_path / "out.partial/finished.jsonl"
        log.write_bytes(log.read_bytes()[:-20])
        build_shards(SHAPES, "-", tmp_path / "out")
        assert contents(tmp_path / "out") == whole

    def test_other_options_begin_anew(self, tmp_path: Path, whole: dict[str, bytes]) -> None:
        def progress(done: int, total: int) -> None:
            if done == 30:
                raise KeyboardInterrupt

        other = BuildOptions("shapes", size=8, per_class=2, shard_mb=0.02, seed=5)
        with pytest.raises(KeyboardInterrupt):
            build_shards(other, "-", tmp_path / "out", progress=progress)
        before = contents(tmp_path / "out.partial")
        with pytest.raises(UserError, match="finished shards of .* other options .* --overwrite to"):
            build_shards(SHAPES, "-", tmp_path / "out")
        assert contents(tmp_path / "out.partial") == before
        build_shards(SHAPES, "-", tmp_path / "out", overwrite=True)
        assert contents(tmp_path / "out") == whole

    def test_changed_input_begins_anew(self, tmp_path: Path) -> None:
        root = folder_input(tmp_path / "in", {"cat": 9})
        options = BuildOptions("folder", size=8, shard_mb=0.005)

        def progress(done: int, total: int) -> None:
            if done == 6:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build_shards(options, str(root), tmp_path / "out", progress=progress)
        for i in range(9):
            (root / "cat" / f"{i}.png").write_bytes((root / "cat" / "8.png").read_bytes())
        with pytest.raises(UserError, match="other options or pictures"):
            build_shards(options, str(root), tmp_path / "out")
        build_shards(options, str(root), tmp_path / "out", overwrite=True)
        pictures = {content for name, content in members(tmp_path / "out") if name.endswith(".png")}
        assert len(pictures) == 1

    def test_second_build_at_the_same_time_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "out.partial").mkdir()
        handle = os.open(tmp_path / "out.partial", os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            with pytest.raises(UserError, match="another process is building"):
                build_shards(SHAPES, "-", tmp_path / "out")
        finally:
            os.close(handle)
        assert (tmp_path / "out.partial").is_dir()


class TestOutput:
    def test_existing_output_is_refused_and_untouched(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/mine.txt").write_text("precious")
        with pytest.raises(UserError, match="--overwrite"):
            build_shards(SHAPES, "-", tmp_path / "out")
        assert contents(tmp_path / "out") == {"mine.txt": b"precious"}

    def test_overwrite_replaces_all_of_it(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/manifest.json").write_text("worthless")
        (tmp_path / "out/000099.tar").write_text("worthless")
        build_shards(SHAPES, "-", tmp_path / "out", overwrite=True)
        assert "000099.tar" not in contents(tmp_path / "out")
        open_shards(str(tmp_path / "out")).check_files()
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_corrupt_picture_leaves_everything_as_it_was_where_none_is_allowed(
        self, overwrite: bool, tmp_path: Path
    ) -> None:
        root = folder_input(tmp_path / "in")
        (root / "cat/1.png").write_bytes(b"no picture")
        if overwrite:
            (tmp_path / "out").mkdir()
            (tmp_path / "out/manifest.json").write_text("old")
        with pytest.raises(UserError, match=r"cat/1\.png"):
            options = BuildOptions("folder", size=8, strict=True)
            build_shards(options, str(root), tmp_path / "out", overwrite=overwrite)
        left = sorted(path.name for path in tmp_path.iterdir())
        assert left == (["in", "out"] if overwrite else ["in"])

    def test_full_disk_is_a_run_error_and_the_build_goes_on_later(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build_shards(SHAPES, "-", tmp_path / "whole")
        (tmp_path / "out").mkdir()
        (tmp_path / "out/manifest.json").write_text("old")
        written = 0

        class FullDisk(shard_writer._OpenShard):
            def take(self, *arguments: Any) -> None:
                nonlocal written
                written += 1
                if written > 25:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                super().take(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(shard_writer, "_OpenShard", FullDisk)
            with pytest.raises(RunError, match="Free some space"):
                build_shards(SHAPES, "-", tmp_path / "out", overwrite=True)
        assert contents(tmp_path / "out") == {"manifest.json": b"old"}
        names = {path.name for path in (tmp_path / "out.partial").iterdir()}
        assert names == {"000000.tar", "000001.tar", "finished.jsonl"}
        build_shards(SHAPES, "-", tmp_path / "out", overwrite=True)
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_large_pictures_are_cropped_to_the_middle_and_resized(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "in/cat").mkdir(parents=True)
    image = Image.new("RGB", (60, 20), "red")
    image.paste("blue", (20, 0, 40, 20))
    image.save(tmp_path / "in/cat/a.png")
    build_shards(BuildOptions("folder", size=10), str(tmp_path / "in"), tmp_path / "out")
    (_, (name, content)) = members(tmp_path / "out")
    assert name.endswith(".png")
    (tmp_path / "one.png").write_bytes(content)
    with Image.open(tmp_path / "one.png") as square:
        assert square.size == (10, 10)
        assert square.getpixel((0, 0))[2] > 240  # type: ignore[index]
        assert square.getpixel((5, 5)) == (0, 0, 255)


def test_progress_counts_up_to_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    build_shards(SHAPES, "-", tmp_path / "out", progress=lambda *counts: seen.append(counts))
    assert seen == [(done, 40) for done in range(41)]


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "PROBED_BUILD", 40)
    free = 0

    def usage(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=free)

    monkeypatch.setattr("shutil.disk_usage", usage)
    with pytest.raises(UserError, match=r"need some 0\.00 GB.*0\.00 GB free: free some space"):
        build_shards(SHAPES, "-", tmp_path / "out")
    assert not any(tmp_path.iterdir())
    free = 10**9
    size = build_shards(SHAPES, "-", tmp_path / "out").bytes
    free = size // 2
    with pytest.raises(UserError, match="GB free"):
        build_shards(SHAPES, "-", tmp_path / "again")
    free = size * 2
    build_shards(SHAPES, "-", tmp_path / "again")


@pytest.mark.parametrize("part", ["train", "holdout"])
def test_room_is_asked_for_the_part_that_is_written(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build_shards(SHAPES, "-", tmp_path / "whole").bytes
    monkeypatch.setattr(write, "PROBED_BUILD", 40)
    share = 0.4
    options = BuildOptions("shapes", size=8, per_class=2, holdout=share, part=part)  # type: ignore[arg-type]
    expected = whole * (share if part == "holdout" else 1 - share)
    free = 0.7 * expected
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(UserError, match="GB free"):
        build_shards(options, "-", tmp_path / "out")
    free = 1.2 * expected
    build_shards(options, "-", tmp_path / "out")
