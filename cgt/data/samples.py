"""Samples out of one shard, and pictures out of samples."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import IO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cgt.data import tar
from cgt.data.decode import UndecodableError, decode_into
from cgt.data.fetch import ShardStore
from cgt.data.manifest import DamagedShardError as DamagedShardError
from cgt.data.manifest import Shard, ShardFolder
from cgt.errors import RunError, UserError
from cgt.wording import counted


class Sample(NamedTuple):
    """A picture as it lies in a shard."""

    key: str
    cls: int
    """Position in the manifest's list of classes."""
    encoded: bytes
    offset: int
    """Of the encoded picture's header in the shard's tar file, bytes."""


def open_shard(folder: ShardFolder, shard: Shard) -> IO[bytes]:
    """The shard's tar file, buffered and seekable, for the caller to close; see `ShardStore.open`."""
    return ShardStore(folder.location).open(shard)


def read_samples(folder: ShardFolder, shard: Shard, stream: IO[bytes]) -> Iterator[Sample]:
    """The samples of a shard in stored order, out of the `stream` of its tar file; pictures stay encoded.

    Raises:
        UserError: the shard is damaged, or holds something else than the manifest says.
        RunError: the stream of a URL broke.
    """
    encoding = folder.manifest.encoding
    other = {encoding: "cls", "cls": encoding}
    numbers = {str(number).encode(): number for number in range(len(folder.manifest.classes))}
    keys = set()
    with _explained(folder, shard):
        members = tar.members(stream, shard.bytes)
        for name, content, offset in members:
            key, _, suffix = name.partition(".")
            if suffix not in other or not _KEY.fullmatch(key):
                raise DamagedShardError(folder, shard, f"{name!r} is no name of a sample's file")
            missing = f"{key}.{other[suffix]}"
            next_name, next_content, next_offset = next(members, ("", b"", 0))
            if next_name != missing:
                raise DamagedShardError(folder, shard, f"the sample {key} has no {missing} beside it")
            if key in keys:
                raise DamagedShardError(folder, shard, f"it has two samples {key}")
            keys.add(key)
            if suffix == "cls":
                text, encoded, offset = content, next_content, next_offset
            else:
                text, encoded = next_content, content
            number = numbers.get(text.strip())
            if number is None:
                reason = f"{key}.cls says {text[:20]!r}, not a class number below {len(numbers)}"
                raise DamagedShardError(folder, shard, reason)
            yield Sample(key, number, encoded, offset)
    if len(keys) != shard.samples:
        raise DamagedShardError(
            folder, shard, f"it holds {counted(len(keys), 'sample')}, the manifest says {shard.samples}"
        )


_KEY = re.compile("[A-Za-z0-9_-]+")


def check_counts(
    folder: ShardFolder, shard: Shard, found: Mapping[str, int], listed: Mapping[str, int]
) -> None:
    """Compare the pictures per class that a shard gave with those that it should give.

    Raises:
        UserError: they differ.
    """
    wrong = [
        f"{counted(found.get(name, 0), 'picture')} of {name}, the manifest says {number}"
        for name, number in listed.items()
        if found.get(name, 0) != number
    ]
    if wrong:
        raise DamagedShardError(folder, shard, f"it holds {'; '.join(wrong)}")


def decode(folder: ShardFolder, shard: Shard, sample: Sample) -> Tensor:
    """The picture of a sample, uint8 RGB (3, R, R).

    Raises:
        UserError: it is corrupt, or not R x R.
    """
    out_RR3 = np.empty((folder.manifest.size, folder.manifest.size, 3), np.uint8)
    try:
        decode_into(sample.encoded, folder.manifest.encoding, out_RR3)
    except UndecodableError as error:
        raise DamagedShardError(folder, shard, f"{sample.key} {error}") from None
    return torch.from_numpy(out_RR3).permute(2, 0, 1).contiguous()


@contextlib.contextmanager
def _explained(folder: ShardFolder, shard: Shard) -> Iterator[None]:
    """Turn what tar files and streams raise into messages with a remedy."""
    try:
        yield
    except (UserError, RunError):
        raise
    except (OSError, EOFError, ValueError) as error:
        reason = str(error.args[0]) if error.args else type(error).__name__
        if folder.local:
            raise DamagedShardError(folder, shard, f"it can't be read ({reason})") from error
        raise RunError(
            f"{folder.place(shard)} can't be read ({reason}): check the network and the address."
        ) from error
