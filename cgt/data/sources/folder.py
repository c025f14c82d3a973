"""One's own pictures: a folder with one subfolder a class, which may have subfolders in turn."""

import functools
import hashlib
from collections import Counter
from pathlib import Path

from cgt.data.sources import Picture, Request, Source
from cgt.data.sources.picture_files import SUFFIXES, files, long_key, open_file, subfolders
from cgt.errors import UserError
from cgt.wording import counted

INPUT = "a folder with one subfolder of pictures (png, jpg, webp, bmp) for each class"
SPLITS = ("all",)
SIZE = 128


def read(request: Request) -> Source:
    """Every picture file of every class, sorted.

    Hidden files are passed over, and so are those of other suffixes, which the remark counts. A wrong
    suffix does no harm: the content tells how a picture is decoded.

    Raises:
        UserError: the input is no folder or has no subfolders, or a link in it leads elsewhere.
    """
    assert request.path is not None
    if not request.path.is_dir():
        raise UserError(f"{request.path} is not a folder: the input of folder is {INPUT}.")
    root = request.path.resolve()
    classes = subfolders(root, root)
    if not classes:
        raise UserError(f"{request.path} has no subfolders: the input of folder is {INPUT}.")
    return of_classes(root, classes)


def of_classes(root: Path, classes: list[str]) -> Source:
    """The picture files of some subfolders of `root` (resolved), in the order given: each is a class.

    Raises:
        UserError: a link leads elsewhere.
    """
    fingerprint = hashlib.sha256()
    pictures = []
    others: Counter[str] = Counter()
    for name in classes:
        for file in files(root, root, name):
            if file.suffix not in SUFFIXES:
                others[file.suffix or "without a suffix"] += 1
                continue
            fingerprint.update(file.mark)
            pictures.append(Picture(long_key(file.relative), name, file.relative))
    load = functools.partial(open_file, root)
    return Source(tuple(classes), pictures, load, fingerprint.hexdigest(), remark=_passed_over(others))


def _passed_over(others: Counter[str]) -> str | None:
    if not others:
        return None
    listed = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(others.items()))
    files = counted(others.total(), "file")
    return f"passed over {files} of other kinds than {', '.join(sorted(SUFFIXES))}: {listed}."
