"""What one reader does, a rank or one of its workers: find its pictures in the shards, and decode them.

Shapes: N pictures, R rows and columns.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import IO, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from cgt.data.decode import UndecodableError, decode_into
from cgt.data.fetch import ShardStore
from cgt.data.index import Index, index_of
from cgt.data.manifest import DamagedShardError, Shard, ShardFolder
from cgt.data.selection import Selection
from cgt.data.tar import BLOCK
from cgt.errors import RunError, UserError

OPENING = 4
"""Shards that a reader fetches at a time."""


class Segment(NamedTuple):
    """Pictures that are wanted of a shard."""

    shard: Shard
    start: int
    """Where its first picture lies in a sequence that the caller has in mind."""
    wanted: np.ndarray
    """Bool, for each picture of the shard that is taken at all."""


class Entry(NamedTuple):
    """A picture on its way into a batch."""

    position: int
    """In that sequence."""
    shard: Shard
    number: int
    """Position among the pictures that are taken of the shard."""
    label: int
    header: bytes
    """In the tar file."""
    encoded: bytes | None
    problem: str = ""
    """Why it is not there."""


Skipped = dict[tuple[str, int], str]
"""From a shard's file and a number in it (`Entry.number`) to the reason why that picture was skipped."""


class Part(NamedTuple):
    """Pictures that were decoded."""

    x_N3RR: Tensor
    y_N: Tensor
    kept: list[int]
    """Of the entries given, the positions of these: all but those that were skipped."""
    skipped: Skipped


class ShardReader:
    """Reads shards front to back, and fetches each while the one before is read.

    Args:
        lenient: hand out entries and pictures that can't be read as such, in place of raising.
    """

    def __init__(
        self, folder: ShardFolder, selection: Selection, store: ShardStore, *, lenient: bool
    ) -> None:
        self._folder = folder
        self._selection = selection
        self._store = store
        self._lenient = lenient
        self._indexes: dict[str, Index] = {}
        self._slots = threading.Semaphore(OPENING)
        self._ahead: set[Future[IO[bytes]]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for opening in self._ahead:
            opening.add_done_callback(_close)

    def entries(self, segments: Iterator[Segment]) -> Iterator[Entry]:
        """The wanted pictures of each segment, in order; the first shard is asked for at once.

        The iterator raises:
            UserError: a shard turns out damaged.
            RunError: a URL can't be read.
        """
        return self._entries(self._opening(segments), segments)

    def decoded(self, entries: Sequence[Entry], mirrored: Sequence[bool]) -> Part:
        """The pictures of some entries, uint8 RGB in memory format channels_last.

        Raises:
            UserError: one is corrupt.
        """
        size = self._folder.manifest.size
        x_NRR3 = np.empty((len(entries), size, size, 3), np.uint8)
        labels: list[int] = []
        kept: list[int] = []
        skipped: Skipped = {}
        for i, entry in enumerate(entries):
            out_RR3 = x_NRR3[len(kept)]
            try:
                self._decode(entry, out_RR3)
            except UserError as error:
                if not self._lenient:
                    raise
                skipped[entry.shard.file, entry.number] = str(error)
                continue
            if mirrored[i]:
                out_RR3[:] = out_RR3[:, ::-1].copy()
            labels.append(entry.label)
            kept.append(i)
        x_N3RR = torch.from_numpy(x_NRR3[: len(kept)]).permute(0, 3, 1, 2)
        return Part(x_N3RR, torch.tensor(labels, dtype=torch.int64), kept, skipped)

    def _decode(self, entry: Entry, out_RR3: np.ndarray) -> None:
        if entry.encoded is None:
            raise UserError(entry.problem)
        try:
            decode_into(entry.encoded, self._folder.manifest.encoding, out_RR3)
        except UndecodableError as error:
            key = entry.header.partition(b".")[0].decode("ascii", "replace")
            raise DamagedShardError(self._folder, entry.shard, f"{key} {error}") from None

    def _opening(self, segments: Iterator[Segment]) -> tuple[Segment, Future[IO[bytes]]] | None:
        segment = next(segments, None)
        if segment is None:
            return None
        opening: Future[IO[bytes]] = Future()
        self._ahead.add(opening)
        # A daemon, which a process that ends does not wait for: a server may take minutes to fail.
        threading.Thread(target=self._open, args=(segment.shard, opening), daemon=True).start()
        return segment, opening

    def _open(self, shard: Shard, opening: Future[IO[bytes]]) -> None:
        with self._slots:
            try:
                opening.set_result(self._store.open(shard))
            except BaseException as error:
                opening.set_exception(error)

    def _entries(
        self, upcoming: tuple[Segment, Future[IO[bytes]]] | None, segments: Iterator[Segment]
    ) -> Iterator[Entry]:
        while upcoming is not None:
            segment, opening = upcoming
            upcoming = self._opening(segments)
            shard, start, wanted = segment
            number = -1
            try:
                self._ahead.discard(opening)
                with opening.result() as stream:
                    index = self._index(shard, stream)
                    there = wanted[: len(index.label_P)].nonzero()[0]
                    columns = (there, index.offset_P[there], index.size_P[there], index.label_P[there])
                    rows = zip(*(column.tolist() for column in columns), strict=True)
                    for number, offset, size, label in rows:
                        stream.seek(offset)
                        header, encoded = stream.read(BLOCK), stream.read(size)
                        yield Entry(start + number, shard, number, label, header, encoded)
                if index.problem is not None:
                    raise UserError(index.problem)
            except (UserError, RunError) as error:
                if not self._lenient:
                    raise
                for missed in (wanted[number + 1 :].nonzero()[0] + number + 1).tolist():
                    yield Entry(start + missed, shard, missed, -1, b"", None, str(error))

    def _index(self, shard: Shard, stream: IO[bytes]) -> Index:
        index = self._indexes.get(shard.file)
        if index is None:
            index = index_of(self._folder, self._selection, shard, stream, lenient=self._lenient)
            self._indexes[shard.file] = index
        return index


def _close(opening: Future[IO[bytes]]) -> None:
    if opening.exception() is None:
        opening.result().close()
