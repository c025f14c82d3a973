"""The contact sheet shows the first pictures of each class, and reads no more than these."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgt.data import sheet
from cgt.data.manifest import ShardFolder, open_shards
from cgt.data.merge import merge_shards
from cgt.data.pictures import DataConfig, open_pictures
from cgt.data.sheet import write_sheet
from tests.data.miniatures import build_folder


def cells(path: Path, rows: int, columns: int, size: int) -> list[list[np.ndarray]]:
    """The pictures of a sheet, row by row; labels lie to their left."""
    pixels = np.asarray(Image.open(path))
    left = pixels.shape[1] - columns * (size + 2) - 2
    return [
        [
            pixels[2 + row * (size + 2) :, left + 2 + column * (size + 2) :][:size, :size]
            for column in range(columns)
        ]
        for row in range(rows)
    ]


def first_pictures(folder: ShardFolder, name: str, count: int) -> list[np.ndarray]:
    """The first pictures of a class, (R, R, 3)."""
    pictures = open_pictures(DataConfig(shards=folder.location, classes=(name,), per_class=count))
    (x_N3RR, _), *_ = pictures.once(count)
    return [x_3RR.permute(1, 2, 0).numpy() for x_3RR in x_N3RR]


def test_shows_the_first_pictures_of_each_class_enlarged(tmp_path: Path) -> None:
    folder = build_folder(tmp_path, {"cat": 7, "dog": 5, "owl": 2})
    assert write_sheet(folder, tmp_path / "sheet.png", 4) == 3
    rows = cells(tmp_path / "sheet.png", 3, 4, 64)
    for name, row in zip(("cat", "dog", "owl"), rows, strict=True):
        expected = first_pictures(folder, name, 4)
        for cell, picture in zip(row, expected, strict=False):
            assert np.array_equal(cell[::8, ::8], picture)
            assert np.array_equal(cell[7::8, 7::8], picture)
        assert all((cell == 255).all() for cell in row[len(expected) :])
    assert len(expected) == 2


def test_large_pictures_are_reduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "SMALLEST", 4)
    monkeypatch.setattr(sheet, "LARGEST", 4)
    folder = build_folder(tmp_path, {"cat": 1, "dog": 1})
    write_sheet(folder, tmp_path / "sheet.png", 2)
    ((cell,), _) = cells(tmp_path / "sheet.png", 2, 1, 4)
    (picture,) = first_pictures(folder, "cat", 1)
    means = picture.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    assert np.abs(cell - means).max() <= 1


def test_only_the_first_of_many_classes_and_no_shard_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [build_folder(tmp_path / name, {name: 6}).location for name in ("ant", "bee", "cat")]
    merge_shards(folders, tmp_path / "all")
    folder = open_shards(str(tmp_path / "all"))
    second_bee = first_pictures(folder, "bee", 2)[1]
    needed = {folder.manifest.shards[0].file}
    needed |= {next(shard.file for shard in folder.manifest.shards if "bee" in shard.counts)}
    for shard in folder.manifest.shards:
        if shard.file not in needed:
            Path(folder.place(shard)).unlink()
    monkeypatch.setattr(sheet, "ROWS", 2)
    assert write_sheet(folder, tmp_path / "sheet.png", 2) == 2
    rows = cells(tmp_path / "sheet.png", 2, 2, 64)
    assert np.array_equal(rows[1][1][::8, ::8], second_bee)
