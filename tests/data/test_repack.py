"""Shard folders out of shard folders: stopped, killed and on full disks."""

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cgt.data.manifest import open_shards
from cgt.data.merge import merge_shards
from cgt.data.samples import open_shard, read_samples
from cgt.data.split import split_by_share
from cgt.data.write import BuildOptions, build_shards
from cgt.errors import RunError
from tests.data.miniatures import folder_input


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stored(folder: Path) -> list[tuple[str, str, bytes]]:
    """(key, class, encoded picture) in stored order."""
    opened = open_shards(str(folder))
    found = []
    for shard in opened.manifest.shards:
        with open_shard(opened, shard) as stream:
            for sample in read_samples(opened, shard, stream):
                found.append((sample.key, opened.manifest.classes[sample.cls], sample.encoded))
    return found


def build(root: Path, name: str, classes: dict[str, int], **options: object) -> Path:
    """A shard folder root/NAME, some 3 pictures to a shard; pictures of other names differ."""
    source = root / f"{name}-pictures"
    folder_input(source, classes)
    for path in source.rglob("*.png"):
        path.rename(path.with_name(f"{name}{path.name}"))
    build_shards(BuildOptions("folder", size=8, shard_mb=0.01, **options), str(source), root / name)  # type: ignore[arg-type]
    return root / name


def unequal(source: Path, classes: dict[str, int], seed: int) -> Path:
    """Pictures of which no two are equal, even of two seeds."""
    draws = np.random.default_rng(seed)
    for name, count in classes.items():
        (source / name).mkdir(parents=True)
        for i in range(count):
            pixels = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(source / name / f"{seed}-{i}.png")
    return source


KILLED = """
import sys, time
from pathlib import Path
from cgt.data.merge import merge_shards
from cgt.data.split import split_by_share

def progress(done, total):
    print(done, flush=True)
    if done == int(sys.argv[2]):
        time.sleep(60)

root = Path(sys.argv[3])
if sys.argv[1] == "merge":
    merge_shards([str(root / "x"), str(root / "y")], root / "out", progress=progress)
else:
    split_by_share(str(root / "x"), root / "out", root / "rest", 0.5, progress=progress)
"""


class TestInterrupted:
    """8 cats at x and 8 ants at y, 3 or so to a shard."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for seed, name, animal in ((0, "x", "cat"), (1, "y", "ant")):
            source = str(unequal(tmp_path / f"{name}-in", {animal: 8}, seed))
            build_shards(BuildOptions("folder", size=8, shard_mb=0.004), source, tmp_path / name)
        return tmp_path

    def whole(self, verb: str, root: Path) -> dict[str, dict[str, bytes]]:
        """What the verb gives without a stop."""
        self.run(verb, root)
        made = {name: contents(root / name) for name in ("out", "rest") if (root / name).exists()}
        for name in made:
            (root / name).rename(root / f"whole-{name}")
        return made

    def run(
        self, verb: str, root: Path, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        if verb == "merge":
            merge_shards([str(root / "x"), str(root / "y")], root / "out", progress=progress)
        else:
            split_by_share(str(root / "x"), root / "out", root / "rest", 0.5, progress=progress)

    @pytest.mark.parametrize("verb", ["merge", "split"])
    @pytest.mark.parametrize("after", [0, 7, 11, 14, 15, 16])
    def test_goes_on_to_the_same_bytes(self, verb: str, after: int, root: Path) -> None:
        whole = self.whole(verb, root)

        def stop(done: int, total: int) -> None:
            if done == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.run(verb, root, stop)
        assert not (root / "out").exists()
        seen: list[int] = []
        self.run(verb, root, lambda done, total: seen.append(done))
        assert seen == sorted(seen)
        assert seen[-1] == 16
        assert {name: contents(root / name) for name in whole} == whole
        assert not [*root.glob("*.partial")]

    @pytest.mark.parametrize("verb", ["merge", "split"])
    def test_killed_keeps_what_is_finished(self, verb: str, root: Path) -> None:
        whole = self.whole(verb, root)
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, verb, "15", str(root)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        while child.stdout.readline().strip() != "15":
            assert child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert not (root / "out").exists()
        kept = (root / "out.partial/000000.tar").stat()
        self.run(verb, root)
        assert (root / "out/000000.tar").stat().st_mtime_ns == kept.st_mtime_ns
        assert {name: contents(root / name) for name in whole} == whole

    def test_full_disk_is_a_run_error_and_no_fault_of_the_input(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = self.whole("merge", root)

        opened = Path.open

        class FullDisk(io.BytesIO):
            """A file that finds no room, from the first sample on."""

            def write(self, content: Any) -> int:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def full(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
            second = mode == "wb" and path.name.endswith("000001.tar")
            return FullDisk() if second else opened(path, mode, *rest, **more)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", full)
            with pytest.raises(RunError, match="Free some space"):
                self.run("merge", root)
        assert [path.name for path in (root / "out.partial").glob("*.tar")] == ["000000.tar"]
        self.run("merge", root)
        assert contents(root / "out") == whole["out"]
