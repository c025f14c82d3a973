"""`problems` finds each kind of damage."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from cgt.data.manifest import open_shards
from cgt.data.verify import problems
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
    assert found(shards) == ["000000.tar is missing", "000099.tar is not in the manifest"]


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
    assert problem.endswith(".cls")


def test_same_shard_twice(shards: Path) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    (shards / "000001.tar").write_bytes((shards / "000000.tar").read_bytes())
    manifest["shards"][1] = manifest["shards"][0] | {"file": "000001.tar"}
    (shards / "manifest.json").write_text(json.dumps(manifest))
    assert all("is in the folder twice" in problem for problem in found(shards))
    assert len(found(shards)) == manifest["shards"][0]["samples"]
