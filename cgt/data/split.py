"""Two shard folders out of one, picture by picture as they are."""

import contextlib
import hashlib
import itertools
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cgt.data import encode
from cgt.data.hashed import checked_samples
from cgt.data.keys import key_digest
from cgt.data.manifest import Build, Manifest, ShardFolder, open_shards
from cgt.data.partial import partial_build, refuse_output
from cgt.data.repack import NoReport, fingerprint, relabelled
from cgt.data.room import ROOM, refuse_small_disk
from cgt.data.samples import Sample
from cgt.data.shard_writer import write_shards
from cgt.data.sources import Picture
from cgt.data.tar import BLOCK
from cgt.errors import UserError
from cgt.models.naming import choose

Progress = Callable[[int, int], None]
_SECOND, _FIRST, _UNDECIDED = 0, 1, 2


@dataclass(frozen=True)
class Side:
    """One of the two folders that are written."""

    out: Path
    classes: tuple[str, ...]
    pictures: int
    build: Build
    takes: np.ndarray | None = None
    """Whether it has each picture of the input, in stored order, bool; None: all those of its classes."""


def split_by_classes(
    location: str,
    first: Path,
    second: Path,
    classes: Sequence[str],
    *,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> tuple[Manifest, Manifest]:
    """Write the pictures of `classes` to the shard folder `first`, those of all others to `second`.

    Args:
        location: a shard folder or its URL.
        first: a folder to make.
        second: another.
        classes: they are numbered in this order; the others keep theirs.
        overwrite: replace shard folders that stand at `first` and `second`, once the new ones are complete.
        progress: called with the pictures written and their total.

    Raises:
        UserError: an output exists, and is to be kept or no shard folder; it is, holds or lies in the input;
            a class that is not there, or none is left; the input is damaged; too little room on the disk.
        RunError: the disk is full, or a URL can't be read; what is finished stays beside the outputs.
    """
    folder = _open(location, first, second, overwrite=overwrite)
    manifest = folder.manifest
    chosen = choose(manifest.classes, classes, location)
    others = tuple(name for name in manifest.classes if name not in set(chosen))
    counts = manifest.counts()
    sides = []
    for out, names in ((first, chosen), (second, others)):
        pictures = sum(counts[name] for name in names)
        if not pictures:
            raise UserError(
                f"{out} would get no pictures: name some of the classes of {location} that have any, not all."
            )
        sides.append(Side(out, names, pictures, {**manifest.build, "classes": names}))
    return _split(folder, sides, 0, progress, overwrite=overwrite)


def split_by_share(
    location: str,
    first: Path,
    second: Path,
    share: float,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> tuple[Manifest, Manifest]:
    """Write a share of each class's pictures to the shard folder `first`, the others to `second`.

    A hash of a picture's encoded bytes and of the seed puts the pictures of a class in order, and `first`
    gets those in front. Pictures of equal bytes go to the same side, whatever their keys and classes: where
    they are many, shares are met less exactly.

    Args:
        location: a shard folder or its URL.
        first: a folder to make.
        second: another.
        share: of the pictures of each class, in (0, 1), rounded to one at least on either side.
        seed: another seed makes another choice.
        overwrite: replace shard folders that stand at `first` and `second`, once the new ones are complete.
        progress: called with the pictures done, of which each counts when it is looked at and when it is
            written, and their total. The input is read three times: to choose, and for each side.

    Raises:
        UserError: an output exists, and is to be kept or no shard folder; it is, holds or lies in the input;
            a share out of range; a class that would have no picture on a side; the input is damaged; too
            little room on the disk.
        RunError: the disk is full, or a URL can't be read; what is finished stays beside the outputs.
    """
    if not 0 < share < 1:
        raise UserError(f"{share} of the pictures can't be split off: give a share between 0 and 1.")
    folder = _open(location, first, second, overwrite=overwrite)
    manifest = folder.manifest
    contents, labels = array("Q"), array("i")
    progress(0, 2 * manifest.samples)
    for shard in manifest.shards:
        for sample in checked_samples(folder, shard):
            contents.append(_content_hash(sample, seed))
            labels.append(sample.cls)
            progress(len(labels), 2 * manifest.samples)
    is_first = _in_front(np.asarray(contents), np.asarray(labels), manifest.classes, share)
    made = {**manifest.build, "split_share": share, "split_seed": seed}
    sides = [
        Side(out, manifest.classes, int(takes.sum()), {**made, "split_side": name}, takes)
        for out, name, takes in ((first, "first", is_first), (second, "second", ~is_first))
    ]
    return _split(folder, sides, manifest.samples, progress, overwrite=overwrite)


def _open(location: str, first: Path, second: Path, *, overwrite: bool) -> ShardFolder:
    one, other = first.resolve(), second.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise UserError(f"{first} and {second} can't both be written: name two folders, none in the other.")
    for out in (first, second):
        refuse_output(out, (location,), overwrite=overwrite)
    folder = open_shards(location)
    folder.check_files()
    return folder


def _content_hash(sample: Sample, seed: int) -> int:
    """64 bits that depend on the encoded picture and on the seed."""
    digest = hashlib.blake2b(f"{seed} ".encode(), digest_size=8)
    digest.update(sample.encoded)
    return int.from_bytes(digest.digest(), "big")


def _in_front(contents: np.ndarray, labels: np.ndarray, classes: Sequence[str], share: float) -> np.ndarray:
    """Which pictures go to the first side, bool, in stored order.

    Args:
        contents: a hash of each picture's content.
        labels: the number of its class.
        classes: their names.
        share: of the pictures of each class.

    Raises:
        UserError: a class would have no picture on a side.
    """
    _, ranks = np.unique(contents, return_inverse=True)
    side = np.full(len(contents), _UNDECIDED, np.int8)
    by_class = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[by_class], np.arange(len(classes)), "right")
    for name, here in zip(classes, np.split(ranks[by_class], ends[:-1]), strict=True):
        mine, times = np.unique(here, return_counts=True)
        wanted = min(max(round(share * len(here)), 1), len(here) - 1) - times[side[mine] == _FIRST].sum()
        left = side[mine] == _UNDECIDED  # the others are pictures of classes before as well
        taken = np.cumsum(times[left]) <= wanted
        if len(taken) > 1 and not (side[mine] == _FIRST).any():
            taken[0] = True
        side[mine[left]] = np.where(taken, _FIRST, _SECOND)
        if len(here) and len(np.unique(side[mine])) < 2:
            raise UserError(
                f"the {len(here):,} pictures of the class {name!r} can't be shared out: both sides need one, "
                "and equal pictures stay together. Add pictures that differ, or split the class off before "
                "with --classes."
            )
    return np.asarray(side[ranks] == _FIRST)


def _split(
    folder: ShardFolder, sides: Sequence[Side], done: int, progress: Progress, *, overwrite: bool
) -> tuple[Manifest, Manifest]:
    """Write both sides, once `done` pictures of the progress are done."""
    manifest = folder.manifest
    total = done + manifest.samples

    def checked(pictures: int) -> None:
        progress(done + pictures, total)

    def counted(
        pictures: Iterator[tuple[Picture, encode.Sample]],
    ) -> Iterator[tuple[Picture, encode.Sample]]:
        nonlocal done
        for pair in pictures:
            yield pair
            done += 1
            progress(done, total)

    # The end mark is one of two blocks, and what fills up the record: no side's shard gets longer than these.
    limit = max(shard.bytes for shard in manifest.shards) - 2 * BLOCK
    made = []
    with contextlib.ExitStack() as stack:
        partials = []
        for side in sides:
            plan: dict[str, object] = {
                "split": fingerprint(manifest),
                "classes": side.classes,
                "build": side.build,
            }
            build = partial_build(side.out, plan, overwrite=overwrite, checked=checked)
            partials.append(stack.enter_context(build))
            done += partials[-1].consumed
        progress(done, total)
        room = ROOM * manifest.bytes / manifest.samples
        refuse_small_disk(
            {
                partial.folder: room * (side.pictures - partial.consumed)
                for side, partial in zip(sides, partials, strict=True)
            }
        )
        for side, partial in zip(sides, partials, strict=True):
            pictures = itertools.islice(_pictures(folder, side), partial.consumed, None)
            write_shards(partial, counted(pictures), side.classes, limit, NoReport())
            made.append(
                Manifest(
                    classes=side.classes,
                    size=manifest.size,
                    encoding=manifest.encoding,
                    shards=partial.shards,
                    build=side.build,
                )
            )
        for partial, written in zip(partials, made, strict=True):
            partial.complete(written)
        for partial in partials:
            partial.put()
    return made[0], made[1]


def _pictures(folder: ShardFolder, side: Side) -> Iterator[tuple[Picture, encode.Sample]]:
    """The pictures of a side in stored order, out of the shards that have any."""
    labels = {name: label for label, name in enumerate(side.classes)}
    start = 0
    for shard in folder.manifest.shards:
        if side.takes is None:
            has_any = not labels.keys().isdisjoint(shard.counts)
        else:
            has_any = bool(side.takes[start : start + shard.samples].any())
        for i, sample in enumerate(checked_samples(folder, shard), start) if has_any else ():
            name = folder.manifest.classes[sample.cls]
            if name in labels if side.takes is None else side.takes[i]:
                yield relabelled(folder, sample, labels[name], key_digest(sample.key))
        start += shard.samples
