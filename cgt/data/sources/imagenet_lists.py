"""What ImageNet's lists say: the names of the classes, and which class each validation picture is of.

Where several stand, the first of `NAME_LISTS` gives the names, and Kaggle's list goes before the devkit.
"""

import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cgt.data.sources.archives import members_of
from cgt.data.sources.picture_files import inside, reading
from cgt.errors import UserError
from cgt.models.naming import distinct

WNID = re.compile("n[0-9]{8}")
WORDNET = "words.txt"
"""Has the 82,000 nouns of WordNet; the other lists have the 1000 classes."""
NAME_LISTS = ("LOC_synset_mapping.txt", "synset_words.txt", WORDNET)
SOLUTION = "LOC_val_solution.csv"
DEVKIT = "ILSVRC2012_devkit_t12"
LARGEST_DEVKIT = 2**26
"""Bytes, unpacked, of which the true one has far fewer: a small file can unpack to what fills the memory."""
META = "meta.mat"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_NAMED = re.compile(rf"({WNID.pattern})[ \t]+(\S.*)")
_SOLVED = re.compile(rf"(ILSVRC2012_val_[0-9]{{8}}),({WNID.pattern})(?: .*)?")


@dataclass(frozen=True)
class Names:
    """What the classes are called, by their wnids."""

    place: str
    """The file that says so, for messages."""
    names: Mapping[str, str]

    def check(self, wnid: str, where: str) -> None:
        """Raises: UserError: no class has this wnid, which stands in `where`."""
        if wnid not in self.names:
            raise UserError(
                f"{where}: {self.place} has no class {wnid}: fetch both again, or take out what is wrong."
            )


class Label(NamedTuple):
    """Which class a validation picture is of."""

    wnid: str
    line: int
    """Of the list, from 1."""


@dataclass(frozen=True)
class Labels:
    """The classes of the validation pictures, by the pictures' file names without suffix."""

    place: str
    labels: Mapping[str, Label]


class _File(NamedTuple):
    place: str
    """For messages."""
    content: bytes


def class_names(folders: Sequence[Path]) -> Names | None:
    """The names in the first list in `folders` (resolved); None without one.

    A class has its list's first word for it ("tench, Tinca tinca": `tench`). Of words that several classes of
    the list share, whatever the case (there are two cranes), each has its wnid behind: `crane-n02012849`.
    Names so depend on nothing but the lists, and are the same for every split and every choice of classes.

    Of WordNet's list, what Kaggle's list of labels or the devkit knows as classes is only held against each
    other. Without these it is held against all nouns: the folders that are there may be some classes only,
    and other ones in each split.

    Raises:
        UserError: a line is malformed, stands twice, or has a name that won't do; or SciPy is needed and
            missing.
    """
    for name in NAME_LISTS:
        if (file := _found(folders, name)) is not None:
            words = _first_words(file)
            names = _distinct(words)
            if name == WORDNET:
                classes = _classes(folders)
                names |= _distinct({wnid: word for wnid, word in words.items() if wnid in classes})
            return Names(file.place, names)
    if (meta := _devkit_file(folders, META)) is not None:
        return Names(meta.place, _distinct(dict(_meta(meta).values())))
    return None


def validation_labels(folders: Sequence[Path], names: Names | None) -> Labels:
    """The labels in the first list in `folders` (resolved).

    Raises:
        UserError: there is none; a line is malformed, stands twice, or is of an unknown class; or SciPy is
            needed and missing.
    """
    if (solution := _found(folders, SOLUTION)) is not None:
        labels = _solved(solution)
        place = solution.place
    else:
        truth, meta = (_devkit_file(folders, name) for name in (GROUND_TRUTH, META))
        if truth is None or meta is None:
            raise UserError(
                f"{folders[0]} has nothing that says of which classes the validation pictures are: put "
                f"Kaggle's {SOLUTION} or the official {DEVKIT}.tar.gz there."
            )
        labels = _numbered(truth, meta)
        place = truth.place
    if names is not None:
        for label in labels.values():
            names.check(label.wnid, f"{place}, line {label.line}")
    return Labels(place, labels)


def _classes(folders: Sequence[Path]) -> set[str]:
    """The wnids of all classes, as far as a list tells them that is there for the labels."""
    if (solution := _found(folders, SOLUTION)) is not None:
        return {label.wnid for label in _solved(solution).values()}
    if (meta := _devkit_file(folders, META)) is not None:
        return {wnid for wnid, _ in _meta(meta).values()}
    return set()


def _first_words(file: _File) -> dict[str, str]:
    names: dict[str, str] = {}
    for n, line in _lines(file):
        match = _NAMED.fullmatch(line)
        if match is None:
            raise _malformed(file, n, line, "n01440764 tench, Tinca tinca")
        wnid, words = match.groups()
        name = words.split(",")[0].strip()
        try:
            distinct([name])
        except ValueError as error:
            raise UserError(f"{file.place}, line {n}: {error}.") from None
        if wnid in names:
            raise UserError(
                f"{file.place}, line {n}: {wnid} is on an earlier line too: fetch the file again."
            )
        names[wnid] = name
    return names


def _distinct(names: Mapping[str, str]) -> dict[str, str]:
    times = Counter(name.casefold() for name in names.values())
    return {wnid: name if times[name.casefold()] == 1 else f"{name}-{wnid}" for wnid, name in names.items()}


def _solved(file: _File) -> dict[str, Label]:
    labels: dict[str, Label] = {}
    for n, line in _lines(file):
        if n == 1 and line == "ImageId,PredictionString":
            continue
        match = _SOLVED.fullmatch(line)
        if match is None:
            raise _malformed(file, n, line, "ILSVRC2012_val_00048981,n03995372 85 1 499 272")
        picture, wnid = match.groups()
        if picture in labels:
            raise UserError(
                f"{file.place}, line {n}: {picture} is on line {labels[picture].line} too: fetch the file "
                "again."
            )
        labels[picture] = Label(wnid, n)
    return labels


def _numbered(truth: _File, meta: _File) -> dict[str, Label]:
    classes = _meta(meta)
    labels = {}
    for n, line in _lines(truth):
        if not re.fullmatch("[0-9]{1,9}", line):
            raise _malformed(truth, n, line, "490")
        if int(line) not in classes:
            raise UserError(
                f"{truth.place}, line {n}: {meta.place} has no class of the number {line}: fetch the devkit "
                "again."
            )
        labels[f"ILSVRC2012_val_{n:08d}"] = Label(classes[int(line)][0], n)
    return labels


def _meta(file: _File) -> dict[int, tuple[str, str]]:
    """(wnid, first word) of each class by its number in the ground truth: not the order of the wnids."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError(
            f'{file.place} is read with SciPy: install it with `pip install "cgt[imagenet]"`, or put '
            f"Kaggle's {SOLUTION} and {NAME_LISTS[0]} into the folder, which are read without."
        ) from error
    try:
        synsets: Any = loadmat(io.BytesIO(file.content), squeeze_me=True)["synsets"]
        classes = {
            int(synset["ILSVRC2012_ID"]): (synset["WNID"], synset["words"].split(",")[0].strip())
            for synset in synsets.reshape(-1)
            if synset["num_children"] == 0  # others are not classes, but what classes are kinds of
        }
        distinct([wnid for wnid, _ in classes.values()])
        for wnid, name in classes.values():
            if not WNID.fullmatch(wnid):
                raise ValueError(f"{wnid!r} is no wnid")
            distinct([name])
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{file.place} is not the {META} of ImageNet ({error}): fetch it again.") from error
    return classes


def _lines(file: _File) -> Iterator[tuple[int, str]]:
    """The lines that hold anything, with their numbers; what is not UTF-8 is shown as the sign for it."""
    for n, line in enumerate(file.content.decode(errors="replace").removeprefix("\ufeff").split("\n"), 1):
        if text := line.strip():
            yield n, text


def _malformed(file: _File, n: int, line: str, example: str) -> UserError:
    return UserError(
        f"{file.place}, line {n}: {line[:100]!r} should be like {example!r}: fetch the file again."
    )


def _found(folders: Sequence[Path], name: str) -> _File | None:
    for folder in folders:
        path = inside(folder / name, folder)
        if path.is_file():
            with reading(path) as file:
                return _File(str(path), file.read())
    return None


def _devkit_file(folders: Sequence[Path], name: str) -> _File | None:
    """Of the devkit, unpacked or not."""
    below = [folder / below for below in ("", "data", f"{DEVKIT}/data") for folder in folders]
    if (file := _found(below, name)) is not None:
        return file
    for folder in folders:
        path = inside(folder / f"{DEVKIT}.tar.gz", folder)
        if path.is_file():
            return _File(f"{path}: {name}", _unpacked(path, f"{DEVKIT}/data/{name}"))
    return None


def _unpacked(path: Path, name: str) -> bytes:
    with reading(path) as file:
        try:
            content = gzip.GzipFile(fileobj=file).read(LARGEST_DEVKIT + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{path} can't be read ({error}): fetch it again.") from error
    if len(content) > LARGEST_DEVKIT:
        raise UserError(
            f"{path} unpacks to more than {LARGEST_DEVKIT:,} bytes, it is another archive: fetch it again."
        )
    for member in members_of(io.BytesIO(content), str(path)):
        if member.name == name:
            return content[member.offset : member.offset + member.size]
    raise UserError(f"{path} has no {name}, it is another archive: fetch it again.")
