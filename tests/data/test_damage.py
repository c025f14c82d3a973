"""What a reader says of shards that are damaged, forged or unreachable; and what it makes do without."""

import hashlib
import io
import itertools
import json
import shutil
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

import pytest

from cgt.data import DataConfig, Pictures, open_pictures, remote
from cgt.data.manifest import ShardFolder, open_shards
from cgt.errors import RunError, UserError
from tests.data.faulty_server import Fault, FaultyServer, serve
from tests.data.miniatures import build_folder

COUNTS = {"cat": 7, "dog": 5, "owl": 4}
TOTAL = 16
BAD = "000001.tar"
SAMPLES = 4
"""In that shard."""

Members = list[tuple[str, bytes]]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    return build_folder(tmp_path_factory.mktemp("set"), COUNTS)


@pytest.fixture
def copy(shards: ShardFolder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards.location, tmp_path / "copy"))


def opened(location: str | Path, **choices: object) -> Pictures:
    defaults = {"shards": str(location), "reader": "stream", "workers": 0}
    return open_pictures(DataConfig.model_validate(defaults | choices))


def epoch(pictures: Pictures) -> list[bytes]:
    batches = itertools.islice(pictures.batches(TOTAL, seed=0), 1)
    return [x_3RR.numpy().tobytes() for x_N3RR, _ in batches for x_3RR in x_N3RR]


def forge(folder: Path, change: Callable[[Members], Members]) -> None:
    """Write the shard BAD anew with other members, and a manifest that knows its size and hash."""
    with tarfile.open(folder / BAD) as archive:
        members = [(info.name, cast(IO[bytes], archive.extractfile(info)).read()) for info in archive]
    with tarfile.open(folder / BAD, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in change(members):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    content = (folder / BAD).read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    shard = next(shard for shard in manifest["shards"] if shard["file"] == BAD)
    shard |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def bomb(members: Members) -> Members:
    """The first picture says that it is 50,000 pixels wide and high."""
    name, content = members[1]
    head = b"IHDR" + struct.pack(">II", 50_000, 50_000) + content[24:29]
    forged = content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]
    return [members[0], (name, forged), *members[2:]]


FORGERIES: dict[str, tuple[Callable[[Members], Members], str, int]] = {
    "two samples of one key": (lambda m: [*m[:2], *m[:2], *m[4:]], "it has two samples", 3),
    "a path out of the folder": (
        lambda m: [("../../a.cls", b"0"), *m[1:]],
        "'../../a.cls' is no name of",
        SAMPLES,
    ),
    "an absolute path": (lambda m: [("/etc/a.cls", b"0"), *m[1:]], "'/etc/a.cls' is no name of", SAMPLES),
    "a class that is none": (lambda m: [(m[0][0], b"7"), *m[1:]], "not a class number below 3", SAMPLES),
    "a class that is no number": (lambda m: [(m[0][0], b"cat"), *m[1:]], "says b'cat', not a class", SAMPLES),
    "no class": (lambda m: m[1:], r"has no \S+\.cls beside it", SAMPLES),
    "no picture": (lambda m: [m[0], *m[2:]], r"has no \S+\.png beside it", SAMPLES),
    "a truncated picture": (lambda m: [m[0], (m[1][0], m[1][1][:-100]), *m[2:]], "can't be decoded", 1),
    "no picture but text": (lambda m: [m[0], (m[1][0], b"text"), *m[2:]], "is no picture", 1),
    "a decompression bomb": (bomb, r"is 50000 x 50000, the manifest|exceeds limit", 1),
    "a sample too few": (lambda m: m[:-2], "holds 3 samples, the manifest says 4", 1),
}
"""For each: the change, what is said of it, and how many of the shard's pictures it costs."""


@pytest.fixture(params=FORGERIES)
def forgery(request: pytest.FixtureRequest, copy: Path) -> tuple[str, int]:
    change, words, cost = FORGERIES[request.param]
    shard = next(shard for shard in open_shards(str(copy)).manifest.shards if shard.file == BAD)
    assert shard.samples == SAMPLES
    forge(copy, change)
    return words, cost


@pytest.mark.parametrize("reader", ["stream", "resident"])
def test_damage_is_named_with_the_shard(reader: str, copy: Path, forgery: tuple[str, int]) -> None:
    with pytest.raises(UserError, match=rf"{BAD} is damaged: .*{forgery[0]}"):
        epoch(opened(copy, reader=reader))


def test_damage_costs_the_pictures_that_it_hits(
    copy: Path, shards: ShardFolder, forgery: tuple[str, int]
) -> None:
    _, cost = forgery
    pictures = opened(copy, on_error="skip")
    found = epoch(pictures)
    assert len(found) == TOTAL
    assert set(found) < set(epoch(opened(shards.location)))
    assert len(set(found)) == TOTAL - cost
    assert [file for file, _ in pictures.skipped] == [BAD] * cost
    resident = opened(copy, reader="resident", on_error="skip")
    assert len(resident) == TOTAL - cost


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 0}, "size: Input should be greater"),
        ({"encoding": "gif"}, "encoding: Input should be 'png' or 'jpg'"),
        ({"classes": ["cat", "cat", "owl"]}, "'cat' stands twice"),
        ({"more": 1}, "more: Extra inputs"),
        ({"version": 2}, "format version 2"),
        ({"shards": []}, "shards: Tuple should have at least 1 item"),
    ],
)
def test_manifest_that_was_edited_by_hand_is_refused(
    change: dict[str, object], words: str, copy: Path
) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(UserError, match=words):
        opened(copy)


@pytest.mark.parametrize("name", ["../000001.tar", "/tmp/000001.tar", "000001.tar/../000001.tar"])
def test_manifest_that_names_a_shard_elsewhere_is_refused(name: str, copy: Path) -> None:
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace(BAD, name))
    with pytest.raises(UserError, match=r"shards\.1\.file: String should match"):
        opened(copy)


class TestNetwork:
    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote, "TRIES", 3)
        monkeypatch.setattr(remote, "FIRST_PAUSE", 0.0)
        monkeypatch.setattr(remote, "READ_SECONDS", 0.3)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    @pytest.fixture
    def server(self, copy: Path) -> Iterator[FaultyServer]:
        with serve(copy) as server:
            yield server

    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize("cached", [False, True])
    def test_faults_that_pass_cost_nothing(
        self, workers: int, cached: bool, server: FaultyServer, shards: ShardFolder, tmp_path: Path
    ) -> None:
        """Dropped, refused, cut short, stalled: each picture still comes once."""
        faults = [
            Fault(after=700),
            Fault(status=500),
            Fault(after=5000, length=False),
            Fault(after=700, stall=True),
        ]
        files = [shard.file for shard in shards.manifest.shards]
        for i, file in enumerate(files):
            server.faults[file] = [faults[i % 4], faults[(i + 1) % 4]]
        cache = str(tmp_path / "cache") if cached else None
        pictures = opened(server.url, workers=workers, cache=cache)
        assert epoch(pictures) == epoch(opened(shards.location))
        assert all(server.requests[file] >= 3 for file in files)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_fault_that_stays_is_named(self, workers: int, server: FaultyServer) -> None:
        server.faults[BAD] = [Fault(status=500)] * 100
        with pytest.raises(RunError, match=rf"{BAD} can't be read, tried 3 times"):
            epoch(opened(server.url, workers=workers))

    def test_fault_that_stays_is_skipped_where_asked(self, server: FaultyServer) -> None:
        server.faults[BAD] = [Fault(after=700)] * 100
        pictures = opened(server.url, on_error="skip")
        counts = Counter(epoch(pictures))
        assert len(counts) == TOTAL - SAMPLES
        assert sorted(pictures.skipped) == [(BAD, number) for number in range(SAMPLES)]

    def test_cache_serves_later_epochs_and_other_processes(
        self, server: FaultyServer, tmp_path: Path, shards: ShardFolder
    ) -> None:
        pictures = opened(server.url, workers=2, cache=str(tmp_path / "cache"))
        for _ in range(2):
            epoch(pictures)
        assert {server.requests[shard.file] for shard in shards.manifest.shards} == {1}

    def test_reading_once_fetches_each_shard_once(self, server: FaultyServer, shards: ShardFolder) -> None:
        assert len(list(opened(server.url, workers=2).once(4))) == TOTAL / 4
        assert {server.requests[shard.file] for shard in shards.manifest.shards} == {1}
