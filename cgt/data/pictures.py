"""Opening shards for training and evaluation: which pictures, and in memory or streamed.

Shapes: N pictures of a batch, R rows and columns.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from pydantic import Field
from torch import Tensor

from cgt.config import Section
from cgt.data.cache import Cache
from cgt.data.manifest import ShardFolder, open_shards
from cgt.data.resident import ResidentPictures
from cgt.data.selection import Classes, Selection, class_names
from cgt.data.stream import Reading, StreamedPictures
from cgt.data.workers import default_workers
from cgt.errors import UserError
from cgt.models.naming import choose

RESIDENT_BYTES = 2 * 2**30
"""Decoded pictures up to this size are held in memory."""
WORTH_WORKERS = 10_000
"""Fewer pictures are decoded into memory sooner than other processes are there to help."""


class DataConfig(Section):
    """Which pictures of which shards; `data: DIR` stands for `data: {shards: DIR}`."""

    shorthand: ClassVar[str | None] = "shards"

    shards: str
    """A shard folder, or the URL of one."""
    classes: Classes = None
    """The classes taken, in this order: names, "a,b", a text file with one name a line, or such a file among
    the shipped configs ("shapes/source_classes.txt"). None: all of the shards' classes."""
    exclude: Classes = None
    """Classes left out, given likewise."""
    per_class: int | None = Field(default=None, ge=1)
    """At most this many pictures of each class: the first in stored order, whatever the run's seed, so that a
    smaller number takes a subset of what a larger one takes. None: all."""
    flip: bool = False
    """Mirror each picture left to right with probability 1/2, drawn anew every epoch."""
    reader: Literal["auto", "resident", "stream"] = "auto"
    """`resident` decodes the whole set into memory once, `stream` reads shards all along; `auto` is
    resident up to 2 GiB of pixels."""
    workers: int | None = Field(default=None, ge=0, le=256)
    """Processes that read and decode for each process of the run; 0: it does so itself. None: one for each
    core that it leaves free, at most 8. The pictures and their order are the same with any number, but for
    what takes the place of pictures that are skipped."""
    lanes: int = Field(default=16, ge=1, le=1024)
    """`stream` reads at most so many shards side by side. More lanes mix more shards in a batch, and spread
    the reading over more processes; each holds a shard open, or on the disk if it was fetched. Another number
    gives another order."""
    on_error: Literal["stop", "skip"] = "stop"
    """What follows on a picture that can't be read: `skip` counts and reports it, and puts another one that
    the same process reads in its place."""
    max_skipped: int = Field(default=100, ge=0)
    """Each process stops when it has skipped more pictures than these."""
    cache: str | None = None
    """A local folder that keeps shards which were fetched from a URL, for all processes of this machine.
    None: they are fetched each time."""
    cache_gb: float = Field(default=100, gt=0)
    """What the cache may hold, 10^9 bytes; the shards that were not used for longest make room."""


class Pictures(Protocol):
    """A labelled picture set, read in an order that depends on the seed and not on the number of ranks."""

    classes: tuple[str, ...]
    """The selected classes; a label is a position in it."""
    resolution: int
    """R, pixels."""
    digest: str
    """SHA-256 over the shards' hashes and the selection."""
    counts: tuple[int, ...]
    """Pictures per class."""

    @property
    def skipped(self) -> Mapping[tuple[str, int], str]:
        """What could not be read so far, under `on_error: skip`: a shard, a number of a picture in it, and
        why."""
        ...

    def __len__(self) -> int:
        """Pictures in the set."""
        ...

    def batches(
        self, batch_size: int, *, seed: int, first: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's contiguous part of each global batch, from batch number `first` on, without end.

        Epochs are chained: every picture comes once an epoch, a batch may straddle two. Order and flips are
        functions of (seed, epoch).

        Yields:
            x, uint8 (N, 3, R, R), and labels y, int64 (N,), with N = batch_size / world.

        Raises:
            UserError: `world` does not divide `batch_size`, or a shard turns out damaged.
        """
        ...

    def once(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's contiguous part of the set, unflipped: together, every picture once in stored order.

        Batches have `batch_size` pictures, or fewer: the last one, and those of which some are skipped.
        """
        ...


def open_pictures(config: DataConfig) -> Pictures:
    """The pictures that `config` asks for; everything that can be checked up front is.

    Raises:
        UserError: no such shards, a damaged manifest or shard, an unknown class, or nothing selected.
        RunError: a URL can't be read.
    """
    folder = open_shards(config.shards)
    selection = _select(folder, config)
    if config.on_error == "stop":
        folder.check_files()
    pixels = sum(selection.counts) * 3 * folder.manifest.size**2
    resident = config.reader == "resident" or (config.reader == "auto" and pixels <= RESIDENT_BYTES)
    workers = config.workers
    if workers is None:
        workers = default_workers() if not resident or sum(selection.counts) >= WORTH_WORKERS else 0
    reading = Reading(
        workers=workers,
        lanes=config.lanes,
        on_error=config.on_error,
        max_skipped=config.max_skipped,
        cache=None if config.cache is None else Cache(Path(config.cache), int(config.cache_gb * 1e9)),
    )
    streamed = StreamedPictures(folder, selection, reading, flip=config.flip)
    return ResidentPictures(streamed) if resident else streamed


def _select(folder: ShardFolder, config: DataConfig) -> Selection:
    known = folder.manifest.classes
    classes = known if config.classes is None else choose(known, class_names(config.classes), config.shards)
    if config.exclude is not None:
        left_out = choose(known, class_names(config.exclude), config.shards)
        classes = tuple(name for name in classes if name not in left_out)
    selection = Selection(folder.manifest, classes, config.per_class)
    empty = [name for name, count in zip(classes, selection.counts, strict=True) if not count]
    if not classes or empty:
        found = (
            f"no pictures of {', '.join(map(repr, empty[:5]))}" if empty else "no class that is not excluded"
        )
        raise UserError(f"{config.shards} has {found}: change data.classes or data.exclude.")
    return selection
