"""`problems` finds each kind of damage."""

import io
import json
import os
import re
import signal
import tarfile
from pathlib import Path

import pytest

from cgt.data import keys, verify
from cgt.data.manifest import open_shards
from cgt.data.verify import problems
from cgt.errors import RunError
from cgt.files import sha256
from tests.data.miniatures import build_folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return Path(build_folder(tmp_path).location)


def found(shards: Path) -> list[str]:
    return problems(open_shards(str(shards)))


def rewrite(shards: Path, replaced: dict[str, bytes | None]) -> None:
    """Replace members of the first shard by suffix (None drops them); the manifest follows."""
    path = shards / "000000.tar"
    with tarfile.open(path) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for info, content in members:
            changed = replaced.get(Path(info.name).suffix, content)
            if changed is not None:
                info.size = len(changed)
                tar.addfile(info, io.BytesIO(changed))
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["shards"][0].update(sha256=sha256(path), bytes=path.stat().st_size)
    (shards / "manifest.json").write_text(json.dumps(manifest))


def test_sound_folder_has_no_problems(shards: Path) -> None:
    assert found(shards) == []


def test_missing_and_stray_shards(shards: Path) -> None:
    (shards / "000000.tar").rename(shards / "000099.tar")
    assert found(shards) == ["000000.tar is missing", "000099.tar is not in the manifest: move it elsewhere"]


def test_flipped_bit(shards: Path) -> None:
    content = bytearray((shards / "000001.tar").read_bytes())
    content[-1] ^= 1
    (shards / "000001.tar").write_bytes(content)
    (problem,) = found(shards)
    assert problem.startswith("000001.tar has the SHA-256")


def test_every_picture_that_does_not_decode(shards: Path) -> None:
    samples = open_shards(str(shards)).manifest.shards[0].samples
    rewrite(shards, {".png": b"no picture"})
    assert all(problem.endswith("is no picture") for problem in found(shards))
    assert len(found(shards)) == samples > 1


def test_pictures_of_another_size(shards: Path, tmp_path: Path) -> None:
    other = Path(build_folder(tmp_path / "other", size=16).location)
    with tarfile.open(other / "000000.tar") as tar:
        picture = next(tar.extractfile(info).read() for info in tar if info.name.endswith("png"))  # type: ignore[union-attr]
    rewrite(shards, {".png": picture})
    assert all("is 16 x 16, the manifest says 8 x 8" in problem for problem in found(shards))
    assert found(shards)


def test_class_counts_that_differ(shards: Path) -> None:
    rewrite(shards, {".cls": b"2"})
    assert any("pictures of owl, the manifest says" in problem for problem in found(shards))


@pytest.mark.parametrize("number", [b"3", b"-1", b"cat", b""])
def test_class_numbers_out_of_range(number: bytes, shards: Path) -> None:
    rewrite(shards, {".cls": number})
    (problem,) = found(shards)
    assert "not a class number below 3" in problem


def test_samples_without_a_class(shards: Path) -> None:
    rewrite(shards, {".cls": None})
    (problem,) = found(shards)
    assert re.search(r"has no \S+\.cls", problem)


def test_same_shard_twice(shards: Path) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    (shards / "000001.tar").write_bytes((shards / "000000.tar").read_bytes())
    manifest["shards"][1] = manifest["shards"][0] | {"file": "000001.tar"}
    (shards / "manifest.json").write_text(json.dumps(manifest))
    assert all("is in the folder twice" in problem for problem in found(shards))
    assert len(found(shards)) == manifest["shards"][0]["samples"]


def test_shard_that_was_cut_short(shards: Path) -> None:
    content = (shards / "000001.tar").read_bytes()
    (shards / "000001.tar").write_bytes(content[:700])
    first, *others = found(shards)
    assert first == f"000001.tar has 700 bytes, the manifest says {len(content):,}"
    assert all(problem.startswith("000001.tar: ") for problem in others)


def test_list_is_the_same_from_any_number_of_workers(shards: Path) -> None:
    rewrite(shards, {".png": b"no picture"})
    content = bytearray((shards / "000001.tar").read_bytes())
    content[-1] ^= 1
    (shards / "000001.tar").write_bytes(content)
    (shards / "000002.tar").unlink()
    (shards / "000099.tar").touch()
    folder = open_shards(str(shards))
    assert problems(folder) == problems(folder, workers=3)
    assert len(problems(folder)) == folder.manifest.shards[0].samples + 3


def test_progress_counts_pictures(shards: Path) -> None:
    seen: list[tuple[int, int]] = []
    folder = open_shards(str(shards))
    problems(folder, lambda *counts: seen.append(counts), workers=2)
    assert seen == sorted(seen)
    assert seen[0] == (0, 16)
    assert seen[-1] == (16, 16)
    assert len(seen) == 1 + len(folder.manifest.shards)


def test_keys_that_only_hash_alike_are_no_problem(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (keys, verify):
        monkeypatch.setattr(module, "key_digest", lambda key: bytes(8))
    assert found(shards) == []


def test_killed_worker_is_a_run_error(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(verify, "decode", killed)
    with pytest.raises(RunError, match="fewer --workers"):
        found(shards)
