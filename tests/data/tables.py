"""Tables of pictures for tests: writing them in all forms, and what should come out of them."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cgt.data import sources
from cgt.data.sources import Source

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

LABELS = [0, 1, 2, 1, 0]


def read(path: Path, split: str | None = None) -> Source:
    return sources.read("parquet", str(path), split=split)[0]


def write(table: Any, path: Path, **options: Any) -> Path:
    pq.write_table(table, path, **options)
    return path


def noted(table: Any, features: object) -> Any:
    """The table with other metadata."""
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def bare(table: Any) -> Any:
    return table.replace_schema_metadata(None)


def save(table: Any, folder: Path, files: int = 1, state: dict[str, object] | None = None) -> Path:
    """What `Dataset.save_to_disk` writes."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    for i, name in enumerate(names):
        rows = table.slice(i * len(table) // files, len(table) // files)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(rows, max_chunksize=2)
    content = {"_data_files": [{"filename": name} for name in names], "_split": None, **(state or {})}
    (folder / "state.json").write_text(json.dumps(content))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    return folder


def class_names(source: Source) -> list[str]:
    return [picture.class_name for picture in source.pictures]


def shown(source: Source) -> list[bytes]:
    return [source.load(picture.place).tobytes() for picture in source.pictures]


def pixels(table: Any) -> list[bytes]:
    """Of the table's pictures, in its order."""
    rows = table.column("image").to_pylist()
    return [Image.open(io.BytesIO(row["bytes"])).tobytes() for row in rows]
