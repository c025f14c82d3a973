"""One shard folder out of several, picture by picture as they are.

Shards whose class numbers stay what they are, such as those of one build's tasks, are copied byte by byte.
They are never hard links to the input: damage to one folder would then be damage to the other.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from sys import maxsize

from pydantic import ValidationError

from cgt.data import encode, report
from cgt.data.hashed import checked_samples
from cgt.data.keys import Place, double_keys, key_digest
from cgt.data.manifest import Build, Manifest, ShardFolder, open_shards
from cgt.data.partial import FinishedShard, PartialBuild, partial_build, refuse_output
from cgt.data.repack import NoReport, fingerprint, relabelled
from cgt.data.report import Found
from cgt.data.room import refuse_small_disk
from cgt.data.shard_writer import write_shards
from cgt.data.sources import Picture
from cgt.errors import UserError
from cgt.files import explained, replacing_file


def merge_shards(
    locations: Sequence[str],
    out: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Write the pictures of all `locations`, in the order given, to the shard folder `out`.

    The classes are those of all, in the order in which they first appear. The same folders give the same
    bytes. Reports of local folders are joined; who is a duplicate of whom across folders is not looked for.

    Until everything is written, it lies in `OUT.partial`; a merge that was interrupted goes on from there.

    Args:
        locations: two or more shard folders, or URLs of them.
        out: the folder to make.
        overwrite: replace the shard folder that stands at `out`, once the new one is complete.
        progress: called with the pictures done and their total.

    Raises:
        UserError: `out` exists, and is to be kept or no shard folder; it is, holds or lies in an input; an
            input is damaged; two differ in the size or the encoding of their pictures, or have a key in
            common; too little room.
        RunError: the disk is full, or a URL can't be read; what is finished stays in `OUT.partial`.
    """
    if len(locations) < 2:
        raise UserError("there is nothing to merge: name two shard folders or more.")
    refuse_output(out, locations, overwrite=overwrite)
    folders = [open_shards(location) for location in locations]
    _refuse_unlike(folders)
    _refuse_other_orders(folders)
    for folder in folders:
        folder.check_files()
    found = _joined_reports(folders)
    classes = tuple(dict.fromkeys(name for folder in folders for name in folder.manifest.classes))
    places = [Place(folder, shard) for folder in folders for shard in folder.manifest.shards]
    total = sum(folder.manifest.samples for folder in folders)
    plan: dict[str, object] = {"merge": [fingerprint(folder.manifest) for folder in folders]}
    with partial_build(out, plan, overwrite=overwrite, checked=lambda done: progress(done, total)) as partial:
        left = places[len(partial.finished) :]
        refuse_small_disk({partial.folder: sum(shard.bytes for _, shard in left)})
        done = partial.consumed
        progress(done, total)

        def count() -> None:
            nonlocal done
            done += 1
            progress(done, total)

        for place in left:
            if place.folder.manifest.classes == classes[: len(place.folder.manifest.classes)]:
                _copy(partial, out, place, count)
            else:
                write_shards(partial, _renumbered(place, classes, count), classes, maxsize, NoReport())
        _refuse_doubles(places, partial)
        first = folders[0].manifest
        manifest = Manifest(
            classes=classes,
            size=first.size,
            encoding=first.encoding,
            shards=partial.shards,
            build=_joined_builds([folder.manifest.build for folder in folders]),
        )
        partial.complete(manifest, found)
        partial.put()
    return manifest


def _copy(partial: PartialBuild, out: Path, place: Place, count: Callable[[], None]) -> None:
    """Copy a shard, and compare it with its manifest on the way."""
    file = f"{len(partial.finished):06d}.tar"
    digests = bytearray()
    with replacing_file(partial.folder / file) as temporary, temporary.open("wb") as copy:

        def write(content: bytes) -> None:
            with explained(out, partial.folder):  # here, since the shard is being read: not its fault
                copy.write(content)

        for sample in checked_samples(*place, write):
            digests += key_digest(sample.key)
            count()
    shard = place.shard.model_copy(update={"file": file})
    partial.add(FinishedShard(shard=shard, digests=digests.hex(), unreadable=()))


def _renumbered(
    place: Place, classes: Sequence[str], count: Callable[[], None]
) -> Iterator[tuple[Picture, encode.Sample]]:
    """The samples of a shard with the numbers that their classes have in `classes`."""
    labels = {name: label for label, name in enumerate(classes)}
    for sample in checked_samples(*place):
        label = labels[place.folder.manifest.classes[sample.cls]]
        yield relabelled(place.folder, sample, label, key_digest(sample.key))
        count()


def _refuse_unlike(folders: Sequence[ShardFolder]) -> None:
    one = folders[0]
    held = {shard.sha256: Place(one, shard) for shard in one.manifest.shards}
    for other in folders[1:]:
        a, b = one.manifest, other.manifest
        if (a.size, a.encoding) != (b.size, b.encoding):
            raise UserError(
                f"{one.location} holds {a.encoding} pictures of {a.size} px and {other.location} "
                f"{b.encoding} pictures of {b.size} px, and merging encodes none anew: build one again with "
                "the other's --size and --jpeg-quality."
            )
        for shard in b.shards:
            folder, same = held.setdefault(shard.sha256, Place(other, shard))
            if folder is not other:
                raise UserError(
                    f"{other.location} and {folder.location} hold the same pictures ({shard.file} of the one "
                    f"is {same.file} of the other): leave one of the folders out."
                )


def _refuse_other_orders(folders: Sequence[ShardFolder]) -> None:
    """Tasks tile the order of all pictures, which is another one if the input or an option is."""
    tasks = [folder for folder in folders if folder.manifest.build.get("task")]
    for other in tasks[1:]:
        if other.manifest.build.get("order") != tasks[0].manifest.build.get("order"):
            raise UserError(
                f"{tasks[0].location} and {other.location} are tasks of different builds (their input or "
                "options differ), and together would lack pictures: build all of them again."
            )


def _refuse_doubles(places: Sequence[Place], partial: PartialBuild) -> None:
    digests = [bytes.fromhex(entry.digests) for entry in partial.finished]
    for double in double_keys(places, digests):
        one, other = double.first.folder.location, double.second.folder.location
        raise UserError(
            f"the key {double.key} is in {one} and in {other}, and keys must differ: leave one of the "
            "folders out if they hold the same pictures; if not, rename the picture files of one, and build "
            "it again."
        )


def _joined_builds(builds: Sequence[Build]) -> Build:
    """What all builds have in common; tasks that together are one build leave no trace."""
    names = dict.fromkeys(name for build in builds for name in build)
    joined: Build = {}
    for name in names:
        values = {build.get(name) for build in builds}
        joined[name] = values.pop() if len(values) == 1 else None
    tasks = [build.get("task") for build in builds]
    if any(tasks):
        joined["task"] = None if _are_all(tasks) else "+".join(str(task or "whole") for task in tasks)
    if joined.get("task") is None:
        joined.pop("order", None)
    return joined


def _are_all(tasks: Sequence[object]) -> bool:
    """Whether `tasks` are all of 1/N to N/N."""
    numbered = [re.fullmatch("0*([0-9]+)/0*([0-9]+)", str(task)) for task in tasks]
    found = sorted((int(match[1]), int(match[2])) for match in numbered if match)
    return found == [(i, len(tasks)) for i in range(1, len(tasks) + 1)]


def _joined_reports(folders: Sequence[ShardFolder]) -> Found | None:
    """What the builds reported, in the order of the folders; None where none did."""
    joined = Found(unreadable=[], duplicates=[])
    for folder in folders:
        path = Path(folder.location) / report.FILE
        if not folder.local or not path.is_file():
            continue
        try:
            found = Found.model_validate_json(path.read_bytes())
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise UserError(f"{path} is damaged ({reason}): restore it from a copy, or remove it.") from None
        except OSError as error:
            raise UserError(f"{path} can't be read ({error.strerror}): make it readable.") from None
        joined.unreadable += found.unreadable
        joined.duplicates += found.duplicates
    return joined if joined.unreadable or joined.duplicates else None
