"""Building a shard folder out of a source.

The pictures are shuffled across classes (by the build's seed), cut to squares, encoded as PNG by several
threads and written in that order: the bytes depend on the input and the options, never on the threads.
"""

import collections
import hashlib
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import PIL
import webdataset
from PIL import Image

from cgt import __version__, rng
from cgt.data import sources
from cgt.data.manifest import FILE, KIND, Manifest, Shard
from cgt.data.partial import PartialBuild, partial_build
from cgt.data.selection import choose
from cgt.data.sources import Picture
from cgt.data.square import squared
from cgt.errors import UserError
from cgt.files import put_folder, refuse_existing, replacing_file, sha256, write_json
from cgt.models.naming import distinct, repeated

Load = Callable[[Any], Image.Image]
BLOCK = 512
"""Tar files come in blocks of so many bytes; each file in one has a header of one."""


@dataclass(frozen=True)
class BuildOptions:
    """What a shard folder is built of, and how; None leaves a choice to the source."""

    source: str
    split: str | None = None
    classes: tuple[str, ...] | None = None
    """The classes taken, in this order; None: all of the source's."""
    per_class: int | None = None
    """At most so many of each class, the first in the seeded order. A source that draws makes as many."""
    size: int | None = None
    """Height and width of the pictures, pixels."""
    seed: int = 0
    """Of the order, and of what a source draws."""
    shard_mb: float = 128
    """Size at which a shard is closed, 10^6 bytes."""


@dataclass(frozen=True)
class Plan:
    """A build, decided to the last picture."""

    classes: tuple[str, ...]
    pictures: Sequence[Picture]
    """In the order in which they are written."""
    load: Load
    size: int
    build: dict[str, str | int | float | tuple[str, ...] | None]
    """What the manifest says of how the shards were made."""
    fingerprint: str
    remark: str | None


def build_shards(
    options: BuildOptions,
    path: str,
    out: Path,
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    remark: Callable[[str], None] = lambda sentence: None,
) -> Manifest:
    """Build the shard folder `out` from the source's input `path` ("-" for none).

    Until everything is written, it lies in `OUT.partial`; a build that was interrupted goes on from there.

    Args:
        workers: threads that load and encode.
        overwrite: replace the shard folder that stands at `out`, once the new shards are complete.
        progress: called with the pictures done and their total.
        remark: told, once the shards are there, what the source has to say of its input.

    Raises:
        UserError: `out` exists, and is to be kept, the input or no shard folder; an option that the source
            can't meet; a missing or corrupt input.
        RunError: the disk is full; what is finished stays in `OUT.partial`.
    """
    refuse_existing(out, overwrite=overwrite, kind=KIND, inputs=() if path == "-" else (path,))
    plan = _plan(options, path)
    identity: dict[str, object] = {"build": plan.build, "size": plan.size, "input": plan.fingerprint}
    with partial_build(out, {**identity, "pillow": PIL.__version__}) as partial:
        _write(plan, partial, int(options.shard_mb * 1e6), workers, progress)
        manifest = Manifest(
            classes=plan.classes,
            size=plan.size,
            encoding="png",
            shards=tuple(partial.shards),
            build=plan.build,
        )
        partial.close_log()
        write_json(partial.folder / FILE, manifest.to_json())
        put_folder(partial.folder, out)
    if plan.remark:
        remark(plan.remark)
    return manifest


def _plan(options: BuildOptions, path: str) -> Plan:
    source, request = sources.read(
        options.source,
        path,
        split=options.split,
        size=options.size,
        seed=options.seed,
        per_class=options.per_class,
    )
    place = f"the source {options.source}"
    named = [source.aliases.get(name, name) for name in options.classes or source.classes]
    classes = choose(source.classes, named, place)
    try:
        distinct(classes)
    except ValueError as error:
        raise UserError(f"{place}: {error}.") from None
    if doubles := repeated([picture.key for picture in source.pictures]):
        raise AssertionError(f"{place} has two pictures of the key {doubles[0]}")

    order = rng.permutation(len(source.pictures), options.seed, "build-order").tolist()
    left = dict.fromkeys(classes, options.per_class if options.per_class is not None else len(order))
    pictures = []
    for i in order:
        picture = source.pictures[i]
        if left.get(picture.class_name, 0):
            left[picture.class_name] -= 1
            pictures.append(picture)
    filled = {picture.class_name for picture in pictures}
    if empty := [name for name in classes if name not in filled]:
        raise UserError(
            f"{place} has no pictures of {', '.join(map(repr, empty[:5]))}: "
            "add some, or name the other classes with --classes."
            + (f" It {source.remark}" if source.remark else "")
        )
    keys = "\n".join(f"{picture.key} {picture.class_name}" for picture in pictures)
    chosen = asdict(options) | {"split": request.split, "cgt": __version__}
    del chosen["size"]
    digest = hashlib.sha256(f"{source.fingerprint}\n{keys}".encode()).hexdigest()
    return Plan(classes, pictures, source.load, request.size, chosen, digest, source.remark)


def _write(
    plan: Plan, partial: PartialBuild, limit: int, workers: int, progress: Callable[[int, int], None]
) -> None:
    """Write the shards that `partial` lacks."""
    total = len(plan.pictures)
    done = sum(shard.samples for shard in partial.shards)
    progress(done, total)
    labels = {name: label for label, name in enumerate(plan.classes)}
    encoded = _encoded(plan.pictures[done:], plan.load, plan.size, workers)
    upcoming = next(encoded, None)
    while upcoming is not None:
        file = f"{len(partial.shards):06d}.tar"
        room, counts = limit, collections.Counter[str]()
        with (
            replacing_file(partial.folder / file) as temporary,
            temporary.open("wb") as stream,
            webdataset.TarWriter(stream, encoder=False, mtime=0, compress=False) as tar,
        ):
            while upcoming is not None:
                picture, content = upcoming
                sample = {
                    "__key__": picture.key,
                    "png": content,
                    "cls": str(labels[picture.class_name]).encode(),
                }
                size = sum(BLOCK + -(-len(sample[part]) // BLOCK) * BLOCK for part in ("png", "cls"))
                if counts and size > room:
                    break
                tar.write(sample)
                room -= size
                counts[picture.class_name] += 1
                done += 1
                progress(done, total)
                upcoming = next(encoded, None)
        path = partial.folder / file
        ordered = {name: counts[name] for name in plan.classes if counts[name]}
        partial.add(
            Shard(
                file=file,
                samples=counts.total(),
                bytes=path.stat().st_size,
                sha256=sha256(path),
                counts=ordered,
            )
        )


def _encoded(
    pictures: Sequence[Picture], load: Load, size: int, workers: int
) -> Iterator[tuple[Picture, bytes]]:
    """(picture, PNG bytes) in the given order, with enough under way to keep the threads busy."""
    queue: collections.deque[tuple[Picture, Future[bytes]]] = collections.deque()
    waiting = iter(pictures)
    pool = ThreadPoolExecutor(workers)
    try:
        while True:
            for picture in itertools.islice(waiting, 8 * workers - len(queue)):
                queue.append((picture, pool.submit(_encode, load, picture.place, size)))
            if not queue:
                return
            picture, content = queue.popleft()
            yield picture, content.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _encode(load: Load, place: Any, size: int) -> bytes:
    buffer = io.BytesIO()
    squared(load(place), size).save(buffer, "png")
    return buffer.getvalue()
