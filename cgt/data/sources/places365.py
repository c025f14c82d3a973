"""Places365 (Zhou et al., "Places: A 10 million Image Database for Scene Recognition", PAMI 2018): scenes.

Read as it is published: lists say of which category each picture is, and the pictures lie in folders, as the
tars unpack or as torchvision renames these, or still in the tars. torchvision's `train-standard`,
`train-challenge` and `val` are `standard`, `challenge` and `val` here, and with its `small=True` they end in
`-small`. The "easy format", a folder for each category, is an input of the source `folder`.

A class has its category's official name without the letter: `/a/arena/hockey` is `arena/hockey`. A picture
that is listed but not there is noticed when it is loaded: to look for millions of files would take too long,
and who needs five categories may have unpacked no others.
"""

import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cgt.data.sources import Picture, Request, Source
from cgt.data.sources.archives import Member, load_member, mark, members
from cgt.data.sources.picture_files import SUFFIXES, Keys, files, inside, open_file, reading
from cgt.errors import UserError

INPUT = "the folder with the lists of Places365 and its pictures, in folders or uncompressed tars"
SIZE = 128
CATEGORIES = "categories_places365.txt"
LIST_FOLDERS = ("", "filelist_places365-standard", "filelist_places365-challenge")
"""Where the lists may stand: in the input itself, or in what their tars unpack to."""


@dataclass(frozen=True)
class Layout:
    """What the parts of a split are called."""

    listing: str
    folder: str
    """Where torchvision unpacks the pictures,"""
    archive: str
    """the tar that they come in,"""
    inner: str
    """and the folder in that, which those of two splits share."""
    tree: bool = True
    """Whether the folders tell the categories."""


_STANDARD, _CHALLENGE, _VAL = (
    f"places365_{name}.txt" for name in ("train_standard", "train_challenge", "val")
)
LAYOUTS = {
    "standard": Layout(_STANDARD, "data_large_standard", "train_large_places365standard.tar", "data_large"),
    "challenge": Layout(
        _CHALLENGE, "data_large_challenge", "train_large_places365challenge.tar", "data_large"
    ),
    "val": Layout(_VAL, "val_large", "val_large.tar", "val_large", tree=False),
    "standard-small": Layout(_STANDARD, "data_256_standard", "train_256_places365standard.tar", "data_256"),
    "challenge-small": Layout(
        _CHALLENGE, "data_256_challenge", "train_256_places365challenge.tar", "data_256"
    ),
    "val-small": Layout(_VAL, "val_256", "val_256.tar", "val_256", tree=False),
}
SPLITS = tuple(LAYOUTS)
_LINE = re.compile(r"/*([^/\0\s][^\0\s]*) ([0-9]+)")


def read(request: Request) -> Source:
    """The pictures in the list's order; without the lists, those of each category's folder, sorted.

    Raises:
        UserError: no pictures of the split; lists that are missing where folders don't tell the categories; a
            line of a list that is malformed, stands twice, leads elsewhere or has a number of no category; a
            tar that can't be read; or a link that leads elsewhere.
    """
    assert request.path is not None
    if not request.path.is_dir():
        raise UserError(f"{request.path} is not a folder: the input of places365 is {INPUT}.")
    root = request.path.resolve()
    layout = LAYOUTS[request.split]
    path = _pictures(root, layout, request.split)
    found = {name: _list(root, name) for name in (layout.listing, CATEGORIES)}
    listing, categories = found.values()
    if listing is not None and categories is not None:
        return _of_lists(path, layout, listing, categories)
    missing = " and no ".join(name for name, file in found.items() if file is None)
    if not layout.tree:
        raise UserError(
            f"{request.path} has no {missing}, where the categories of {request.split} stand: unpack the "
            "official site's filelist_places365-standard.tar into it."
        )
    return _of_tree(path, layout, f"has no {missing}: took all that lies in the folders of categories.")


def _of_lists(path: Path, layout: Layout, listing: Path, categories: Path) -> Source:
    digest = hashlib.sha256()
    names: dict[str, str] = {}
    taken, officials = set[str](), set[str]()
    for n, official, number in _lines(categories, "/a/airfield 0", digest.update):
        name = _class_name(official)
        if number in names or name in taken:
            raise UserError(
                f"{categories}, line {n}: {name} or {number} is on an earlier line too: fetch the file again."
            )
        names[number] = name
        taken.add(name)
        officials.add(official)

    index = None if path.is_dir() else _index(path, layout)
    pictures, keys = [], Keys()
    seen, folders = set[str](), set[str]()
    for n, relative, number in _lines(listing, "/a/airfield/00000001.jpg 0", digest.update):
        if number not in names:
            raise UserError(
                f"{listing}, line {n}: {categories} has no category {number}: fetch both files again."
            )
        if relative in seen:
            raise UserError(f"{listing}, line {n}: {relative} is listed twice: fetch the file again.")
        seen.add(relative)
        place = relative if index is None else index.get(relative, relative)
        pictures.append(Picture(_key(keys, relative), names[number], place))
        folders.add(relative.rpartition("/")[0])
    if not pictures:
        raise UserError(f"{listing} lists no picture: fetch it again.")
    digest.update(_times(path, folders) if index is None else mark(path))
    classes = tuple(names[number] for number in sorted(names, key=int))
    return _source(path, classes, pictures, officials, digest.hexdigest())


def _of_tree(path: Path, layout: Layout, remark: str) -> Source:
    digest = hashlib.sha256()
    found: dict[str, Any] = {}
    if path.is_dir():
        for file in files(path, path):
            digest.update(file.mark)
            found[file.relative] = file.relative
    else:
        digest.update(mark(path))
        found = dict(sorted(_index(path, layout).items()))
    pictures, keys, officials = [], Keys(), set()
    for relative, place in found.items():
        official = relative.rpartition("/")[0]
        if official and os.path.splitext(relative)[1].lower() in SUFFIXES:  # noqa: PTH122 - files are many
            officials.add(official)
            pictures.append(Picture(_key(keys, relative), _class_name(official), place))
    if not pictures:
        raise UserError(f"{path} has no picture in a category's folder, such as a/airfield: unpack it again.")
    classes = tuple(dict.fromkeys(map(_class_name, sorted(officials))))
    return _source(path, classes, pictures, officials, digest.hexdigest(), remark)


def _source(
    path: Path,
    classes: tuple[str, ...],
    pictures: list[Picture],
    officials: set[str],
    fingerprint: str,
    remark: str | None = None,
) -> Source:
    load = functools.partial(_load_file if path.is_dir() else _load_member, path)
    aliases = {f"/{official}": _class_name(official) for official in officials}
    return Source(classes, pictures, load, fingerprint, aliases, remark)


def _load_file(folder: Path, relative: str) -> Image.Image:
    real = os.path.realpath(folder / relative)
    if not real.startswith(f"{folder}{os.sep}"):
        raise UserError(
            f"{folder / relative} can't be read, it is a link to {real}: put a copy in its place."
        )
    return open_file(folder, relative)


def _load_member(archive: Path, place: Member | str) -> Image.Image:
    if isinstance(place, str):
        raise UserError(f"{archive}: {place} can't be read, it is listed and not there: fetch both again.")
    return load_member(archive, place)


def _pictures(root: Path, layout: Layout, split: str) -> Path:
    """The folder or the tar with the pictures of a split; `inner` last, as it may be another split's."""
    for name in (layout.folder, layout.archive, layout.inner):
        path = inside(root / name, root)
        if path.is_file() if name == layout.archive else path.is_dir():
            return path
    names = ", ".join(dict.fromkeys([f"{layout.folder}/", layout.archive, f"{layout.inner}/"]))
    raise UserError(
        f"{root} has no pictures of {split}, none of {names}: choose another split, or fetch them from the "
        "official site. (Of the easy format, give places365_standard/train to the source folder.)"
    )


def _list(root: Path, name: str) -> Path | None:
    paths = (inside(inside(root / folder, root) / name, root) for folder in LIST_FOLDERS)
    return next((path for path in paths if path.is_file()), None)


def _lines(path: Path, example: str, update: Callable[[bytes], None]) -> Iterator[tuple[int, str, str]]:
    """Of each line: its number, its path without a slash in front, and the number of its category.

    Args:
        example: a line as it should be, for messages.
        update: a digest's, to which all is given.

    Raises:
        UserError: the file can't be read, a line is malformed, or its path leads elsewhere.
    """
    with reading(path) as file:
        for n, line in enumerate(file, 1):
            update(line)
            text = line.decode(errors="replace").strip().removeprefix("\ufeff")
            if not text:
                continue
            match = _LINE.fullmatch(text)
            if match is None or "\ufffd" in text:
                raise UserError(
                    f"{path}, line {n}: {text[:100]!r} should be a path, a space and a number of a category, "
                    f"as in {example!r}: fetch the file again."
                )
            relative, number = match.groups()
            if ".." in relative.split("/"):
                raise UserError(
                    f"{path}, line {n}: {text[:100]!r} leads out of the folder: fetch the file again."
                )
            yield n, relative, number


def _index(archive: Path, layout: Layout) -> dict[str, Member]:
    """The members of a tar, by their paths as the lists have them."""
    index = {}
    for member in members(archive):
        first, _, rest = member.name.partition("/")
        index[rest if first in (layout.inner, layout.folder) else member.name] = member
    return index


def _times(root: Path, folders: set[str]) -> bytes:
    """When files last came into the folders or went: quicker to tell than each file's own time."""
    times = []
    for folder in sorted(folders):
        try:
            changed = (root / folder).stat().st_mtime_ns
        except OSError:  # its pictures are missed when they are loaded
            changed = None
        times.append(f"{folder}\n{changed}\n")
    return os.fsencode("".join(times))


def _class_name(official: str) -> str:
    """The official name without the letter in front."""
    first, _, rest = official.partition("/")
    return rest if len(first) == 1 and rest else official


def _key(keys: Keys, relative: str) -> str:
    return keys.key(_class_name(os.path.splitext(relative)[0]), relative)  # noqa: PTH122 - Path is slow
