"""A picture set that lives in memory whole, as uint8.

Shapes: P pictures of the set, N of a batch, R rows and columns.
"""

import functools
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cgt import rng
from cgt.data.order import check_batch_size, flips, share
from cgt.data.stream import StreamedPictures
from cgt.errors import UserError

LOADED_AT_ONCE = 256
"""Pictures that are decoded at a time."""


class ResidentPictures:
    """`Pictures` out of one uint8 tensor; a batch is indexing, and depends on its number alone.

    Opening reads every shard that is needed, whole. Pictures that are skipped are left out.

    Raises:
        UserError: a shard is missing, damaged or not the one that the manifest was written for; or no picture
            of a class can be read.
        RunError: a URL can't be read.
    """

    def __init__(self, streamed: StreamedPictures) -> None:
        self.classes = streamed.classes
        self.digest = streamed.digest
        self.resolution = streamed.resolution
        self.flip = streamed.flip
        self.skipped = streamed.skipped
        size = self.resolution
        self._x_P3RR = torch.empty(len(streamed), 3, size, size, dtype=torch.uint8)
        self._y_P = torch.empty(len(streamed), dtype=torch.int64)
        streamed.check_hashes()
        number = 0
        for x_N3RR, y_N in streamed.once(LOADED_AT_ONCE):
            here = slice(number, number + len(y_N))
            self._x_P3RR[here], self._y_P[here] = x_N3RR, y_N
            number = here.stop
        self._x_P3RR, self._y_P = self._x_P3RR[:number], self._y_P[:number]
        self.counts = tuple(torch.bincount(self._y_P, minlength=len(self.classes)).tolist())
        if 0 in self.counts:
            name = self.classes[self.counts.index(0)]
            raise UserError(f"no picture of {name!r} can be read: {next(reversed(self.skipped.values()))}")

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
        mine = share(len(self), rank, world)
        for start in range(mine.start, mine.stop, batch_size):
            here = slice(start, min(start + batch_size, mine.stop))
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
