"""Pictures a second of each part of reading, in one process, and of building with several; ratios in one run.

    python tools/bench/data.py [--pictures N] [--build N] [--folder DIR]

The pictures are noise of all frequencies, as photographs have. Rows are timed in turns, so that a busy
machine slows them all; each counts with its best turn. With `simplejpeg` installed, JPEG is decoded by it.
In its first epoch a stream looks through each shard once.
"""

import argparse
import gc
import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image
from rich.console import Console
from rich.table import Table

from cgt import rng
from cgt.data import DataConfig, open_pictures
from cgt.data.fetch import ShardStore
from cgt.data.manifest import ShardFolder, open_shards
from cgt.data.reader import Segment, ShardReader
from cgt.data.samples import open_shard, read_samples
from cgt.data.selection import Selection
from cgt.data.write import BuildOptions, build_shards

BATCH = 64
CLASSES = 10


def write_folder(root: Path, count: int, size: int, suffix: str) -> Path:
    """A folder of pictures, `size` x `size`, in subfolders of classes."""
    draws = np.random.default_rng(0)
    for label in range(CLASSES):
        (root / f"class{label}").mkdir(parents=True)
    for i in range(count):
        pixels = np.zeros((size, size, 3))
        for cells in (2, 8, 32):
            noise = draws.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
            pixels += (
                np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)) / cells
            )
        image = Image.fromarray((pixels * (255 / pixels.max())).astype(np.uint8))
        image.save(root / f"class{i % CLASSES}" / f"{i}.{suffix}", quality=90)
    return root


class PicturesFolder(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Picture files opened one by one with Pillow: what a loader without shards does."""

    def __init__(self, root: Path) -> None:
        self.files = sorted(root.glob("*/*"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.files[index]) as image:
            x_RR3 = torch.from_numpy(np.array(image.convert("RGB")))
        return x_RR3.permute(2, 0, 1).contiguous(), int(self.files[index].parent.name[-1])


def consumed(items: Iterable[object]) -> None:
    """Take everything that an iterable has."""
    for _ in items:
        pass


def readers(folder: ShardFolder, files: Path) -> dict[str, Callable[[], None]]:
    """For each row, what reads the whole set once."""
    shards = [Path(folder.place(shard)) for shard in folder.manifest.shards]
    selection = Selection(folder.manifest, folder.manifest.classes)
    reader = ShardReader(folder, selection, ShardStore(folder.location), lenient=False)
    entries = list(
        reader.entries(Segment(shard, 0, np.ones(shard.samples, bool)) for shard in folder.manifest.shards)
    )
    shuffled = rng.permutation(len(entries), 0, "bench").tolist()
    streamed, resident = (
        open_pictures(DataConfig(shards=folder.location, reader=kind, workers=0))
        for kind in ("stream", "resident")
    )

    def iterate() -> None:
        for shard in folder.manifest.shards:
            with open_shard(folder, shard) as stream:
                consumed(read_samples(folder, shard, stream))

    def decode() -> None:
        """Batches of what is in memory, in an order like an epoch's: memory is slower than the caches."""
        for start in range(0, len(entries), BATCH):
            batch = [entries[i] for i in shuffled[start : start + BATCH]]
            reader.decoded(batch, [False] * len(batch))

    def one_epoch(batches: Iterator[object]) -> Callable[[], None]:
        return lambda: consumed(itertools.islice(batches, len(entries) // BATCH))

    loader = torch.utils.data.DataLoader(PicturesFolder(files), BATCH, shuffle=True)
    return {
        "tar iteration, webdataset": lambda: consumed(
            webdataset.WebDataset([str(path) for path in shards], shardshuffle=False)
        ),
        "tar iteration": iterate,
        "decode": decode,
        "stream, first epoch": lambda: one_epoch(streamed.batches(BATCH, seed=0))(),
        "stream": one_epoch(streamed.batches(BATCH, seed=0)),
        "resident": one_epoch(resident.batches(BATCH, seed=0)),
        "folder of files": lambda: consumed(loader),
    }


def rates(rows: dict[str, Callable[[], None]], pictures: int, turns: int) -> dict[str, float]:
    """Pictures a second for each row, in its best turn."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(turns):
        for name, run in rows.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: pictures / min(taken) for name, taken in times.items()}


def reading(root: Path, count: int, turns: int) -> Table:
    """The table of reading."""
    table = Table("reading, pictures/s in one process", "32 px PNG", "128 px JPEG")
    columns = []
    for size, suffix, quality in ((32, "png", None), (128, "jpg", 90)):
        files = write_folder(root / suffix, count, size, suffix)
        build_shards(
            BuildOptions("folder", size=size, jpeg_quality=quality, shard_mb=2),
            str(files),
            root / f"{suffix}-shards",
            workers=2,
        )
        folder = open_shards(str(root / f"{suffix}-shards"))
        columns.append(rates(readers(folder, files), count, turns))
    for name in columns[0]:
        table.add_row(name, *(f"{column[name]:,.0f}" for column in columns))
    table.add_section()
    for name, ratio in (
        ("stream / min(tar iteration, decode)", lambda c: c["stream"] / min(c["tar iteration"], c["decode"])),
        ("resident / folder of files", lambda c: c["resident"] / c["folder of files"]),
        ("stream / folder of files", lambda c: c["stream"] / c["folder of files"]),
    ):
        table.add_row(name, *(f"{ratio(column):.2f}" for column in columns))
    return table


def building(root: Path, count: int, turns: int) -> Table:
    """The table of building: the same folder, with 1 and 2 workers in turns."""
    files = write_folder(root / "build", count, 160, "jpg")
    options = BuildOptions("folder", size=64)

    def build(workers: int) -> Callable[[], None]:
        return lambda: consumed(
            [build_shards(options, str(files), root / "built", workers=workers, overwrite=True)]
        )

    found = rates({f"{workers} workers": build(workers) for workers in (1, 2)}, count, turns)
    one, two = found.values()
    table = Table(f"building from {count:,} files", "pictures/s", "times 1 worker")
    table.add_row("1 worker", f"{one:,.0f}", "1.00")
    table.add_row("2 workers", f"{two:,.0f}", f"{two / one:.2f}")
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=5000, help="to read")
    parser.add_argument("--build", type=int, default=20000, help="files to build from; 0: don't")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", help="where to write, in place of the system's temporary folder")
    words = parser.parse_args()
    torch.set_num_threads(1)
    gc.freeze()  # as workers do
    with tempfile.TemporaryDirectory(dir=words.folder) as root:
        Console().print(reading(Path(root), words.pictures, words.turns))
        if words.build:
            Console().print(building(Path(root), words.build, max(1, words.turns - 1)))


if __name__ == "__main__":
    main()
