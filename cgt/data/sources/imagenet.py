"""ImageNet (Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015): ILSVRC 2012.

Read as it is published: the tar of train, which holds a tar for each class, and the tar of val, with nothing
unpacked; or as folders, in which each class has a subfolder that is called by its wnid, such as n01440764; or
as Kaggle's archive unpacks. Pictures of val that lie in no subfolders are labelled by Kaggle's list or by the
official devkit: `cgt.data.sources.imagenet_lists` knows these, and what the classes are called.

Classes come in the order of their wnids, the field's 0..999, and can be chosen by them. The tars, and what
they unpack to, give the same pictures by the same keys in the same order.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cgt.data.sources import Picture, Request, Source
from cgt.data.sources.archives import Member, inner_members, load_member, mark, members
from cgt.data.sources.imagenet_lists import NAME_LISTS, WNID, Names, class_names, validation_labels
from cgt.data.sources.picture_files import SUFFIXES, File, Keys, files, inside, open_file, subfolders
from cgt.errors import UserError

INPUT = "the folder of ImageNet, as it is published or unpacked, or the tar of a split"
SPLITS = ("train", "val")
SIZE = 128
LAYOUTS = ("ILSVRC2012_img_{}.tar", "{}", "ILSVRC/Data/CLS-LOC/{}", "Data/CLS-LOC/{}", "CLS-LOC/{}")
"""Where the pictures of a split are, from the folder that is given."""
_CLIMBED = frozenset({"train", "val", "CLS-LOC", "Data", "ILSVRC"})
"""Folders of these names are parts of a layout: the lists may stand above them."""
_VAL = "ILSVRC2012_val_"


class Found(NamedTuple):
    """A picture of a split."""

    file: File
    place: str | Member
    wnid: str


def read(request: Request) -> Source:
    """The pictures of a split, sorted by wnid and name; those that lists label, by name.

    Raises:
        UserError: no pictures of the split; no labels of val; a list that is wrong, or is of other pictures;
            a class that the list of names lacks; a tar that can't be read; or a link that leads elsewhere.
    """
    assert request.path is not None
    given = request.path.resolve()
    path = _pictures(given, request.split)
    homes = _homes(given)
    names = class_names(homes)
    if path.is_dir() and (wnids := _wnids(path)):
        found = _of_tree(path, wnids)
    elif request.split == "train":
        wnids, found = _of_train(path)
    else:
        wnids, found = _of_val(path, homes, names)

    if names is not None:
        for wnid in wnids:
            names.check(wnid, str(path))
    called = {wnid: wnid if names is None else names.names[wnid] for wnid in wnids}
    digest, keys, pictures = hashlib.sha256(), Keys(), []
    for file, place, wnid in found:
        if path.is_dir():
            digest.update(file.mark)
        pictures.append(Picture(keys.key(file.stem, file.relative), called[wnid], place))
    if not pictures:
        raise _nothing(path, request.split)
    if path.is_file():
        digest.update(mark(path))
    return Source(
        classes=tuple(called.values()),
        pictures=pictures,
        load=functools.partial(open_file if path.is_dir() else load_member, path),
        fingerprint=digest.hexdigest(),
        aliases=called,
        remark=f"has no {NAME_LISTS[0]}: classes are called by their wnids." if names is None else None,
    )


def _of_tree(folder: Path, wnids: Sequence[str]) -> Iterator[Found]:
    """Of a subfolder for each class."""
    for wnid in wnids:
        for file in files(folder, folder, wnid):
            if file.suffix in SUFFIXES:
                yield Found(file, file.relative, wnid)


def _of_train(path: Path) -> tuple[list[str], Iterator[Found]]:
    """The wnids, and what is in the tar of a tar for each class."""
    if path.is_dir():
        raise _nothing(path, "train")
    classes: dict[str, list[Member]] = {}
    for name, content in inner_members(path):
        wnid = name.removesuffix(".tar").rpartition("/")[2]
        if not WNID.fullmatch(wnid) or wnid in classes:
            raise UserError(
                f"{path}: {name} should be the tar of a class, of which there is one, called by its wnid as "
                "n01440764.tar is: fetch the archive again."
            )
        classes[wnid] = sorted(content)
    wnids = sorted(classes)
    return wnids, (
        Found(file, member, wnid)
        for wnid in wnids
        for member in classes[wnid]
        if (file := _as_file(member)).suffix in SUFFIXES
    )


def _of_val(path: Path, homes: Sequence[Path], names: Names | None) -> tuple[list[str], Iterator[Found]]:
    """The wnids, and what is in a folder or tar without subfolders, with labels from a list."""
    if path.is_dir():
        entries: list[tuple[File, str | Member]] = [
            (file, file.relative) for file in files(path, path, deep=False)
        ]
    else:
        entries = [(_as_file(member), member) for member in sorted(members(path))]
    entries = [(file, place) for file, place in entries if file.suffix in SUFFIXES]
    if not entries:
        raise _nothing(path, "val")
    labels = validation_labels(homes, names)
    left = dict(labels.labels)
    found = []
    for file, place in entries:
        if (label := left.pop(file.stem, None)) is None:
            raise UserError(
                f"{labels.place} has no label of {file.relative}, which is in {path}: fetch both again."
            )
        found.append(Found(file, place, label.wnid))
    for stem, label in left.items():
        raise UserError(
            f"{labels.place}, line {label.line}: {path} lacks {stem}. It has {len(entries):,} pictures, and "
            f"there are labels of {len(labels.labels):,}: fetch both again."
        )
    return sorted({label.wnid for label in labels.labels.values()}), iter(found)


def _as_file(member: Member) -> File:
    return File(member.name, member.size, 0)


def _pictures(given: Path, split: str) -> Path:
    """The tar or the folder with the pictures of a split; the tar first, as it can't be unpacked in part."""
    if given.is_file():
        return given
    for layout in LAYOUTS:
        if (path := _below(given, layout.format(split))) is not None:
            return path
    for name in _wnids(given) or [""]:
        for file in files(given, given, name, deep=False):
            if file.suffix in SUFFIXES and file.stem.startswith(_VAL) == (split == "val"):
                return given
    raise _nothing(given, split)


def _below(root: Path, relative: str) -> Path | None:
    path = root
    for name in relative.split("/"):
        path = inside(path / name, root)
    return path if path.exists() else None


def _homes(given: Path) -> list[Path]:
    """Where the lists may stand: in the folder that is given, or above it where it is a part of a layout."""
    homes = [given if given.is_dir() else given.parent]
    while homes[-1].name in _CLIMBED:
        homes.append(homes[-1].parent)
    return homes


def _wnids(folder: Path) -> list[str]:
    return [name for name in subfolders(folder, folder) if WNID.fullmatch(name)]


def _nothing(path: Path, split: str) -> UserError:
    places = ", ".join(layout.format(split) for layout in LAYOUTS[:3])
    return UserError(
        f"{path} has no pictures of {split}: give the folder that has {places}, or the tar itself, or the "
        "folder with the pictures, in which each class has a subfolder of its wnid"
        + (f" or the pictures are called {_VAL}00000001.JPEG and so on." if split == "val" else ".")
    )
