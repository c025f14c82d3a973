"""Where the pictures of a shard lie: found once, so that a reader gets each later by one read of the file.

Shapes: P pictures that are taken of a shard.
"""

from array import array
from typing import IO, NamedTuple

import numpy as np

from cgt.data.manifest import Shard, ShardFolder
from cgt.data.samples import check_counts, read_samples
from cgt.data.selection import Selection
from cgt.errors import RunError, UserError


class Index(NamedTuple):
    """The pictures that are taken of a shard, in stored order."""

    offset_P: np.ndarray
    """Of each picture's header in the tar file, bytes: int64."""
    size_P: np.ndarray
    """Of the encoded pictures, bytes: int32."""
    label_P: np.ndarray
    """Int32."""
    problem: str | None
    """Why there are fewer than there should be."""


def index_of(
    folder: ShardFolder, selection: Selection, shard: Shard, stream: IO[bytes], *, lenient: bool
) -> Index:
    """Look through a whole shard.

    Args:
        folder: has the shard.
        selection: says which pictures are taken.
        shard: one of the folder.
        stream: its file.
        lenient: leave what is damaged out, in place of raising.

    Raises:
        UserError: the shard is not what the manifest says.
        RunError: it can't be read.
    """
    offsets, sizes, labels = array("q"), array("i"), array("i")
    problem = None
    try:
        for label, sample in selection.pick(shard, read_samples(folder, shard, stream)):
            offsets.append(sample.offset)
            sizes.append(len(sample.encoded))
            labels.append(label)
        numbers = np.bincount(labels, minlength=len(selection.classes)).tolist()
        counts = dict(zip(selection.classes, numbers, strict=True))
        check_counts(folder, shard, counts, selection.taken[shard.file])
    except (UserError, RunError) as error:
        if not lenient:
            raise
        problem = str(error)
    return Index(np.asarray(offsets), np.asarray(sizes), np.asarray(labels), problem)
