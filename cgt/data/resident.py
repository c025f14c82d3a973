"""A picture set that lives in memory whole, as uint8.

Shapes: P pictures of the set, N of a batch, R rows and columns.
"""

import functools
import hashlib
import io
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cgt import rng
from cgt.data.manifest import ShardFolder
from cgt.data.order import check_batch_size, flips, share
from cgt.data.samples import DamagedShardError, decode, open_shard, read_samples
from cgt.data.selection import Selection


class ResidentPictures:
    """`Pictures` out of one uint8 tensor; a batch is indexing, and depends on its number alone.

    Opening reads every shard that is needed, whole, and compares its SHA-256 with the manifest's.

    Raises:
        UserError: a shard is missing, damaged or not the one that the manifest was written for.
        RunError: a URL can't be read.
    """

    def __init__(self, folder: ShardFolder, selection: Selection, *, flip: bool) -> None:
        self.classes = selection.classes
        self.counts = selection.counts
        self.digest = selection.digest
        self.resolution = folder.manifest.size
        self.flip = flip
        self._x_P3RR = torch.empty(sum(self.counts), 3, self.resolution, self.resolution, dtype=torch.uint8)
        self._y_P = torch.empty(sum(self.counts), dtype=torch.int64)
        number = 0
        for shard in selection.shards():
            with open_shard(folder, shard) as stream:
                content = stream.read()
            found = hashlib.sha256(content).hexdigest()
            if found != shard.sha256:
                raise DamagedShardError(
                    folder, shard, f"its SHA-256 is {found}, the manifest says {shard.sha256}"
                )
            for label, sample in selection.pick(shard, read_samples(folder, shard, io.BytesIO(content))):
                self._x_P3RR[number] = decode(folder, shard, sample)
                self._y_P[number] = label
                number += 1

    def __len__(self) -> int:
        return len(self._y_P)

    def batches(
        self, batch_size: int, *, seed: int, first: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Pictures.batches`."""
        check_batch_size(batch_size, world)
        mine = share(batch_size, rank, world)

        @functools.lru_cache(maxsize=2)
        def epoch_order(epoch: int) -> tuple[Tensor, Tensor]:
            mirrored = (
                flips(len(self), seed, epoch) if self.flip else torch.zeros(len(self), dtype=torch.bool)
            )
            return rng.permutation(len(self), seed, "data-order", epoch), mirrored

        for number in itertools.count(first):
            start = number * batch_size
            yield self._at(range(start + mine.start, start + mine.stop), epoch_order)

    def once(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Pictures.once`."""
        for start in range(0, len(self), batch_size):
            mine = share(min(batch_size, len(self) - start), rank, world)
            if mine.stop > mine.start:
                here = slice(start + mine.start, start + mine.stop)
                yield self._x_P3RR[here].clone(), self._y_P[here].clone()

    def _at(
        self, places: range, epoch_order: Callable[[int], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """The pictures at `places` in the chain of epochs, of which each is as long as the set."""
        chosen, mirrored = [], []
        place = places.start
        while place < places.stop:
            epoch, offset = divmod(place, len(self))
            end = min(len(self), offset + places.stop - place)
            order_P, flips_P = epoch_order(epoch)
            chosen.append(order_P[offset:end])
            mirrored.append(flips_P[offset:end])
            place += end - offset
        index_N, flip_N = torch.cat(chosen), torch.cat(mirrored)
        x_N3RR = self._x_P3RR[index_N]
        x_N3RR[flip_N] = x_N3RR[flip_N].flip(-1)
        return x_N3RR, self._y_P[index_N]
