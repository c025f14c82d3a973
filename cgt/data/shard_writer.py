"""Writing finished samples to tar files of a given size, in the order in which they come."""

import collections
import hashlib
from collections.abc import Iterator, Sequence
from typing import IO

from cgt.data.encode import Outcome, Sample, Unreadable
from cgt.data.manifest import Shard
from cgt.data.partial import UNWRITTEN, FinishedShard, PartialBuild
from cgt.data.report import Report
from cgt.data.sources import Picture
from cgt.data.tar import BLOCK
from cgt.files import replacing_file

RECORD = 20 * BLOCK
"""The length of a tar file is a multiple of it."""


def write_shards(
    partial: PartialBuild,
    consumed: Iterator[tuple[Picture, Outcome]],
    classes: Sequence[str],
    limit: int,
    report: Report,
) -> None:
    """Write the shards that `partial` lacks, each of at most `limit` bytes or one sample.

    Raises:
        UserError: a picture can't be read, where `report` does not allow that.
        RunError: the disk is full.
    """
    upcoming = next(consumed, None)
    while upcoming is not None:
        shard = _OpenShard(f"{len(partial.finished):06d}.tar")
        path = partial.folder / shard.file
        with replacing_file(path) as temporary, temporary.open("wb") as stream:
            while upcoming is not None:
                picture, outcome = upcoming
                if isinstance(outcome, Sample):
                    if shard.counts and shard.bytes + len(outcome.tar) > limit:
                        break
                    report.keep(picture, outcome.digest)
                elif isinstance(outcome, Unreadable):
                    report.leave_out(picture, outcome.reason)
                shard.take(picture, outcome, stream)
                upcoming = next(consumed, None)
            shard.end(stream)
        if shard.counts:
            partial.add(shard.finished(classes))
        else:  # not one picture of the build was a sample
            path.unlink()


def recall(partial: PartialBuild, pictures: Sequence[Picture], report: Report) -> None:
    """Tell `report` what the log of `partial` says of the `pictures` that it accounts for.

    Raises:
        UserError: a picture can't be read, where `report` does not allow that.
    """
    start = 0
    for entry in partial.finished:
        reasons = dict(entry.unreadable)
        for position in range(entry.pictures):
            picture = pictures[start + position]
            digest = entry.digest(position)
            if digest is not None:
                report.keep(picture, digest)
            elif position in reasons:
                report.leave_out(picture, reasons[position])
        start += entry.pictures


class _OpenShard:
    """A shard that is being written: its hash so far, and what its line in the log will say."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.counts = collections.Counter[str]()
        self.bytes = 0
        self._hash = hashlib.sha256()
        self._digests: list[str] = []
        self._unreadable: list[tuple[int, str]] = []

    def take(self, picture: Picture, outcome: Outcome, stream: IO[bytes]) -> None:
        """Write a sample; of a picture that gave none, note why."""
        if isinstance(outcome, Unreadable):
            self._unreadable.append((len(self._digests), outcome.reason))
        if isinstance(outcome, Sample):
            self._append(outcome.tar, stream)
            self.counts[picture.class_name] += 1
            self._digests.append(outcome.digest.hex())
        else:
            self._digests.append(UNWRITTEN)

    def end(self, stream: IO[bytes]) -> None:
        """Write the end mark, two blocks of zeros, and fill up the record."""
        self._append(bytes(2 * BLOCK + -(self.bytes + 2 * BLOCK) % RECORD), stream)

    def finished(self, classes: Sequence[str]) -> FinishedShard:
        """The line for the log."""
        shard = Shard(
            file=self.file,
            samples=self.counts.total(),
            bytes=self.bytes,
            sha256=self._hash.hexdigest(),
            counts={name: self.counts[name] for name in classes if self.counts[name]},
        )
        return FinishedShard(shard=shard, digests="".join(self._digests), unreadable=tuple(self._unreadable))

    def _append(self, content: bytes, stream: IO[bytes]) -> None:
        stream.write(content)
        self._hash.update(content)
        self.bytes += len(content)
