"""Pictures in tables: Parquet files as on the Hugging Face hub, and what `Dataset.save_to_disk` writes.

Pictures are read from the table's bytes alone: a path that stands beside them is never opened. For a picture
in a Parquet file its whole row group is read (`parquet_tables` says how often); the files of `save_to_disk`
are mapped into memory, and read in any order at the same speed.
"""

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cgt.data.sources import Picture, Request, Source
from cgt.data.sources.picture_files import File, files, inside
from cgt.errors import UserError
from cgt.wording import counted

INPUT = "a Parquet file, a folder of such files (train-00000-of-00004.parquet), or a folder of save_to_disk"
SPLITS = ("train", "validation", "test", "all")
SIZE = 128
_SPLIT_OF = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""Words in the names of files and folders, and the split that they tell."""


class Part(NamedTuple):
    """A file of a table."""

    path: Path
    split: str | None
    """None for a name that tells none."""
    features: Any = None
    """What `save_to_disk` wrote down of the columns, as JSON."""


def read(request: Request) -> Source:
    """The rows of a split in the files' order; where no file's name tells its split, all are `train`.

    Classes are a ClassLabel's names, else the different values of the column with the labels, sorted.

    Raises:
        UserError: pyarrow is not installed; no file of the split; a file that can't be read, has no single
            column of pictures or of labels, or has others than the first file; a label that is missing or has
            no class.
    """
    try:
        from cgt.data.sources import parquet_tables
    except ImportError as error:
        raise UserError(
            'the source parquet reads tables by pyarrow: install it with `pip install "cgt[parquet]"`.'
        ) from error
    assert request.path is not None
    parts = _of_split(request.path, list(_parts(request.path)), request.split)
    tables = tuple(map(parquet_tables.table, (part.path for part in parts)))
    columns = [
        parquet_tables.columns(table, part.features) for table, part in zip(tables, parts, strict=True)
    ]
    for part, found in zip(parts, columns, strict=True):
        if found != columns[0]:
            raise UserError(
                f"{part.path} has other columns of pictures and labels, or other classes, than "
                f"{parts[0].path}: give one of the tables that are in {request.path}."
            )
    labels = [parquet_tables.labels(table, columns[0].label) for table in tables]
    names = columns[0].names
    if names is None:
        values = sorted({label for column in labels for label in column})
        classes = tuple(map(str, values))
        class_of = dict(zip(values, classes, strict=True))
    else:
        classes, class_of = names, dict(enumerate(names))

    digest = hashlib.sha256()
    pictures = []
    for number, (table, part, column) in enumerate(zip(tables, parts, labels, strict=True)):
        digest.update(File(part.path.name, table.size, table.changed).mark)
        digest.update(json.dumps([part.split, part.features]).encode())
        for row, label in enumerate(column):
            if label not in class_of:
                raise UserError(
                    f"{part.path}: row {row} has the label {label!r}, and there are only "
                    f"{counted(len(classes), 'class')}: take the row out, or choose another split."
                )
            pictures.append(
                Picture(f"{part.split or 'other'}-{number:05d}-{row}", class_of[label], (number, row))
            )
    if not pictures:
        raise UserError(f"{request.path} has no rows of {request.split}: it is a table without pictures.")
    load = functools.partial(parquet_tables.load, tables, columns[0].picture)
    return Source(classes, pictures, load, digest.hexdigest())


def _parts(path: Path) -> Iterator[Part]:
    """The files of the table at `path`.

    Raises:
        UserError: it is no table, or a part of it is a link that leads elsewhere.
    """
    if path.is_file():
        yield Part(path.resolve(), _split_of(path.name))
        return
    root = path.resolve()
    if (root / "dataset_dict.json").is_file():
        splits = _json(inside(root / "dataset_dict.json", root), "splits")
        if not (isinstance(splits, list) and all(isinstance(name, str) for name in splits)):
            raise _unlike(root / "dataset_dict.json")
        for name in splits:
            yield from _saved(_beside(root / "dataset_dict.json", name, root), root, _split_of(name))
    elif (root / "state.json").is_file():
        split = _json(inside(root / "state.json", root), "_split")
        yield from _saved(root, root, _split_of(split) if isinstance(split, str) else None)
    else:
        for file in files(root, root):
            if file.suffix == ".parquet":
                yield Part(root / file.relative, _split_of(file.relative))


def _of_split(path: Path, parts: list[Part], split: str) -> list[Part]:
    if not parts:
        raise UserError(f"{path} has no tables: the input of parquet is {INPUT}.")
    if all(part.split is None for part in parts):
        parts = [part._replace(split="train") for part in parts]
    chosen = [part for part in parts if split in ("all", part.split)]
    if not chosen:
        known = ", ".join(sorted({part.split for part in parts if part.split is not None}))
        raise UserError(f"{path} has no files of {split}: it has {known}, choose one of these with --split.")
    return chosen


def _saved(folder: Path, root: Path, split: str | None) -> Iterator[Part]:
    """The Arrow files of a folder that `Dataset.save_to_disk` wrote."""
    state = inside(folder / "state.json", root)
    if _json(state, "_indices_data_files"):
        raise UserError(
            f"{folder} holds a selection of another table's rows: save it again, after flatten_indices()."
        )
    entries = _json(state, "_data_files")
    info = inside(folder / "dataset_info.json", root)
    features = _json(info, "features") if info.is_file() else None
    if not isinstance(entries, list):
        raise _unlike(state)
    for entry in entries:
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise _unlike(state)
        yield Part(_beside(state, name, root), split, features)


def _beside(source: Path, name: str, root: Path) -> Path:
    """What the file `source` calls `name`, in its own folder.

    Raises:
        UserError: it is elsewhere, or not there.
    """
    path = source.parent / name
    if path.name != name or not inside(path, root).exists():
        raise UserError(f"{source} names {name!r}, which is not beside it: save the data set again.")
    return path


def _json(path: Path, key: str) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read ({error}): save the data set again.") from error
    if not isinstance(content, dict):
        raise _unlike(path)
    return content.get(key)


def _unlike(path: Path) -> UserError:
    return UserError(f"{path} is not as datasets.Dataset.save_to_disk writes it: save the data set again.")


def _split_of(relative: str) -> str | None:
    """The split that a path's parts tell, the last one first."""
    for name in reversed(relative.split("/")):
        for word in re.split("[^a-z]+", name.lower()):
            if word in _SPLIT_OF:
                return _SPLIT_OF[word]
    return None
