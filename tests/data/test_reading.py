"""Resident and streamed pictures: one contract, tested on both.

Every picture of a miniature is told apart by its bytes.
"""

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cgt import config as configuration
from cgt.config import Section
from cgt.data import DataConfig, Pictures, open_pictures, pictures, stream
from cgt.data.manifest import ShardFolder
from cgt.errors import RunError, UserError
from tests.data.faulty_server import serve
from tests.data.miniatures import build_folder

Reader = Literal["resident", "stream"]
READERS: tuple[Reader, ...] = ("resident", "stream")
COUNTS = {"cat": 7, "dog": 5, "owl": 4}
TOTAL = 16


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardFolder:
    return build_folder(tmp_path_factory.mktemp("set"), COUNTS)


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> Reader:
    reader: Reader = request.param
    return reader


@pytest.fixture
def opened(shards: ShardFolder, reader: Reader) -> Pictures:
    return open_pictures(DataConfig(shards=shards.location, reader=reader))


def keys(x_N3RR: Tensor, y_N: Tensor) -> list[tuple[bytes, int]]:
    return [(x_3RR.numpy().tobytes(), int(y)) for x_3RR, y in zip(x_N3RR, y_N, strict=True)]


def take(batches: Iterator[tuple[Tensor, Tensor]], count: int) -> list[list[tuple[bytes, int]]]:
    return [keys(x, y) for x, y in itertools.islice(batches, count)]


def stored(pictures: Pictures) -> list[tuple[bytes, int]]:
    return list(itertools.chain.from_iterable(keys(x, y) for x, y in pictures.once(5)))


def test_batches_are_uint8_pictures_with_int64_labels(opened: Pictures) -> None:
    x_N3RR, y_N = next(opened.batches(6, seed=0))
    assert (x_N3RR.dtype, x_N3RR.shape) == (torch.uint8, (6, 3, 8, 8))
    assert (y_N.dtype, y_N.shape) == (torch.int64, (6,))
    assert opened.resolution == 8
    assert opened.classes == tuple(COUNTS)
    assert opened.counts == tuple(COUNTS.values())
    assert len(opened) == TOTAL


def test_once_gives_every_picture_once_and_in_stored_order(shards: ShardFolder) -> None:
    orders = [stored(open_pictures(DataConfig(shards=shards.location, reader=reader))) for reader in READERS]
    assert orders[0] == orders[1]
    assert len(set(orders[0])) == TOTAL
    assert Counter(label for _, label in orders[0]) == {0: 7, 1: 5, 2: 4}


@settings(deadline=None, max_examples=25)
@given(
    batch_size=st.integers(1, 37),
    seed=st.integers(0, 3),
    reader=st.sampled_from(READERS),
    buffer=st.integers(1, 20),
)
def test_every_epoch_has_every_picture_once(
    shards: ShardFolder, batch_size: int, seed: int, reader: Reader, buffer: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stream, "buffer_size", lambda manifest: buffer)
        opened = open_pictures(DataConfig(shards=shards.location, reader=reader))
        batches = take(opened.batches(batch_size, seed=seed), -(-3 * TOTAL // batch_size))
        order = list(itertools.chain.from_iterable(batches))
        for epoch in range(3):
            assert Counter(order[epoch * TOTAL : (epoch + 1) * TOTAL]) == Counter(stored(opened))


def test_order_follows_the_seed_and_the_epoch(opened: Pictures) -> None:
    zero = take(opened.batches(TOTAL, seed=0), 2)
    assert zero == take(opened.batches(TOTAL, seed=0), 2)
    one = take(opened.batches(TOTAL, seed=1), 1)
    assert len({tuple(batch) for batch in (*zero, *one, stored(opened))}) == 4


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [6, 24])
def test_parts_of_the_ranks_tile_the_global_batch(opened: Pictures, batch_size: int, world: int) -> None:
    whole = take(opened.batches(batch_size, seed=3), 7)
    parts = [take(opened.batches(batch_size, seed=3, rank=rank, world=world), 7) for rank in range(world)]
    for number in range(7):
        assert list(itertools.chain.from_iterable(part[number] for part in parts)) == whole[number]
        assert {len(part[number]) for part in parts} == {batch_size // world}


@settings(deadline=None, max_examples=25)
@given(
    batch_size=st.integers(1, 20),
    first=st.integers(0, 12),
    reader=st.sampled_from(READERS),
    flip=st.booleans(),
)
def test_first_equals_skipping_batches(
    shards: ShardFolder, batch_size: int, first: int, reader: Reader, flip: bool
) -> None:
    opened = open_pictures(DataConfig(shards=shards.location, reader=reader, flip=flip))
    assert (
        take(opened.batches(batch_size, seed=1, first=first), 3)
        == take(opened.batches(batch_size, seed=1), first + 3)[first:]
    )


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [4, 7, 100])
def test_once_shared_by_ranks_gives_every_picture_once(opened: Pictures, batch_size: int, world: int) -> None:
    parts = [
        itertools.chain.from_iterable(keys(x, y) for x, y in opened.once(batch_size, rank=rank, world=world))
        for rank in range(world)
    ]
    assert Counter(itertools.chain.from_iterable(parts)) == Counter(stored(opened))


def test_batch_that_ranks_can_not_share_is_refused(opened: Pictures) -> None:
    with pytest.raises(UserError, match="multiple of 3"):
        next(opened.batches(8, seed=0, rank=0, world=3))


def test_flips_mirror_half_of_the_pictures_anew_every_epoch(shards: ShardFolder, reader: Reader) -> None:
    plain, flipped = (
        open_pictures(DataConfig(shards=shards.location, reader=reader, flip=flip)) for flip in (False, True)
    )
    mirrored = []
    for (x, y), (x_flipped, y_flipped) in itertools.islice(
        zip(plain.batches(TOTAL, seed=0), flipped.batches(TOTAL, seed=0), strict=True), 8
    ):
        assert torch.equal(y, y_flipped)
        is_mirrored = torch.tensor([torch.equal(a.flip(-1), b) for a, b in zip(x, x_flipped, strict=True)])
        assert torch.equal(torch.where(is_mirrored[:, None, None, None], x.flip(-1), x), x_flipped)
        mirrored.append(is_mirrored)
    assert 0.3 < torch.cat(mirrored).float().mean() < 0.7
    assert not torch.equal(mirrored[0], mirrored[1])
    assert stored(flipped) == stored(plain)


class TestSelection:
    def test_labels_follow_the_order_of_the_classes_given(self, shards: ShardFolder, reader: Reader) -> None:
        everything = open_pictures(DataConfig(shards=shards.location, reader=reader))
        some = open_pictures(DataConfig(shards=shards.location, reader=reader, classes=("owl", "cat")))
        names = {picture: everything.classes[label] for picture, label in stored(everything)}
        assert some.classes == ("owl", "cat")
        assert some.counts == (4, 7)
        assert Counter(stored(some)) == Counter(
            (picture, some.classes.index(name)) for picture, name in names.items() if name != "dog"
        )
        assert Counter(take(some.batches(11, seed=0), 1)[0]) == Counter(stored(some))

    def test_exclude_leaves_classes_out(self, shards: ShardFolder, reader: Reader, tmp_path: Path) -> None:
        (tmp_path / "old.txt").write_text("cat\n")
        config = DataConfig(shards=shards.location, reader=reader, exclude=str(tmp_path / "old.txt"))
        assert open_pictures(config).classes == ("dog", "owl")

    def test_per_class_is_a_limit_and_nested(self, shards: ShardFolder, reader: Reader) -> None:
        limited = {
            n: open_pictures(DataConfig(shards=shards.location, reader=reader, per_class=n))
            for n in (2, 3, 6)
        }
        assert limited[2].counts == (2, 2, 2)
        assert limited[6].counts == (6, 5, 4)
        assert set(stored(limited[2])) < set(stored(limited[3])) < set(stored(limited[6]))
        for seed in (0, 1):
            assert set(take(limited[2].batches(6, seed=seed), 1)[0]) == set(stored(limited[2]))

    def test_digest_tells_selections_apart_and_not_readers(self, shards: ShardFolder) -> None:
        base = {open_pictures(DataConfig(shards=shards.location, reader=reader)).digest for reader in READERS}
        other = open_pictures(DataConfig(shards=shards.location, per_class=2)).digest
        assert len(base) == 1
        assert other not in base

    @pytest.mark.parametrize(
        ("choice", "words"),
        [
            ({"classes": ("cats",)}, "no class 'cats' .did you mean 'cat'"),
            ({"exclude": ("doge",)}, "no class 'doge' .did you mean 'dog'"),
            ({"exclude": "cat,dog,owl"}, "no class that is not excluded"),
            ({"classes": "missing.txt"}, "no file missing.txt"),
            ({"classes": ("cat", "cat")}, "'cat' stands twice"),
        ],
    )
    def test_choice_that_can_not_be_met_is_refused(
        self, choice: dict[str, object], words: str, shards: ShardFolder
    ) -> None:
        with pytest.raises(UserError, match=words):
            open_pictures(DataConfig.model_validate({"shards": shards.location, **choice}))


class Job(Section):
    data: DataConfig


def test_config_takes_a_plain_folder_and_numbers_as_names(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("data: here\n")
    (tmp_path / "b.yaml").write_text("data: {shards: here, classes: [8, 9]}\n")
    assert configuration.load(Job, str(tmp_path / "a.yaml")).data == DataConfig(shards="here")
    assert configuration.load(Job, str(tmp_path / "b.yaml")).data.classes == ("8", "9")


def test_auto_decides_by_the_decoded_size(shards: ShardFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = TOTAL * 3 * 8 * 8
    kinds = []
    for limit in (decoded, decoded - 1):
        monkeypatch.setattr(pictures, "RESIDENT_BYTES", limit)
        kinds.append(type(open_pictures(DataConfig(shards=shards.location))).__name__)
    assert kinds == ["ResidentPictures", "StreamedPictures"]


class TestDamage:
    @pytest.fixture
    def copy(self, shards: ShardFolder, tmp_path: Path) -> Path:
        return Path(shutil.copytree(shards.location, tmp_path / "copy"))

    def test_missing_shard_is_found_on_opening(self, copy: Path, reader: Reader) -> None:
        (copy / "000001.tar").unlink()
        with pytest.raises(UserError, match=r"000001\.tar is missing"):
            open_pictures(DataConfig(shards=str(copy), reader=reader))

    def test_shard_of_another_size_is_found_on_opening(self, copy: Path, reader: Reader) -> None:
        with (copy / "000001.tar").open("ab") as file:
            file.write(b"more")
        with pytest.raises(UserError, match=r"000001\.tar has [0-9,]+ bytes, the manifest says"):
            open_pictures(DataConfig(shards=str(copy), reader=reader))

    def test_wrong_hash_names_shard_hashes_and_remedy(self, copy: Path, shards: ShardFolder) -> None:
        shard = shards.manifest.shards[1]
        content = bytearray((copy / shard.file).read_bytes())
        content[-1] ^= 1
        (copy / shard.file).write_bytes(content)
        words = rf"{shard.file} is damaged: its SHA-256 is [0-9a-f]{{64}}, .* says {shard.sha256}.*restore"
        with pytest.raises(UserError, match=words):
            open_pictures(DataConfig(shards=str(copy), reader="resident"))

    def test_stream_names_the_shard_that_is_no_tar_file(self, copy: Path) -> None:
        size = (copy / "000000.tar").stat().st_size
        (copy / "000000.tar").write_bytes(b"x" * size)
        opened = open_pictures(DataConfig(shards=str(copy), reader="stream"))
        with pytest.raises(UserError, match=r"000000\.tar is damaged: it can't be read"):
            next(opened.batches(4, seed=0))

    def test_stream_names_the_shard_that_holds_other_samples(self, copy: Path) -> None:
        one = min(copy.glob("*.tar"), key=lambda path: path.stat().st_size)
        content = one.read_bytes()
        tail = content.rindex(b"ustar") - 257  # of the last picture's header
        one.write_bytes(content[:tail].ljust(len(content), b"\0"))
        opened = open_pictures(DataConfig(shards=str(copy), reader="stream"))
        with pytest.raises(UserError, match=rf"{one.name} is damaged: the sample .* has no"):
            list(opened.once(4))

    def test_stream_names_the_shard_that_holds_other_classes(self, copy: Path) -> None:
        manifest = json.loads((copy / "manifest.json").read_text())
        shard = next(shard for shard in manifest["shards"] if shard["samples"] > len(shard["counts"]) > 1)
        (more, n), *_, (fewer, m) = sorted(shard["counts"].items(), key=lambda entry: entry[1])
        shard["counts"] |= {more: n + 1, fewer: m - 1}
        (copy / "manifest.json").write_text(json.dumps(manifest))
        words = rf"{shard['file']} is damaged: it holds .*{n} pictures? of {more}, the manifest says {n + 1}"
        pictures = open_pictures(DataConfig(shards=str(copy), reader="stream"))
        with pytest.raises(UserError, match=words):
            take(pictures.batches(4, seed=0), 10)
        with pytest.raises(UserError, match=words):
            list(pictures.once(4))

    def test_stream_names_the_picture_that_does_not_decode(self, copy: Path) -> None:
        content = (copy / "000000.tar").read_bytes()
        (copy / "000000.tar").write_bytes(content.replace(b"IHDR", b"XXXX"))
        opened = open_pictures(DataConfig(shards=str(copy), reader="stream"))
        with pytest.raises(UserError, match=r"000000\.tar is damaged: \S+ is no picture"):
            list(opened.once(4))


class TestUrl:
    @pytest.fixture
    def url(self, shards: ShardFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with serve(shutil.copytree(shards.location, tmp_path / "served")) as server:
            yield server.url

    def test_shards_behind_a_url_read_like_local_ones(
        self, url: str, shards: ShardFolder, reader: Reader
    ) -> None:
        local = open_pictures(DataConfig(shards=shards.location))
        assert stored(open_pictures(DataConfig(shards=url, reader=reader))) == stored(local)

    def test_reading_may_stop_in_the_middle(self, url: str) -> None:
        batches = open_pictures(DataConfig(shards=url, reader="stream")).batches(2, seed=0)
        assert len(next(batches)[0]) == 2
        batches.close()  # type: ignore[attr-defined]

    def test_absent_manifest_and_shard_are_told(self, url: str, tmp_path: Path) -> None:
        (tmp_path / "served/000000.tar").unlink()
        with pytest.raises(RunError, match=r"000000\.tar can't be read"):
            open_pictures(DataConfig(shards=url))
        (tmp_path / "served/manifest.json").unlink()
        with pytest.raises(UserError, match=r"manifest\.json can't be read"):
            open_pictures(DataConfig(shards=url))


def test_file_url_is_a_local_folder(shards: ShardFolder) -> None:
    assert len(open_pictures(DataConfig(shards=f"file://{shards.location}"))) == TOTAL
