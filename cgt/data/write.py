"""Building a shard folder out of a source.

The pictures are shuffled across classes (by the build's seed), cut to squares, encoded by several processes
and written in that order: the bytes depend on the input and the options, never on the number of processes.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import PIL

from cgt import __version__, rng
from cgt.data import report, sources
from cgt.data.encode import PARTS, Encoders, Load, Outcome, Part, Recipe, Sample
from cgt.data.manifest import MAX_SIZE, Build, Manifest
from cgt.data.partial import PartialBuild, partial_build, refuse_output
from cgt.data.report import Report
from cgt.data.room import ROOM, refuse_small_disk
from cgt.data.shard_writer import recall, write_shards
from cgt.data.sources import Picture
from cgt.data.square import FILTERS, Filter
from cgt.errors import UserError
from cgt.models.naming import choose, distinct, repeated

PROBE = 32
"""Pictures that are encoded to estimate the size of all."""
PROBED_BUILD = 256
"""With fewer pictures to write, the estimate would cost more than it is worth."""


@dataclass(frozen=True)
class BuildOptions:
    """What a shard folder is built of, and how; None leaves a choice to the source."""

    source: str
    split: str | None = None
    classes: tuple[str, ...] | None = None
    """The classes taken, in this order; None: all of the source's."""
    per_class: int | None = None
    """At most so many of each class, the first in the seeded order, before any is held out. A source that
    draws makes as many."""
    size: int | None = None
    """Height and width of the pictures, pixels."""
    seed: int = 0
    """Of the order, and of what a source draws."""
    shard_mb: float = 128
    """Size at which a shard is closed, 10^6 bytes."""
    filter: Filter = "lanczos"
    """What the middle square is resized with."""
    jpeg_quality: int | None = None
    """1..100, with colours at full resolution; None: PNG, which loses nothing."""
    holdout: float | None = None
    """Share of the pictures, in (0, 1), that belong to the part `holdout`. A hash of a picture's pixels
    decides, so that equal pictures are in the same part whatever they are called."""
    part: Part = "train"
    """The part that is written."""
    task: str | None = None
    """"I/N": only the I-th of N successive parts of the order, for jobs whose shards are merged later."""
    strict: bool = False
    """Whether a picture that can't be read is an error, and not left out."""

    def __post_init__(self) -> None:
        """Raises: UserError: a value out of its range, or options that contradict each other."""
        if self.filter not in FILTERS:
            raise UserError(f"there is no filter {self.filter!r}: choose one of {', '.join(FILTERS)}.")
        if self.part not in PARTS:
            raise UserError(f"there is no part {self.part!r}: choose one of {', '.join(PARTS)}.")
        if self.size is not None and not 4 <= self.size <= MAX_SIZE:
            raise UserError(f"pictures can't be {self.size} px wide: give a size from 4 to {MAX_SIZE}.")
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise UserError(f"JPEG has no quality {self.jpeg_quality}: give a number from 1 to 100.")
        if self.holdout is not None and not 0 < self.holdout < 1:
            raise UserError(
                f"{self.holdout} of the pictures can't be held out: give a share between 0 and 1."
            )
        if self.part == "holdout" and self.holdout is None:
            raise UserError("no picture is held out: say which share is, such as --holdout 0.1.")
        self.span(0)

    def span(self, pictures: int) -> range:
        """The places of the task's pictures in the order of all."""
        if self.task is None:
            return range(pictures)
        match = re.fullmatch("([0-9]+)/([0-9]+)", self.task)
        number, tasks = map(int, match.groups()) if match else (0, 0)
        if not 1 <= number <= tasks:
            raise UserError(
                f"{self.task!r} is no task: write I/N, for the I-th of N, from 1/N to N/N; 2/8, for example."
            )
        return range(pictures * (number - 1) // tasks, pictures * number // tasks)


@dataclass(frozen=True)
class Plan:
    """A build, decided to the last picture."""

    classes: tuple[str, ...]
    pictures: Sequence[Picture]
    """In the order in which they are written."""
    load: Load
    recipe: Recipe
    build: Build
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
        workers: processes that load and encode.
        overwrite: replace the shard folder that stands at `out`, once the new shards are complete.
        progress: called with the pictures done, those left out included, and their total.
        remark: told, once the shards are there, what there is to say of the input: a line each.

    Raises:
        UserError: `out` exists, and is to be kept or no shard folder; it is, holds or lies in the input; an
            option that the source can't meet; a missing or corrupt input; a class without a picture that
            can be read; too little room on the disk.
        RunError: the disk is full, or a worker was killed; what is finished stays in `OUT.partial`.
    """
    refuse_output(out, () if path == "-" else (path,), overwrite=overwrite)
    plan = _plan(options, path)
    size = plan.recipe.size
    identity: dict[str, object] = {"build": plan.build, "size": size, "input": plan.fingerprint}
    identity["pillow"] = PIL.__version__
    found = Report(plan.pictures, strict=options.strict, whole=options.task is None)
    total = len(plan.pictures)
    with partial_build(
        out, identity, overwrite=overwrite, checked=lambda done: progress(done, total)
    ) as partial:
        _write(plan, partial, int(options.shard_mb * 1e6), found, workers, progress)
        if not partial.shards:
            raise UserError(_nothing(options, total))
        manifest = Manifest(
            classes=plan.classes,
            size=size,
            encoding=plan.recipe.encoding,
            shards=partial.shards,
            build=plan.build,
        )
        partial.complete(manifest, found.content)
        partial.put()
    if plan.remark:
        remark(f"{path}: {plan.remark}")
    if found.sentence:
        remark(f"{out / report.FILE}: {found.sentence}.")
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
    chosen = asdict(options) | {"split": request.split, "cgt": __version__}
    if options.task is not None:  # parts of different orders would lack pictures, or have some twice
        chosen["order"] = hashlib.sha256(_listed(pictures)).hexdigest()
    pictures = [pictures[i] for i in options.span(len(pictures))]
    chosen["part"] = None if options.holdout is None else options.part
    del chosen["size"], chosen["strict"]
    recipe = Recipe(
        labels={name: label for label, name in enumerate(classes)},
        size=request.size,
        resample=options.filter,
        jpeg_quality=options.jpeg_quality,
        holdout=options.holdout,
        part=options.part,
    )
    digest = hashlib.sha256(f"{source.fingerprint}\n".encode() + _listed(pictures)).hexdigest()
    return Plan(classes, pictures, source.load, recipe, chosen, digest, source.remark)


def _listed(pictures: Sequence[Picture]) -> bytes:
    return "\n".join(f"{picture.key} {picture.class_name}" for picture in pictures).encode()


def _write(
    plan: Plan,
    partial: PartialBuild,
    limit: int,
    found: Report,
    workers: int,
    progress: Callable[[int, int], None],
) -> None:
    """Write the shards that `partial` lacks."""
    recall(partial, plan.pictures, found)
    total, done = len(plan.pictures), partial.consumed
    progress(done, total)
    if done == total:
        return
    left = plan.pictures[done:]

    def consumed(encoders: Encoders) -> Iterator[tuple[Picture, Outcome]]:
        for i, pair in enumerate(zip(left, encoders.outcomes(left), strict=True), done):
            if i > done:
                progress(i, total)
            yield pair
        progress(total, total)

    with Encoders(plan.load, plan.recipe, workers, locks=(partial.lock,)) as encoders:
        if len(left) >= PROBED_BUILD:
            estimate = _estimate(left, plan.recipe, encoders)
            smaller = ", or make them smaller with --jpeg-quality, --size or --per-class"
            refuse_small_disk({partial.folder: ROOM * estimate}, smaller)
        write_shards(partial, consumed(encoders), plan.classes, limit, found)


def _estimate(left: Sequence[Picture], recipe: Recipe, encoders: Encoders) -> float:
    """Bytes that the pictures that are left will take, by a sample of them.

    Pictures of the other part are in the sample, too: a small part would have too few there.
    """
    probe = [left[i * len(left) // PROBE] for i in range(PROBE)]
    outcomes = encoders.outcomes(probe, all_parts=True)
    probed = sum(len(outcome.tar) for outcome in outcomes if isinstance(outcome, Sample))
    return recipe.share * probed * len(left) / PROBE


def _nothing(options: BuildOptions, pictures: int) -> str:
    if not pictures:
        return f"the task {options.task} has no pictures: divide the work among fewer tasks."
    if options.holdout is not None:
        return (
            f"none of the {pictures:,} pictures is in the part {options.part} of --holdout "
            f"{options.holdout}: choose another share, or take more pictures."
        )
    return f"none of the {pictures:,} pictures of the task {options.task} can be read: repair the input."
