"""A contact sheet of a shard folder: one row a class, its first pictures in stored order.

Shapes: P pictures, R rows and columns of each.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from cgt import images
from cgt.data.manifest import ShardFolder
from cgt.data.samples import decode, open_shard, read_samples
from cgt.data.selection import Selection

ROWS = 100
"""Classes that a sheet shows at most, the first: more would make a strip that no program likes to open."""
SMALLEST, LARGEST = 64, 128
"""Pixels that a picture of a sheet has: smaller ones are enlarged, larger ones reduced."""
LABEL = 40
"""Characters of a class's name that are written."""


def write_sheet(folder: ShardFolder, path: Path, per_class: int = 8) -> int:
    """Write the first pictures of each class, row by row, as a PNG; no more shards are read than that needs.

    Returns:
        The number of classes shown: all, or the first `ROWS`.

    Raises:
        UserError: a shard that is needed is missing or damaged, or `path` is no place for a file.
        RunError: a URL can't be read, or the disk is full.
    """
    selection = Selection(folder.manifest, folder.manifest.classes[:ROWS], per_class)
    columns = max(1, *selection.counts)
    size = min(folder.manifest.size, LARGEST)
    x_P3RR = torch.full((len(selection.classes) * columns, 3, size, size), 255, dtype=torch.uint8)
    places = [itertools.count(row * columns) for row in range(len(selection.classes))]
    for row, x_3RR in first_pictures(folder, selection):
        x_P3RR[next(places[row])] = _reduced(x_3RR, size)
    labels = [name if len(name) <= LABEL else f"{name[: LABEL - 3]}..." for name in selection.classes]
    images.save_grid(path, x_P3RR, columns, labels=labels, zoom=max(1, SMALLEST // size))
    return len(labels)


def first_pictures(folder: ShardFolder, selection: Selection) -> Iterator[tuple[int, Tensor]]:
    """The selected pictures, uint8 (3, R, R), with the number of each one's class in the selection.

    No more of a shard is read than that needs.

    Raises:
        UserError: a shard that is needed is missing or damaged.
        RunError: a URL can't be read.
    """
    for shard in selection.shards():
        wanted = sum(selection.taken[shard.file].values())
        with open_shard(folder, shard) as stream:
            picked = selection.pick(shard, read_samples(folder, shard, stream))
            for row, sample in itertools.islice(picked, wanted):
                yield row, decode(folder, shard, sample)


def _reduced(x_3RR: Tensor, size: int) -> Tensor:
    if x_3RR.shape[-1] == size:
        return x_3RR
    image = images.to_pil(x_3RR).resize((size, size), Image.Resampling.BOX)
    return images.from_pil(image)
