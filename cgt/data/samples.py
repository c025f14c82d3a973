"""Samples out of one shard, and pictures out of samples."""

import contextlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from typing import IO, NamedTuple

from PIL import Image, UnidentifiedImageError
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_expander

from cgt import images
from cgt.data.fetch import ShardStore
from cgt.data.manifest import DamagedShardError as DamagedShardError
from cgt.data.manifest import Shard, ShardFolder
from cgt.errors import RunError, UserError


class Sample(NamedTuple):
    """A picture as it lies in a shard."""

    key: str
    cls: int
    """Position in the manifest's list of classes."""
    encoded: bytes


def open_shard(folder: ShardFolder, shard: Shard) -> IO[bytes]:
    """The shard's tar file, buffered and seekable, for the caller to close; see `ShardStore.open`."""
    return ShardStore(folder.location).open(shard)


def read_samples(folder: ShardFolder, shard: Shard, stream: IO[bytes]) -> Iterator[Sample]:
    """The samples of a shard in stored order, out of the `stream` of its tar file; pictures stay encoded.

    Raises:
        UserError: the shard is damaged, or holds something else than the manifest says.
        RunError: the stream of a URL broke.
    """
    classes = len(folder.manifest.classes)
    suffix = folder.manifest.encoding
    number = 0
    with _explained(folder, shard):
        for entry in group_by_keys(tar_file_expander([{"url": shard.file, "stream": stream}])):
            key = entry["__key__"]
            missing = [name for name in (suffix, "cls") if name not in entry]
            if missing:
                raise DamagedShardError(folder, shard, f"the sample {key} has no {key}.{missing[0]}")
            text = entry["cls"].strip()
            if not text.isdigit() or int(text) >= classes:
                raise DamagedShardError(
                    folder, shard, f"{key}.cls says {text[:20]!r}, not a class number below {classes}"
                )
            number += 1
            yield Sample(key, int(text), entry[suffix])
    if number != shard.samples:
        raise DamagedShardError(
            folder, shard, f"it holds {number} samples, the manifest says {shard.samples}"
        )


def check_counts(
    folder: ShardFolder, shard: Shard, found: Mapping[str, int], listed: Mapping[str, int]
) -> None:
    """Compare the pictures per class that a shard gave with those that it should give.

    Raises:
        UserError: they differ.
    """
    wrong = [
        f"{found.get(name, 0)} pictures of {name}, the manifest says {number}"
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
    size = folder.manifest.size
    try:
        x_3RR = images.from_pil(Image.open(io.BytesIO(sample.encoded)))
    except UnidentifiedImageError:
        raise DamagedShardError(folder, shard, f"{sample.key} is no picture") from None
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise DamagedShardError(
            folder, shard, f"the picture of {sample.key} can't be decoded ({error})"
        ) from None
    if x_3RR.shape != (3, size, size):
        found = f"{x_3RR.shape[2]} x {x_3RR.shape[1]}"
        raise DamagedShardError(
            folder, shard, f"the picture of {sample.key} is {found}, the manifest says {size} x {size}"
        )
    return x_3RR


@contextlib.contextmanager
def _explained(folder: ShardFolder, shard: Shard) -> Iterator[None]:
    """Turn what tar files and streams raise into messages with a remedy."""
    try:
        yield
    except (UserError, RunError):
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        reason = str(error.args[0]) if error.args else type(error).__name__
        if folder.local:
            raise DamagedShardError(folder, shard, f"it can't be read ({reason})") from error
        raise RunError(
            f"{folder.place(shard)} can't be read ({reason}): check the network and the address."
        ) from error
