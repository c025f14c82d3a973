"""A picture set read from its shards as it is needed: for what does not fit in memory.

Shapes: N pictures of a batch, R rows and columns.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cgt import rng
from cgt.data.cache import Cache
from cgt.data.fetch import ShardStore
from cgt.data.manifest import Manifest, ShardFolder
from cgt.data.order import Lanes, Run, check_batch_size, cut, lane_count, share
from cgt.data.reader import Entry, Part, Segment, ShardReader, Skipped
from cgt.data.samples import DamagedShardError
from cgt.data.selection import Selection
from cgt.data.workers import in_workers
from cgt.errors import UserError
from cgt.files import sha256

BUFFER_BYTES = 256 * 2**20
"""Encoded pictures that the shuffles of all lanes may hold."""


class Reading(NamedTuple):
    """How shards are read; of all this, `lanes` alone has a say in which picture comes when."""

    workers: int = 0
    """Processes that read and decode for this one; 0: this one does it itself."""
    lanes: int = 16
    """Shards that all processes of a run read side by side, at most."""
    on_error: Literal["stop", "skip"] = "stop"
    max_skipped: int = 100
    """Pictures that a process may skip before it stops all the same."""
    cache: Cache | None = None


class StreamedPictures:
    """`Pictures` read from shards that are files, or behind URLs.

    Reading raises UserError when a shard turns out damaged, RunError when a URL fails. Hashes of local files
    are left to `cgt shards verify`.
    """

    def __init__(self, folder: ShardFolder, selection: Selection, reading: Reading, *, flip: bool) -> None:
        self.classes = selection.classes
        self.counts = selection.counts
        self.digest = selection.digest
        self.resolution = folder.manifest.size
        self.flip = flip
        self.skipped: Skipped = {}
        self._folder = folder
        self._selection = selection
        self._reading = reading
        self._lenient = reading.on_error == "skip"
        self._store = ShardStore(folder.location, reading.cache)

    def __len__(self) -> int:
        return sum(self.counts)

    def batches(
        self, batch_size: int, *, seed: int, first: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Pictures.batches`; of what comes before `first`, nothing is decoded."""
        check_batch_size(batch_size, world)
        mine = range(batch_size)[share(batch_size, rank, world)]
        workers = min(self._reading.workers, len(mine))
        made = in_workers(functools.partial(self._parts, batch_size, seed, first, mine), workers)
        with contextlib.closing(made):  # type: ignore[type-var]
            while parts := list(itertools.islice(made, max(1, workers))):
                for part in parts:
                    self._note(part.skipped)
                if len(parts) == 1:
                    yield parts[0].x_N3RR, parts[0].y_N
                else:
                    yield torch.cat([part.x_N3RR for part in parts]), torch.cat([part.y_N for part in parts])

    def once(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Pictures.once`."""
        mine = range(len(self))[share(len(self), rank, world)]
        fetches_anew = not self._folder.local and self._reading.cache is None
        workers = 0 if fetches_anew else min(self._reading.workers, -(-len(mine) // batch_size))
        made = in_workers(functools.partial(self._parts_once, batch_size, mine), workers)
        with contextlib.closing(made):  # type: ignore[type-var]
            for part in made:
                self._note(part.skipped)
                if len(part.y_N):
                    yield part.x_N3RR, part.y_N

    def check_hashes(self) -> None:
        """Compare the SHA-256 of each local shard with the manifest's, unless what is damaged is skipped
        anyway.

        Shards behind URLs are compared as they are fetched.

        Raises:
            UserError: they differ.
        """
        if not self._folder.local or self._lenient:
            return
        for shard in self._selection.shards():
            found = sha256(Path(self._folder.place(shard)))
            if found != shard.sha256:
                reason = f"its SHA-256 is {found}, the manifest says {shard.sha256}"
                raise DamagedShardError(self._folder, shard, reason)

    def _note(self, skipped: Skipped) -> None:
        """Count what was skipped, each picture once.

        Raises:
            UserError: there is more of it than allowed.
        """
        self.skipped.update(skipped)
        if len(self.skipped) > self._reading.max_skipped:
            raise UserError(
                f"more than {self._reading.max_skipped} pictures of {self._folder.location} can't be read, "
                f"the most that data.max_skipped allows. The last: {next(reversed(self.skipped.values()))}"
            )

    def _parts(
        self, batch_size: int, seed: int, first: int, mine: range, worker: int, workers: int
    ) -> Iterator[Part]:
        """A worker's part of this rank's part, `mine`, of each global batch."""
        places = mine[share(len(mine), worker, workers)]
        shards = len(self._selection.taken)
        count = lane_count(batch_size, shards, self._reading.lanes)
        lanes = Lanes(len(self), batch_size, count, max(1, buffer_size(self._folder.manifest) // count))
        with self._reader() as reader:
            touched = range(places.start // lanes.width, (places.stop - 1) // lanes.width + 1)
            deliveries = [self._lane(reader, lanes, lane, seed, first, places) for lane in touched]
            sizes = [
                min(places.stop, (lane + 1) * lanes.width) - max(places.start, lane * lanes.width)
                for lane in touched
            ]

            def drawn() -> Iterator[Part]:
                while True:
                    pairs = [
                        next(delivery)
                        for delivery, size in zip(deliveries, sizes, strict=True)
                        for _ in range(size)
                    ]
                    entries, mirrored = zip(*pairs, strict=True)
                    yield reader.decoded(entries, mirrored)

            yield from _filled(drawn(), len(places), self._reading.max_skipped)

    def _parts_once(self, batch_size: int, mine: range, worker: int, workers: int) -> Iterator[Part]:
        """Every `workers`-th batch of this rank's part of the set, in stored order."""
        needed = np.arange(len(mine)) // batch_size % workers == worker
        shards = self._selection.shards()
        segments = (
            Segment(shards[i], start, wanted) for i, start, wanted in cut(self._counts, mine.start, needed)
        )
        with self._reader() as reader:
            entries = reader.entries(segments)
            while batch := list(itertools.islice(entries, batch_size)):
                yield reader.decoded(batch, [False] * len(batch))

    def _lane(
        self, reader: ShardReader, lanes: Lanes, lane: int, seed: int, first: int, places: range
    ) -> Iterator[tuple[Entry, bool]]:
        """(entry, whether it is mirrored) for those `places` of each batch that the lane fills."""
        epochs = itertools.count(first * lanes.batch_size // lanes.pictures)
        runs, ahead = itertools.tee(
            (epoch, lanes.run(epoch, lane, seed=seed, places=places, first=first)) for epoch in epochs
        )
        segments = (segment for epoch, run in ahead for segment in self._segments(seed, epoch, run))
        return self._delivered((run for _, run in runs), reader.entries(segments))

    def _delivered(self, runs: Iterable[Run], entries: Iterator[Entry]) -> Iterator[tuple[Entry, bool]]:
        for run in runs:
            held: dict[int, Entry] = {}
            for position, mirrored in zip(run.order.tolist(), run.mirrored.tolist(), strict=True):
                while position not in held:
                    entry = next(entries)
                    held[entry.position] = entry
                yield held.pop(position), self.flip and mirrored

    def _segments(self, seed: int, epoch: int, run: Run) -> Iterator[Segment]:
        """What a run needs of the epoch's sequence of shards."""
        shards = self._selection.shards()
        order = rng.permutation(len(shards), seed, "data-shards", epoch).tolist()
        counts = [self._counts[i] for i in order]
        for i, start, wanted in cut(counts, run.start, run.needed):
            yield Segment(shards[order[i]], start, wanted)

    @functools.cached_property
    def _counts(self) -> list[int]:
        """How many pictures are taken of each shard: added up once, not by every lane in every epoch."""
        return [sum(taken.values()) for taken in self._selection.taken.values()]

    def _reader(self) -> ShardReader:
        return ShardReader(self._folder, self._selection, self._store, lenient=self._lenient)


def buffer_size(manifest: Manifest) -> int:
    """How many encoded pictures the shuffles may hold; all ranks agree, for the manifest alone says it."""
    return max(64, min(16384, BUFFER_BYTES * manifest.samples // manifest.bytes))


def _filled(parts: Iterator[Part], n: int, limit: int) -> Iterator[Part]:
    """`parts` with other pictures in the places of those that were skipped, so that each has `n`.

    They are pictures of the same part; where it has none, of the next part that has any. What came before has
    no say in it, and so a resumed run sees the same.

    Raises:
        UserError: more than `limit` parts in succession have none.
    """
    waiting: list[Part] = []
    for part in parts:
        waiting.append(part)
        if part.kept:
            for each in waiting:
                yield _full(each, each if each.kept else part, n)
            waiting.clear()
        elif len(waiting) > limit:
            raise UserError(next(iter(part.skipped.values())))


def _full(part: Part, source: Part, n: int) -> Part:
    if len(part.kept) == n:
        return part
    place = {i: row for row, i in enumerate(part.kept)}
    rows = [place.get(i, i % len(source.y_N)) for i in range(n)]
    x_N3RR = source.x_N3RR[rows].contiguous(memory_format=torch.channels_last)
    return Part(x_N3RR, source.y_N[rows], list(range(n)), part.skipped)
