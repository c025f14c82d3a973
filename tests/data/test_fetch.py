"""Shards reach the reader whole, or the error says which one did not and why; nothing hangs."""

import errno
import hashlib
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cgt.data import fetch, remote
from cgt.data.cache import Cache
from cgt.data.fetch import ShardStore
from cgt.data.manifest import DamagedShardError, Shard, open_shards
from cgt.data.remote import RefusedError
from cgt.errors import RunError, UserError
from tests.data.faulty_server import Fault, FaultyServer, serve

CONTENT = random.Random(0).randbytes(200_000)
SHARD = Shard(
    file="000000.tar",
    samples=1,
    bytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    counts={"cat": 1},
)
TRIES = 3


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "TRIES", TRIES)
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(remote, "READ_SECONDS", 0.2)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultyServer]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / SHARD.file).write_bytes(CONTENT)
    with serve(tmp_path / "served") as server:
        yield server


@pytest.fixture
def local(tmp_path: Path) -> Path:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / SHARD.file).write_bytes(CONTENT)
    return tmp_path / "local"


def content(store: ShardStore) -> bytes:
    with store.open(SHARD) as file:
        return file.read()


ACCIDENTS = {
    "dropped": Fault(after=70_000),
    "dropped at once": Fault(after=0),
    "shortened": Fault(after=70_000, length=False),
    "internal error": Fault(status=500),
    "too many requests": Fault(status=429),
    "no answer": Fault(stall=True),
    "stalled": Fault(after=70_000, stall=True),
}


class TestUrl:
    def test_shard_is_fetched_with_one_request(self, server: FaultyServer) -> None:
        assert content(ShardStore(server.url)) == CONTENT
        assert server.requests == {SHARD.file: 1}

    def test_length_need_not_be_announced(self, server: FaultyServer) -> None:
        server.always = Fault(length=False)
        assert content(ShardStore(server.url)) == CONTENT

    @pytest.mark.parametrize("fault", [*ACCIDENTS.values(), Fault(flip=True)], ids=[*ACCIDENTS, "bit flip"])
    def test_accident_is_made_up_for(self, fault: Fault, server: FaultyServer) -> None:
        server.faults[SHARD.file] = [fault]
        assert content(ShardStore(server.url)) == CONTENT
        assert server.requests == {SHARD.file: 2}

    def test_one_accident_after_another(self, server: FaultyServer) -> None:
        server.faults[SHARD.file] = [Fault(after=70_000), Fault(status=503)]
        assert content(ShardStore(server.url)) == CONTENT

    @pytest.mark.parametrize("fault", ACCIDENTS.values(), ids=list(ACCIDENTS))
    def test_shard_is_named_when_all_tries_fail(self, fault: Fault, server: FaultyServer) -> None:
        server.always = fault
        with pytest.raises(RunError, match=rf"{server.url}/000000\.tar can't be read, tried {TRIES} times"):
            ShardStore(server.url).open(SHARD)
        assert server.requests == {SHARD.file: TRIES}

    def test_server_that_is_too_slow_is_asked_anew(
        self, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fetch, "PATIENCE", 0.2)
        monkeypatch.setattr(fetch, "SLOWEST", 50_000)
        server.faults[SHARD.file] = [Fault(trickle=True)]
        assert content(ShardStore(server.url)) == CONTENT
        server.always = Fault(trickle=True)
        with pytest.raises(RunError, match=r"tried 3 times \(only [0-9,]+ bytes came in"):
            ShardStore(server.url).open(SHARD)

    def test_server_that_is_gone_is_told(self, tmp_path: Path) -> None:
        with serve(tmp_path) as server:
            url = server.url
        with pytest.raises(RunError, match=r"tried 3 times \(.*onnect.*check the network"):
            ShardStore(url).open(SHARD)

    @pytest.mark.parametrize(("status", "reason"), [(404, "there is no such file"), (403, "403")])
    def test_refusal_is_final(self, status: int, reason: str, server: FaultyServer) -> None:
        server.always = Fault(status=status)
        with pytest.raises(RefusedError, match=rf"000000\.tar can't be read \({reason}.*check the address"):
            ShardStore(server.url).open(SHARD)
        assert server.requests == {SHARD.file: 1}

    @pytest.mark.parametrize("other", [CONTENT[:-1] + b"x", CONTENT + b"x" * 10**7], ids=["other", "longer"])
    def test_wrong_content_twice_is_damage(self, other: bytes, server: FaultyServer) -> None:
        (server.folder / SHARD.file).write_bytes(other)
        with pytest.raises(DamagedShardError, match=rf"000000\.tar is damaged: its SHA-256.*{SHARD.sha256}"):
            ShardStore(server.url).open(SHARD)
        assert server.requests == {SHARD.file: 2}

    def test_nothing_is_left_without_a_cache(
        self, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "temporary").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
        with ShardStore(server.url).open(SHARD) as file:
            assert file.read(10) == CONTENT[:10]
            assert file.seek(-10, os.SEEK_END) == len(CONTENT) - 10
            assert not list((tmp_path / "temporary").iterdir())

    def test_full_disk_is_told_with_the_remedy(
        self, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        room = shutil.disk_usage("/")._replace(free=len(CONTENT) - 1)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: room)
        with pytest.raises(RunError, match=r"200,000 bytes.*199,999 bytes free.*TMPDIR"):
            ShardStore(server.url).open(SHARD)

    @pytest.mark.parametrize("cached", [False, True])
    def test_disk_that_runs_full_is_told_at_once(
        self, cached: bool, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        cache = Cache(tmp_path, 10**6) if cached else None
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) // 4, before[1]))
        try:
            with pytest.raises(RunError, match=rf"{tmp_path} could not be written: no room on the disk"):
                ShardStore(server.url, cache).open(SHARD)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert server.requests.total() <= 1

    def test_cached_shard_is_fetched_once(self, server: FaultyServer, tmp_path: Path) -> None:
        store = ShardStore(server.url, Cache(tmp_path / "cache", 10**6))
        assert content(store) == content(store) == CONTENT
        assert server.requests == {SHARD.file: 1}

    @pytest.mark.parametrize("fault", [Fault(after=70_000), Fault(flip=True)], ids=["dropped", "bit flip"])
    def test_failed_fetch_leaves_nothing_in_the_cache(
        self, fault: Fault, server: FaultyServer, tmp_path: Path
    ) -> None:
        server.always = fault
        with pytest.raises((RunError, UserError)):
            ShardStore(server.url, Cache(tmp_path / "cache", 10**6)).open(SHARD)
        assert not list((tmp_path / "cache").iterdir())

    def test_pickled_store_works(self, server: FaultyServer, tmp_path: Path) -> None:
        store = ShardStore(server.url, Cache(tmp_path / "cache", 10**6))
        assert content(pickle.loads(pickle.dumps(store))) == CONTENT

    def test_store_that_was_used_works_in_a_forked_process(self, server: FaultyServer) -> None:
        store = ShardStore(server.url)
        content(store)
        context = multiprocessing.get_context("fork")
        child = context.Process(target=lambda: os._exit(0 if content(store) == CONTENT else 1))
        child.start()
        child.join(20)
        assert child.exitcode == 0
        assert content(store) == CONTENT

    def test_pauses_leave_the_seeded_generators_alone(self, server: FaultyServer) -> None:
        server.faults[SHARD.file] = [Fault(status=500)]
        before = random.getstate()
        content(ShardStore(server.url))
        assert random.getstate() == before

    def test_manifest_is_asked_for_again(self, server: FaultyServer) -> None:
        server.always = Fault(status=500)
        with pytest.raises(RunError, match=r"manifest\.json can't be read, tried 3 times \(500"):
            open_shards(server.url)


class TestLocal:
    def test_reads_like_any_file(self, local: Path) -> None:
        with ShardStore(str(local)).open(SHARD) as file:
            assert file.read(5) == CONTENT[:5]
            assert file.tell() == 5
            file.seek(-7, os.SEEK_END)
            assert file.read() == CONTENT[-7:]
            file.seek(3)
            file.seek(4, os.SEEK_CUR)
            assert file.read(9) == CONTENT[7:16]

    def test_reading_goes_on_after_errors(self, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fetch, "BLOCK", 2**12)
        failures = [errno.EIO, errno.ESTALE]
        with ShardStore(str(local)).open(SHARD) as file:
            assert file.read(100) == CONTENT[:100]
            fail_next_reads(monkeypatch, failures)
            assert file.read() == CONTENT[100:]
        assert not failures

    def test_file_is_opened_again_after_an_error(self, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with ShardStore(str(local)).open(SHARD) as file:
            (local / "restored").write_bytes(CONTENT[::-1])
            (local / "restored").replace(local / SHARD.file)
            fail_next_reads(monkeypatch, [errno.ESTALE])
            assert file.read() == CONTENT[::-1]

    def test_lasting_error_names_the_shard(self, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fail_next_reads(monkeypatch, [errno.ETIMEDOUT] * TRIES)
        with (
            ShardStore(str(local)).open(SHARD) as file,
            pytest.raises(RunError, match=r"000000\.tar can't be read, tried 3 times \(.*check the disk"),
        ):
            file.read()

    def test_missing_and_shortened_shards_are_damage(self, local: Path) -> None:
        (local / SHARD.file).write_bytes(b"short")
        with pytest.raises(DamagedShardError, match=r"000000\.tar has 5 bytes, the manifest says 200,000"):
            ShardStore(str(local)).open(SHARD)
        (local / SHARD.file).unlink()
        with pytest.raises(DamagedShardError, match=r"000000\.tar is missing"):
            ShardStore(str(local)).open(SHARD)


def fail_next_reads(monkeypatch: pytest.MonkeyPatch, failures: list[int]) -> None:
    read = os.preadv

    def failing(handle: int, buffers: list[memoryview], position: int) -> int:
        if failures:
            number = failures.pop()
            raise OSError(number, os.strerror(number))
        return read(handle, buffers, position)

    monkeypatch.setattr(os, "preadv", failing)


class Bucket(MemoryFileSystem):  # type: ignore[misc]
    """Stands for a file system that can't be reached."""

    store: dict[str, Any] = {}  # noqa: RUF012 - as in the parent

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.partition("://")[2].lstrip("/") if "://" in path else path


class TestProtocols:
    @pytest.mark.parametrize("protocol", ["s3", "gs", "hf"])
    def test_shards_are_read_through_fsspec(self, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fsspec, "get_filesystem_class", {protocol: Bucket}.__getitem__)
        Bucket().pipe_file("/name/folder/000000.tar", CONTENT)
        Bucket().pipe_file("/name/folder/small", b"small")
        assert content(ShardStore(f"{protocol}://name/folder")) == CONTENT
        assert remote.read_small(f"{protocol}://name/folder/small") == b"small"
        with pytest.raises(RefusedError, match="there is no such file"):
            ShardStore(f"{protocol}://name/other").open(SHARD)

    @pytest.mark.parametrize(("protocol", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
    def test_missing_package_is_named_with_the_extra(
        self, protocol: str, package: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=rf"(?s){protocol}://name.*pip install 'cgt\[{protocol}\]'"):
            open_shards(f"{protocol}://name/folder")

    @pytest.mark.parametrize(
        "url", ["ftp://host/a", "memory://a", "zip://a::http://host/b", "pipe:cat http://host/a", "HTTP://a"]
    )
    def test_other_urls_are_refused(self, url: str) -> None:
        with pytest.raises(UserError, match=r"begin with http://, https://, s3://, gs://, hf://"):
            open_shards(url)
