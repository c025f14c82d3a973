"""Keys that are there twice, among millions: eight bytes of memory for each key.

A hash of each key is kept. Where two are equal, the keys themselves are read again, so that two keys whose
hashes happen to be equal are not taken for one.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cgt.data.manifest import Shard, ShardFolder
from cgt.data.partial import DIGEST_BYTES
from cgt.data.samples import DamagedShardError, open_shard, read_samples


class Place(NamedTuple):
    """Where a shard lies."""

    folder: ShardFolder
    shard: Shard


class Double(NamedTuple):
    """A key that is there twice."""

    key: str
    first: Place
    second: Place


def key_digest(key: str) -> bytes:
    """Eight bytes that stand for a key."""
    return hashlib.blake2b(key.encode(), digest_size=DIGEST_BYTES).digest()


def double_keys(places: Sequence[Place], digests: Sequence[bytes]) -> Iterator[Double]:
    """The keys that are there more than once, as often as they come again, in stored order.

    Args:
        places: shards, in order.
        digests: for each, `key_digest` of its keys, joined; of as many as could be read.

    Raises:
        RunError: a URL can't be read.
    """
    numbers = [np.frombuffer(joined, "<u8") for joined in digests]
    ordered = np.sort(np.concatenate(numbers))
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not len(repeated):
        return
    suspects = set(repeated.tolist())
    seen: dict[str, Place] = {}
    for place, here in zip(places, numbers, strict=True):
        if np.isin(here, repeated).any():
            for key in _keys(place):
                if int.from_bytes(key_digest(key), "little") in suspects:
                    if key in seen:
                        yield Double(key, seen[key], place)
                    else:
                        seen[key] = place


def _keys(place: Place) -> Iterator[str]:
    """The keys of a shard, as far as it can be read."""
    with open_shard(*place) as stream:
        try:
            for sample in read_samples(*place, stream):
                yield sample.key
        except DamagedShardError:  # told by who read it before
            return
