"""Which picture comes when: a function of (seed, epoch) and of the place in the global batch alone.

Pictures that are read from shards come in lanes. Each lane goes through its own part of the epoch's shards,
and fills the same places of every global batch. How many lanes there are depends on the set and on the batch
size, never on the number of processes, and so the batches don't either; who needs some places of a batch
reads the lanes of these places, and no more.

Shapes: M pictures that a lane delivers in an epoch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cgt import rng
from cgt.errors import UserError


def flips(n: int, seed: int, *position: int) -> Tensor:
    """Which of n places show their picture mirrored, bool (n,): each with probability 1/2."""
    return rng.integers(n, 2, seed, "data-flips", *position).to(torch.bool)


def share(count: int, rank: int, world: int) -> slice:
    """The contiguous part of `count` places that is this rank's; the parts of all ranks tile them."""
    return slice(count * rank // world, count * (rank + 1) // world)


def check_batch_size(batch_size: int, world: int) -> None:
    """Refuse a global batch that the ranks can't share evenly.

    Raises:
        UserError: `batch_size` is not a positive multiple of `world`.
    """
    if batch_size < 1 or batch_size % world:
        raise UserError(
            f"a global batch of {batch_size} pictures can't be shared evenly by {world} processes: "
            f"set batch_size to a multiple of {world}."
        )


def windowed_shuffle(n: int, window: int, seed: int, *position: int) -> np.ndarray:
    """A random order of 0..n-1, int64 (n,), in which nothing moves by `window` places or more.

    It does what a shuffle buffer of that size does: whoever reads 0, 1, 2 ... and hands out this order never
    holds more than `window` of them. If all of them fit into the window, every order is equally likely.
    """
    if n <= window:
        return rng.permutation(n, seed, "data-order", *position).numpy()
    draws = torch.rand(n, generator=rng.generator(seed, "data-order", *position), dtype=torch.float64)
    return (torch.arange(n) + window * draws).argsort(stable=True).numpy()


class Run(NamedTuple):
    """What a lane delivers of an epoch, as far as one reader needs it."""

    start: int
    """Pictures of the epoch's sequence of shards that come before the lane's."""
    needed: np.ndarray
    """Which of the lane's pictures the reader needs, bool (M,)."""
    order: np.ndarray
    """These, as positions in the lane, in the order of delivery: int64."""
    mirrored: np.ndarray
    """Whether each delivery is to be mirrored where pictures are flipped: bool, as long as `order`."""


@dataclass(frozen=True)
class Lanes:
    """How the places of all global batches are dealt to lanes, epoch after epoch.

    Places are numbered through all batches: batch b has b * batch_size and the following. Epoch e fills those
    from e * pictures on, and may so begin in the middle of a batch.
    """

    pictures: int
    """In an epoch."""
    batch_size: int
    count: int
    """A divisor of `batch_size`."""
    window: int
    """Of each lane's shuffle."""

    @property
    def width(self) -> int:
        """Places of each global batch that a lane fills."""
        return self.batch_size // self.count

    def start(self, epoch: int, lane: int) -> int:
        """How many places of a lane lie before the epoch."""
        batches, rest = divmod(epoch * self.pictures, self.batch_size)
        return batches * self.width + min(max(rest - lane * self.width, 0), self.width)

    def run(self, epoch: int, lane: int, *, seed: int, places: range, first: int) -> Run:
        """What the lane delivers in the epoch to the `places` of each global batch, from batch `first` on."""
        starts = [self.start(epoch, other) for other in range(lane + 1)]
        ends = [self.start(epoch + 1, other) for other in range(lane + 1)]
        n = ends[lane] - starts[lane]
        batch, place = np.divmod(np.arange(starts[lane], ends[lane]), self.width)
        place += lane * self.width
        mine = (batch >= first) & (place >= places.start) & (place < places.stop)
        order = windowed_shuffle(n, self.window, seed, epoch, lane)[mine]
        needed = np.zeros(n, dtype=bool)
        needed[order] = True
        mirrored = flips(n, seed, epoch, lane).numpy()[mine]
        return Run(sum(ends[:lane]) - sum(starts[:lane]), needed, order, mirrored)


def lane_count(batch_size: int, shards: int, limit: int) -> int:
    """The most lanes that divide the batch evenly, have a shard each, and are not more than `limit`."""
    return max(n for n in range(1, min(batch_size, shards, limit) + 1) if batch_size % n == 0)


def cut(counts: Sequence[int], start: int, needed: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Lay the pictures `needed`, which follow on the first `start`, on parts of so many pictures each.

    Yields:
        For each part that has any of them: its number, the position in `needed` of its first picture
        (negative where that lies before them), and which of its pictures are needed.
    """
    stop = start + len(needed)
    here = 0
    for number, count in enumerate(counts):
        low, high = max(start, here), min(stop, here + count)
        if low < high and needed[low - start : high - start].any():
            wanted = np.zeros(count, dtype=bool)
            wanted[low - here : high - here] = needed[low - start : high - start]
            yield number, here - start, wanted
        here += count
