"""Who reads which pictures of a stream: exactly once, whoever they are and wherever they begin."""

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cgt.data import DataConfig, Pictures, open_pictures, reader, stream
from cgt.data.fetch import ShardStore
from cgt.data.manifest import Shard, ShardFolder
from cgt.data.order import Lanes, lane_count, windowed_shuffle
from cgt.data.samples import decode, open_shard, read_samples
from cgt.errors import UserError
from tests.data.miniatures import build_folder

COUNTS = {"cat": 6, "dog": 5, "owl": 3}
TOTAL = 14
SAMPLE = 2048
"""Bytes in a shard, of each picture of a miniature."""
EPOCHS = 3

Key = tuple[bytes, int]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[int, ShardFolder]:
    """The same pictures in so many shards."""
    made = {}
    for shards in (1, 2, 7):
        limit = (TOTAL // shards * SAMPLE + 100) / 1e6
        made[shards] = build_folder(tmp_path_factory.mktemp("set"), COUNTS, shard_mb=limit)
        assert len(made[shards].manifest.shards) == shards
    return made


def opened(folder: ShardFolder | Path, **choices: object) -> Pictures:
    location = folder.location if isinstance(folder, ShardFolder) else str(folder)
    defaults = {"shards": location, "reader": "stream", "workers": 0}
    return open_pictures(DataConfig.model_validate(defaults | choices))


def keys(batch: tuple[Tensor, Tensor]) -> list[Key]:
    return [(x_3RR.numpy().tobytes(), int(y)) for x_3RR, y in zip(*batch, strict=True)]


def take(batches: Iterator[tuple[Tensor, Tensor]], count: int) -> list[list[Key]]:
    taken = [keys(batch) for batch in itertools.islice(batches, count)]
    batches.close()  # type: ignore[attr-defined]
    return taken


def global_batches(
    pictures: Pictures, batch_size: int, count: int, *, world: int = 1, first: int = 0, seed: int = 0
) -> list[list[Key]]:
    """The parts of all ranks, put together."""
    parts = [
        take(pictures.batches(batch_size, seed=seed, first=first, rank=rank, world=world), count)
        for rank in range(world)
    ]
    return [list(itertools.chain.from_iterable(batch)) for batch in zip(*parts, strict=True)]


def stored(pictures: Pictures) -> list[Key]:
    return [key for batch in pictures.once(4) for key in keys(batch)]


def epochs(batches: list[list[Key]]) -> list[Counter[Key]]:
    order = list(itertools.chain.from_iterable(batches))
    return [Counter(order[start : start + TOTAL]) for start in range(0, EPOCHS * TOTAL, TOTAL)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("shards", [1, 2, 7])
def test_each_epoch_comes_once_over_all_ranks_and_workers(
    shards: int, world: int, workers: int, sets: dict[int, ShardFolder]
) -> None:
    count = EPOCHS * TOTAL // 6
    alone = global_batches(opened(sets[shards]), 6, count)
    together = global_batches(opened(sets[shards], workers=workers), 6, count, world=world)
    assert together == alone
    assert epochs(together) == [Counter(stored(opened(sets[shards])))] * EPOCHS


@settings(deadline=None, max_examples=60)
@given(
    shards=st.sampled_from([1, 2, 7]),
    widths=st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 3])),
    factor=st.integers(1, 4),
    stop=st.integers(0, 8),
    lanes=st.integers(1, 12),
    buffer=st.integers(1, 20),
    seed=st.integers(0, 5),
)
def test_run_that_goes_on_at_another_width_sees_the_rest(
    sets: dict[int, ShardFolder],
    shards: int,
    widths: tuple[int, int],
    factor: int,
    stop: int,
    lanes: int,
    buffer: int,
    seed: int,
) -> None:
    batch_size = 6 * factor
    count = -(-EPOCHS * TOTAL // batch_size)
    stop = min(stop, count - 1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stream, "buffer_size", lambda manifest: buffer)
        pictures = opened(sets[shards], lanes=lanes)
        before = global_batches(pictures, batch_size, stop, world=widths[0], seed=seed)
        after = global_batches(pictures, batch_size, count - stop, world=widths[1], first=stop, seed=seed)
    assert epochs(before + after) == [Counter(stored(pictures))] * EPOCHS


def test_run_that_goes_on_with_workers_sees_the_rest(sets: dict[int, ShardFolder]) -> None:
    whole = global_batches(opened(sets[7]), 6, 7)
    for first in (1, 3):
        rest = global_batches(opened(sets[7], workers=2), 6, 7 - first, world=2, first=first)
        assert rest == whole[first:]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 3])
def test_once_is_shared_by_ranks_and_workers_in_stored_order(
    world: int, workers: int, sets: dict[int, ShardFolder]
) -> None:
    pictures = opened(sets[7], workers=workers)
    ranks = [[keys(batch) for batch in pictures.once(2, rank=rank, world=world)] for rank in range(world)]
    parts = [key for batches in ranks for batch in batches for key in batch]
    assert parts == stored(opened(sets[7]))
    assert max(len(batches) for batches in ranks) == -(-TOTAL // world // 2)


class TestWork:
    """What a reader does not need, it does not do."""

    @pytest.fixture
    def counted(self, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
        """Pictures decoded and shards opened."""
        counter: Counter[str] = Counter()
        decode_into, store_open = reader.decode_into, ShardStore.open

        def decode(*arguments: object) -> None:
            counter["decoded"] += 1
            decode_into(*arguments)  # type: ignore[arg-type]

        def open_one(self: ShardStore, shard: Shard) -> object:
            counter[shard.file] += 1
            return store_open(self, shard)

        monkeypatch.setattr(reader, "decode_into", decode)
        monkeypatch.setattr(ShardStore, "open", open_one)
        monkeypatch.setattr(stream, "buffer_size", lambda manifest: 1)
        return counter

    def test_ranks_decode_their_own_pictures_alone(
        self, sets: dict[int, ShardFolder], counted: Counter[str]
    ) -> None:
        take(opened(sets[7]).batches(6, seed=0, first=5, rank=1, world=3), 2)
        assert counted["decoded"] == 4

    def test_resuming_opens_no_shard_that_is_through(
        self, sets: dict[int, ShardFolder], counted: Counter[str]
    ) -> None:
        whole = take(opened(sets[7], lanes=1).batches(2, seed=0), 7)
        assert counted.total() - counted["decoded"] >= 7
        counted.clear()
        assert take(opened(sets[7], lanes=1).batches(2, seed=0, first=6), 1) == whole[6:]
        # The last one of the epoch, and the first of the next epoch, which is fetched ahead.
        assert counted.total() - counted["decoded"] <= 2

    def test_ranks_read_the_shards_of_their_lanes(
        self, sets: dict[int, ShardFolder], counted: Counter[str]
    ) -> None:
        opened_by = []
        for rank in range(7):
            counted.clear()
            take(opened(sets[7]).batches(14, seed=0, rank=rank, world=7), 1)
            opened_by.append({file for file in counted if file.endswith("tar")})
        first_epoch = [files for files in opened_by if len(files) <= 2]  # its own, and the next epoch's
        assert len(first_epoch) == 7
        assert set().union(*opened_by) == {shard.file for shard in sets[7].manifest.shards}


class TestOrder:
    @given(n=st.integers(1, 300), window=st.integers(1, 320), seed=st.integers(0, 9))
    def test_shuffle_stays_within_its_window(self, n: int, window: int, seed: int) -> None:
        order = windowed_shuffle(n, window, seed, 0)
        assert sorted(order) == list(range(n))
        assert np.abs(order - np.arange(n)).max() < window
        # A reader holds what it read up to the farthest picture handed out, but for those.
        held = np.maximum.accumulate(order) + 1 - np.arange(n)
        assert held.max() <= window

    def test_every_epoch_has_an_order_of_its_own(self, sets: dict[int, ShardFolder]) -> None:
        for shards in (1, 7):  # one is shuffled within; of seven with a window of 1, the shards are
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(stream, "buffer_size", lambda manifest, n=shards: 1 if n == 7 else 99)
                epochs = global_batches(opened(sets[shards], lanes=1), TOTAL, 3)
            assert len({tuple(epoch) for epoch in epochs}) == 3

    def test_shuffle_mixes_over_its_window(self) -> None:
        order = windowed_shuffle(10_000, 1000, 0, 0)
        assert np.abs(order - np.arange(10_000)).mean() > 200

    @given(
        pictures=st.integers(1, 40),
        lanes=st.sampled_from([1, 2, 3, 6]),
        factor=st.integers(1, 3),
        epoch=st.integers(0, 4),
    )
    def test_lanes_fill_every_place_of_an_epoch(
        self, pictures: int, lanes: int, factor: int, epoch: int
    ) -> None:
        dealt = Lanes(pictures, 6 * factor, lanes, window=5)
        runs = [dealt.run(epoch, lane, seed=0, places=range(6 * factor), first=0) for lane in range(lanes)]
        taken = [run.start + position for run in runs for position in run.order]
        assert sorted(taken) == list(range(pictures))

    def test_lanes_divide_the_batch_and_have_a_shard_each(self) -> None:
        cases = {(64, 100, 16): 16, (64, 10, 16): 8, (50, 100, 16): 10, (7, 100, 16): 7, (64, 1, 16): 1}
        assert {case: lane_count(*case) for case in cases} == cases

    def test_batch_has_pictures_of_as_many_shards_as_there_are_lanes(
        self, sets: dict[int, ShardFolder]
    ) -> None:
        folder = sets[7]
        shards_of = {
            decode(folder, shard, sample).numpy().tobytes(): shard.file
            for shard in folder.manifest.shards
            for sample in read_samples(folder, shard, open_shard(folder, shard))
        }
        for batch in global_batches(opened(folder), 7, 4):
            assert len({shards_of[picture] for picture, _ in batch}) == 7


def damage(folder: ShardFolder, to: Path, file: str, old: bytes, new: bytes) -> Path:
    """A copy of a set in which `old` stands no more in one of its shards."""
    copy = Path(shutil.copytree(folder.location, to))
    content = (copy / file).read_bytes()
    assert old in content
    (copy / file).write_bytes(content.replace(old, new, 1))
    return copy


class TestSkipping:
    @pytest.fixture
    def one_bad(self, sets: dict[int, ShardFolder], tmp_path: Path) -> Path:
        return damage(sets[7], tmp_path / "copy", "000003.tar", b"IHDR", b"XXXX")

    @pytest.mark.parametrize("workers", [0, 2])
    def test_other_pictures_take_the_places_of_the_bad_one(
        self, one_bad: Path, workers: int, sets: dict[int, ShardFolder]
    ) -> None:
        everything = set(stored(opened(sets[7])))
        pictures = opened(one_bad, on_error="skip", workers=workers)
        batches = global_batches(pictures, 14, EPOCHS)
        for batch in batches:
            assert len(batch) == TOTAL
            assert len(set(batch)) == TOTAL - 1
            assert set(batch) < everything
        assert list(pictures.skipped) == [("000003.tar", 0)]
        assert "is no picture" in pictures.skipped["000003.tar", 0]

    def test_shard_that_breaks_off_costs_what_lies_behind(
        self, sets: dict[int, ShardFolder], tmp_path: Path
    ) -> None:
        copy = Path(shutil.copytree(sets[2].location, tmp_path / "copy"))
        content = bytearray((copy / "000001.tar").read_bytes())
        content[3 * SAMPLE :] = b"x" * (len(content) - 3 * SAMPLE)
        (copy / "000001.tar").write_bytes(content)
        pictures = opened(copy, on_error="skip")
        batches = global_batches(pictures, 14, 2)
        assert [len(set(batch)) for batch in batches] == [TOTAL - 4] * 2
        assert sorted(pictures.skipped) == [("000001.tar", number) for number in range(3, 7)]

    @pytest.mark.parametrize("how", ["missing", "empty"])
    def test_shard_that_is_gone_costs_its_pictures(
        self, how: str, sets: dict[int, ShardFolder], tmp_path: Path
    ) -> None:
        copy = Path(shutil.copytree(sets[7].location, tmp_path / "copy"))
        (copy / "000002.tar").unlink()
        if how == "empty":
            (copy / "000002.tar").touch()
        with pytest.raises(UserError, match=r"000002\.tar"):
            opened(copy)
        pictures = opened(copy, on_error="skip")
        assert len(set(global_batches(pictures, 14, 1)[0])) == TOTAL - 2
        assert sorted(pictures.skipped) == [("000002.tar", 0), ("000002.tar", 1)]
        assert len(stored(pictures)) == TOTAL - 2

    def test_part_of_a_batch_that_has_no_picture_takes_some_of_the_next(
        self, one_bad: Path, sets: dict[int, ShardFolder]
    ) -> None:
        bad = Counter(stored(opened(sets[7]))) - Counter(stored(opened(one_bad, on_error="skip")))
        intact = global_batches(opened(sets[7]), 1, TOTAL + 1)
        place = intact.index([next(iter(bad))])
        intact[place] = intact[place + 1]
        found = global_batches(opened(one_bad, on_error="skip"), 1, TOTAL)
        assert found == intact[:TOTAL]
        resumed = global_batches(opened(one_bad, on_error="skip"), 1, TOTAL - place, first=place)
        assert resumed == found[place:]

    def test_set_without_a_picture_ends_it(self, sets: dict[int, ShardFolder], tmp_path: Path) -> None:
        copy = Path(shutil.copytree(sets[7].location, tmp_path / "copy"))
        for shard in copy.glob("*.tar"):
            shard.unlink()
        with pytest.raises(UserError, match=r"tar is missing"):
            global_batches(opened(copy, on_error="skip", max_skipped=5), 14, 1)

    def test_limit_ends_it(self, one_bad: Path, sets: dict[int, ShardFolder]) -> None:
        enough = opened(one_bad, on_error="skip", max_skipped=1)
        global_batches(enough, 14, EPOCHS)
        with pytest.raises(UserError, match=r"more than 0 pictures .*max_skipped.*000003\.tar"):
            global_batches(opened(one_bad, on_error="skip", max_skipped=0), 14, 1)

    def test_resident_set_is_without_it(self, one_bad: Path, sets: dict[int, ShardFolder]) -> None:
        whole = opened(sets[7], reader="resident")
        pictures = opened(one_bad, reader="resident", on_error="skip")
        assert len(pictures) == len(whole) - 1 == sum(pictures.counts)
        assert Counter(stored(pictures)) < Counter(stored(whole))
        assert len(pictures.skipped) == 1

    def test_resident_set_needs_a_picture_of_each_class(
        self, sets: dict[int, ShardFolder], tmp_path: Path
    ) -> None:
        copy = Path(shutil.copytree(sets[7].location, tmp_path / "copy"))
        for shard in json.loads((copy / "manifest.json").read_text())["shards"]:
            if "owl" in shard["counts"]:
                (copy / shard["file"]).unlink()
        with pytest.raises(UserError, match="no picture of 'owl' can be read"):
            opened(copy, reader="resident", on_error="skip", classes=["owl"])


def test_batches_are_channels_last_and_writable(sets: dict[int, ShardFolder]) -> None:
    x_N3RR, _ = next(opened(sets[7]).batches(6, seed=0))
    assert x_N3RR.is_contiguous(memory_format=torch.channels_last)
    x_N3RR.zero_()
