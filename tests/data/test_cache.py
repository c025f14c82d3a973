"""The cache of shards: one download for all who ask, never too full, and nothing in it that is not whole."""

import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest

from cgt.data import cache as module
from cgt.data.cache import Cache
from cgt.errors import RunError, UserError

FORK = multiprocessing.get_context("fork")
SIZE = 1000


def content(number: int) -> bytes:
    return bytes([number]) * SIZE


def digest(number: int) -> str:
    return hashlib.sha256(content(number)).hexdigest()


class Downloads:
    """Fills files with shards' contents, and counts how often."""

    def __init__(self) -> None:
        self.count = FORK.Value("i", 0)

    def __call__(self, cache: Cache, number: int, *, seconds: float = 0.0) -> IO[bytes]:
        def fill(file: IO[bytes]) -> None:
            with self.count:
                self.count.value += 1
            file.write(content(number)[: SIZE // 2])
            file.flush()
            time.sleep(seconds)
            file.write(content(number)[SIZE // 2 :])

        return cache.open(digest(number), SIZE, fill)

    def read(self, cache: Cache, number: int, *, seconds: float = 0.0) -> bytes:
        with self(cache, number, seconds=seconds) as file:
            return file.read()


@pytest.fixture
def downloads() -> Downloads:
    return Downloads()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 3 * SIZE)


def names(cache: Cache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()}


def tars(*numbers: int) -> set[str]:
    return {f"{digest(number)}.tar" for number in numbers}


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_hit_is_not_downloaded(cache: Cache, downloads: Downloads) -> None:
    assert [downloads.read(cache, 1) for _ in range(3)] == [content(1)] * 3
    assert downloads.count.value == 1
    assert names(cache) == tars(1)


def test_processes_that_ask_at_once_share_one_download(cache: Cache, downloads: Downloads) -> None:
    barrier = FORK.Barrier(4)

    def ask() -> None:
        barrier.wait(20)
        os._exit(0 if downloads.read(cache, 1, seconds=0.2) == content(1) else 1)

    processes = [FORK.Process(target=ask) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0] * 4
    assert downloads.count.value == 1
    assert names(cache) == tars(1)


def test_threads_that_ask_at_once_share_one_download(cache: Cache, downloads: Downloads) -> None:
    """And none waits for another to close its file."""
    barrier = threading.Barrier(4)

    def ask(_: int) -> bytes:
        with downloads(cache, 1, seconds=0.1) as file:
            barrier.wait(20)
            return file.read()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [content(1)] * 4
    assert downloads.count.value == 1


def test_waiting_process_takes_over_from_a_killed_one(cache: Cache, downloads: Downloads) -> None:
    first = FORK.Process(target=downloads.read, args=(cache, 1), kwargs={"seconds": 60})
    first.start()
    wait_for(lambda: downloads.count.value == 1)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(downloads.read, cache, 1)
        time.sleep(0.1)
        assert not second.done()
        os.kill(first.pid or 0, signal.SIGKILL)
        assert second.result(20) == content(1)
    first.join()
    assert downloads.count.value == 2
    assert names(cache) == tars(1)


def test_what_a_killed_process_left_is_removed_by_the_next_download(
    cache: Cache, downloads: Downloads
) -> None:
    process = FORK.Process(target=downloads.read, args=(cache, 1), kwargs={"seconds": 60})
    process.start()
    wait_for(lambda: downloads.count.value == 1)
    process.kill()
    process.join()
    assert names(cache) == {f"{digest(1)}.part"}
    downloads.read(cache, 2)
    assert names(cache) == tars(2)


def test_failed_download_leaves_nothing(cache: Cache) -> None:
    def fail(file: IO[bytes]) -> None:
        file.write(b"some")
        raise RunError("no network")

    with pytest.raises(RunError, match="no network"):
        cache.open(digest(1), SIZE, fail)
    assert not names(cache)


def test_shards_read_longest_ago_make_room(cache: Cache, downloads: Downloads) -> None:
    for number in (1, 2, 3):
        downloads.read(cache, number)
        os.utime(cache.folder / f"{digest(number)}.tar", (number, number))
    downloads.read(cache, 1)
    downloads.read(cache, 4)
    assert names(cache) == tars(1, 3, 4)


def test_limit_holds_while_processes_download(cache: Cache, downloads: Downloads) -> None:
    """Reserved room counts: with three downloads under way, the others do without the cache."""
    largest = 0
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(downloads.read, cache, number, seconds=0.1) for number in range(8)]
        while not all(future.done() for future in futures):
            largest = max(largest, sum(sizes(cache)))
        assert [future.result() for future in futures] == [content(number) for number in range(8)]
    assert largest <= sum(sizes(cache)) == 3 * SIZE
    assert all(name.endswith(".tar") for name in names(cache))


def sizes(cache: Cache) -> list[int]:
    """Of all files, looked at while none may be added: else one could be seen under both of its names."""
    if not cache.folder.is_dir():
        return []
    with module._locked(cache.folder, os.O_RDONLY):
        seen = {}
        for path in sorted(cache.folder.iterdir()):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            seen[found.st_ino] = found.st_size
        return list(seen.values())


def test_shard_that_is_being_read_may_lose_its_name_not_its_content(
    cache: Cache, downloads: Downloads
) -> None:
    with downloads(cache, 1) as file:
        for number in (2, 3, 4):
            downloads.read(cache, number)
        assert not names(cache) & tars(1)
        assert file.read() == content(1)


def test_shard_larger_than_the_limit_is_refused(tmp_path: Path, downloads: Downloads) -> None:
    with pytest.raises(UserError, match=r"1,000 bytes does not fit in the cache .*999: raise the limit"):
        downloads.read(Cache(tmp_path / "cache", SIZE - 1), 1)


@pytest.mark.parametrize("damaged", [content(1)[:-1], content(1)[:-1] + b"x", b""])
def test_damaged_file_is_downloaded_again(
    damaged: bytes, cache: Cache, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads.read(cache, 1)
    (cache.folder / f"{digest(1)}.tar").write_bytes(damaged)
    monkeypatch.setattr(module, "_verified", set())  # as in another process
    assert downloads.read(cache, 1) == content(1)
    assert downloads.count.value == 2


def test_files_of_others_stay(cache: Cache, downloads: Downloads) -> None:
    cache.folder.mkdir()
    others = {"holiday.tar", "holiday.part"}
    for name in others:
        (cache.folder / name).write_bytes(bytes(10 * SIZE))
    for number in (1, 2, 3, 4):
        downloads.read(cache, number)
    assert names(cache) == tars(2, 3, 4) | others


def test_disk_with_too_little_room_is_told(
    cache: Cache, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = shutil.disk_usage("/")._replace(free=SIZE - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: room)
    with pytest.raises(RunError, match=r"1,000 bytes.*999 bytes free: free some space, or name a cache"):
        downloads.read(cache, 1)
    assert not names(cache)


def test_folder_that_can_not_be_made_is_told(tmp_path: Path, downloads: Downloads) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="name a place where you may write"):
        downloads.read(Cache(tmp_path / "file/cache", 3 * SIZE), 1)
