"""Columns and rows of Parquet files, and of Arrow files in the stream format.

A row group of a Parquet file, typically 100 to 1000 pictures, can only be read whole. Each process keeps the
last ones, up to CACHE_BYTES, so that a set of that size is read once, in whatever order. Of a larger set in
shuffled order, a row group is read for most pictures: with 5,000 JPEGs of 130 kB (3 ms to decode one), 8 ms a
picture where a row group has 100, and 60 ms where it has 1000. Its copy by `save_to_disk` is quicker.
"""

import bisect
import functools
import json
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cgt.data.sources.picture_files import open_picture
from cgt.errors import UserError

CACHE_BYTES = 2**28
PICTURES = ("image", "img")
"""Names of the column of pictures, where nothing else tells it."""
LABELS = ("label", "labels", "fine_label")
"""Names of the column of labels; the first that is there is taken."""


class Table(NamedTuple):
    """A file as it is now: what is kept of it is not taken for another of its name."""

    path: str
    size: int
    """Bytes."""
    changed: int
    """Time of the last change, nanoseconds."""

    @property
    def streamed(self) -> bool:
        """Whether it is an Arrow file."""
        return self.path.endswith(".arrow")


class Columns(NamedTuple):
    """Where a table has what is read."""

    picture: str
    label: str
    texts: bool
    """Whether labels are texts; else they are numbers."""
    names: tuple[str, ...] | None
    """The class of each number in `label`, where the table tells."""


def table(path: Path) -> Table:
    """The file at `path`."""
    status = path.stat()
    return Table(str(path), status.st_size, status.st_mtime_ns)


def columns(table: Table, features: Any = None) -> Columns:
    """Which columns hold the pictures and their labels.

    Args:
        features: the columns' features as `datasets` writes them to JSON, for a file that doesn't tell them.

    Raises:
        UserError: the file can't be read; it has no single column of pictures, or none of labels.
    """
    try:
        schema = _arrow(table).schema if table.streamed else pq.read_schema(table.path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(table, error) from error
    path = table.path
    features = _features(path, schema) or features
    features = features if isinstance(features, dict) else {}
    typed = {
        name: feature
        for name, feature in features.items()
        if isinstance(feature, dict) and name in schema.names
    }
    label, texts = _label(path, schema, typed)
    names = typed.get(label, {}).get("names")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(
            f"{path}: the column {label} has the class names {names!r:.100}: they should be texts."
        )
    return Columns(_picture(path, schema, typed), label, texts, None if names is None else tuple(names))


def labels(table: Table, column: str) -> list[int] | list[str]:
    """The column's values.

    Raises:
        UserError: it can't be read, or one is missing.
    """
    try:
        if table.streamed:
            values = _arrow(table).column(column)
            values.validate(full=True)
        else:
            with pq.ParquetFile(table.path) as file:
                values = file.read(columns=[column], use_threads=False).column(column)
        found: list[Any] = values.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(table, error) from error
    if None in found:
        raise UserError(f"{table.path}: row {found.index(None)} has no label: give it one, or take it out.")
    return found


def load(tables: tuple[Table, ...], column: str, place: tuple[int, int]) -> Image.Image:
    """The picture in a row, decoded and upright.

    Args:
        place: the file's position in `tables`, and the row in the file.

    Raises:
        UserError: it can't be read.
    """
    number, row = place
    table = tables[number]
    try:
        if table.streamed:
            content = _mapped_pictures(table, column)[row].as_py()
        else:
            starts = _parquet(table).starts
            group = bisect.bisect_right(starts, row) - 1
            content = _row_groups.get(table, group, column)[row - starts[group]].as_py()
    except MemoryError:  # of pyarrow too, whose errors are otherwise about the file
        raise
    except (pa.ArrowException, OSError, IndexError) as error:
        raise _unreadable(table, error) from error
    if content is None:
        raise UserError(
            f"{table.path}: row {row} can't be read, the table has no bytes of its picture: add them, or "
            "take the row out."
        )
    return open_picture(content, f"{table.path}: row {row}")


class _Parquet(NamedTuple):
    file: Any
    starts: list[int]
    """The first row of each row group."""


class _RowGroups:
    """The pictures' bytes of the row groups that were read last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Table, int, str], Any] = OrderedDict()
        self._bytes = 0

    def get(self, table: Table, group: int, column: str) -> Any:
        key = table, group, column
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        rows = _parquet(table).file.read_row_group(group, columns=[column], use_threads=False)
        pictures = _contents(rows.column(column))
        self._kept[key] = pictures
        self._bytes += pictures.nbytes
        while self._bytes > CACHE_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return pictures


_row_groups = _RowGroups()


@functools.lru_cache(maxsize=512)
def _parquet(table: Table) -> _Parquet:
    file = pq.ParquetFile(table.path)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return _Parquet(file, list(accumulate(sizes, initial=0))[:-1])


@functools.cache
def _arrow(table: Table) -> Any:
    """The rows in a file, which stay there until their values are asked for."""
    with pa.memory_map(table.path) as mapped, pa.ipc.open_stream(mapped) as stream:
        rows = stream.read_all()
    rows.validate()
    return rows


@functools.cache
def _mapped_pictures(table: Table, column: str) -> Any:
    pictures = _contents(_arrow(table).column(column))
    pictures.validate(full=True)  # a wrong offset would lead out of the file
    return pictures


def _contents(pictures: Any) -> Any:
    """The column `bytes` of structures, which is empty where the structure is."""
    if not pa.types.is_struct(pictures.type):
        return pictures
    return pictures.flatten()[pictures.type.get_field_index("bytes")]


def _features(path: str, schema: Any) -> Any:
    """What `datasets` notes of the columns, if it wrote the file."""
    note = (schema.metadata or {}).get(b"huggingface")
    if note is None:
        return None
    try:
        return json.loads(note)["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} has damaged metadata of its columns ({error}): write it again.") from error


def _picture(path: str, schema: Any, features: dict[str, dict[str, Any]]) -> str:
    found = _of_type("Image", schema, features) or [name for name in schema.names if name in PICTURES]
    if not found:
        raise UserError(
            f"{path} has no column of pictures: name one {' or '.join(PICTURES)}. It has: {_listed(schema)}."
        )
    if len(found) > 1:
        raise UserError(
            f"{path} has several columns of pictures, {', '.join(found)}: take out all but one "
            f"(remove_columns({found[1:]}), for example)."
        )
    kind = schema.field(found[0]).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UserError(
            f"{path}: the column {found[0]} holds no picture files but {kind}: write their bytes into it."
        )
    return found[0]


def _label(path: str, schema: Any, features: dict[str, dict[str, Any]]) -> tuple[str, bool]:
    """The column's name, and whether it holds texts."""
    labelled = _of_type("ClassLabel", schema, features)
    candidates = labelled or schema.names
    found = next(([name] * candidates.count(name) for name in LABELS if name in candidates), labelled)
    if not found:
        raise UserError(
            f"{path} has no column of labels: name one {' or '.join(LABELS)}. It has: {_listed(schema)}."
        )
    if len(found) > 1:
        raise UserError(
            f"{path} has several columns of labels, {', '.join(found)}: take out all but one, or name it "
            f"{LABELS[0]}."
        )
    kind = schema.field(found[0]).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (texts or pa.types.is_integer(kind)):
        raise UserError(
            f"{path}: the column {found[0]} holds {kind}, and labels are whole numbers or texts: change them."
        )
    return found[0], texts


def _of_type(kind: str, schema: Any, features: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name in schema.names if features.get(name, {}).get("_type") == kind]


def _listed(schema: Any) -> str:
    return ", ".join(schema.names[:20])


def _unreadable(table: Table, error: Exception) -> UserError:
    return UserError(
        f"{table.path} can't be read as a table, it is damaged or of another kind ({error}): fetch it again."
    )
