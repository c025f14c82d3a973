"""A picture set read from its shards as it is needed, through webdataset: for what does not fit in memory.

The order of an epoch is a permutation of the shards, then a shuffle buffer, both drawn from (seed, epoch).
Every rank reads the samples of all shards in that one order and decodes its part of each global batch only:
decoding costs several times what reading does, and so any number of ranks sees the same batches, whatever the
number of shards.

Shapes: N pictures of a batch, R rows and columns.
"""

import itertools
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from cgt import rng
from cgt.data.manifest import Manifest, Shard, ShardFolder
from cgt.data.order import check_batch_size, flips, share
from cgt.data.samples import Sample, check_counts, decode, open_shard, read_samples
from cgt.data.selection import Selection

BUFFER_BYTES = 256 * 2**20
"""Encoded pictures that the shuffle buffer may hold."""
LOOKAHEAD = 2
"""Batches that are decoded while the caller works on another."""


class Entry(NamedTuple):
    """A sample on its way into a batch."""

    shard: Shard
    sample: Sample
    label: int


class StreamedPictures:
    """`Pictures` read from tar files, or from URLs that webdataset opens.

    Reading raises UserError when a shard turns out damaged, RunError when a URL fails. Hashes are left to
    `cgt shards verify`.
    """

    def __init__(self, folder: ShardFolder, selection: Selection, *, flip: bool) -> None:
        self.classes = selection.classes
        self.counts = selection.counts
        self.digest = selection.digest
        self.resolution = folder.manifest.size
        self.flip = flip
        self._folder = folder
        self._selection = selection

    def __len__(self) -> int:
        return sum(self.counts)

    def batches(
        self, batch_size: int, *, seed: int, first: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Pictures.batches`; what comes before `first` is not decoded, earlier epochs not even read."""
        check_batch_size(batch_size, world)
        mine = share(batch_size, rank, world)
        places = self._chain(seed, *divmod(first * batch_size, len(self)))
        pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        try:
            ahead: deque[tuple[list[Future[Tensor]], Tensor]] = deque()
            while True:
                while len(ahead) <= LOOKAHEAD:
                    part = list(itertools.islice(places, batch_size))[mine]
                    pictures = [pool.submit(self._picture, entry, mirrored) for entry, mirrored in part]
                    ahead.append((pictures, torch.tensor([entry.label for entry, _ in part])))
                pictures, y_N = ahead.popleft()
                yield torch.stack([picture.result() for picture in pictures]), y_N
        finally:
            pool.shutdown(cancel_futures=True)

    def once(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Pictures.once`."""
        entries = self._read(self._selection.shards())
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            while batch := list(itertools.islice(entries, batch_size)):
                if part := batch[share(len(batch), rank, world)]:
                    pictures = pool.map(self._picture, part, itertools.repeat(False))
                    yield torch.stack(list(pictures)), torch.tensor([entry.label for entry in part])

    def _chain(self, seed: int, epoch: int, skipped: int) -> Iterator[tuple[Entry, bool]]:
        """(entry, whether it is mirrored) from the place `skipped` of `epoch` on, without end."""
        while True:
            mirrored = flips(len(self), seed, epoch).tolist() if self.flip else [False] * len(self)
            yield from itertools.islice(zip(self._epoch(seed, epoch), mirrored, strict=True), skipped, None)
            epoch, skipped = epoch + 1, 0

    def _epoch(self, seed: int, epoch: int) -> Iterator[Entry]:
        """Every picture once, shuffled."""
        shards = self._selection.shards()
        order = rng.permutation(len(shards), seed, "data-shards", epoch).tolist()
        entries = self._read(shards[i] for i in order)
        return shuffled(entries, len(self), buffer_size(self._folder.manifest), seed, epoch)

    def _read(self, shards: Iterable[Shard]) -> Iterator[Entry]:
        for shard in shards:
            found: Counter[str] = Counter()
            with open_shard(self._folder, shard) as stream:
                for label, sample in self._selection.pick(shard, read_samples(self._folder, shard, stream)):
                    found[self.classes[label]] += 1
                    yield Entry(shard, sample, label)
            check_counts(self._folder, shard, found, self._selection.taken[shard.file])

    def _picture(self, entry: Entry, mirrored: bool) -> Tensor:
        x_3RR = decode(self._folder, entry.shard, entry.sample)
        return x_3RR.flip(-1) if mirrored else x_3RR


def buffer_size(manifest: Manifest) -> int:
    """How many encoded pictures the shuffle buffer holds; all ranks agree, for the manifest alone says it."""
    return max(64, min(16384, BUFFER_BYTES * manifest.samples // manifest.bytes))


def shuffled(entries: Iterable[Entry], n: int, size: int, seed: int, epoch: int) -> Iterator[Entry]:
    """The n `entries`, each once, through a buffer of `size`: a new one drives out a random one."""
    draws = rng.integers(n, size, seed, "data-buffer", epoch).tolist()
    buffer: list[Entry] = []
    for entry, draw in zip(entries, draws, strict=True):
        if len(buffer) < size:
            buffer.append(entry)
        else:
            yield buffer[draw]
            buffer[draw] = entry
    for i in rng.permutation(len(buffer), seed, "data-buffer-rest", epoch).tolist():
        yield buffer[i]
