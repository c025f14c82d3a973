"""Shards that are hashed while they are read: one may be larger than the memory that is there for it."""

import collections
import hashlib
from collections.abc import Callable, Iterator
from typing import IO, cast

from cgt.data.manifest import Shard, ShardFolder
from cgt.data.samples import DamagedShardError, Sample, check_counts, open_shard, read_samples

CHUNK = 2**20
"""Bytes that are read at a time past the samples."""


class HashedStream:
    """Reads on from a stream, and knows the hash and the number of the bytes so far."""

    def __init__(self, stream: IO[bytes], sink: Callable[[bytes], object] = lambda content: None) -> None:
        """`sink` gets all that is read."""
        self.bytes = 0
        self._stream = stream
        self._sink = sink
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """As of the stream."""
        content = self._stream.read(size)
        self._hash.update(content)
        self._sink(content)
        self.bytes += len(content)
        return content

    def misfit(self, shard: Shard) -> str | None:
        """What the bytes of `shard`, once its samples are read, have against being what the manifest says."""
        while self.read(CHUNK):
            pass
        if self.bytes != shard.bytes:
            return f"has {self.bytes:,} bytes, the manifest says {shard.bytes:,}"
        if (digest := self._hash.hexdigest()) != shard.sha256:
            return f"has the SHA-256 {digest}, the manifest says {shard.sha256}"
        return None


def hashed_samples(folder: ShardFolder, shard: Shard, stream: HashedStream) -> Iterator[Sample]:
    """`read_samples` out of a stream that hashes."""
    return read_samples(folder, shard, cast(IO[bytes], stream))  # they call `read`, and nothing else


def checked_samples(
    folder: ShardFolder, shard: Shard, sink: Callable[[bytes], object] = lambda content: None
) -> Iterator[Sample]:
    """The samples of a shard in stored order; after the last, its hash and counts are compared.

    Args:
        folder: where the shard lies.
        shard: the shard.
        sink: gets the bytes of its file.

    Raises:
        UserError: the shard is not what the manifest says.
        RunError: the stream of a URL broke.
    """
    found: collections.Counter[str] = collections.Counter()
    with open_shard(folder, shard) as raw:
        stream = HashedStream(raw, sink)
        for sample in hashed_samples(folder, shard, stream):
            found[folder.manifest.classes[sample.cls]] += 1
            yield sample
        misfit = stream.misfit(shard)
    if misfit:
        raise DamagedShardError(folder, shard, f"it {misfit}")
    check_counts(folder, shard, found, shard.counts)
