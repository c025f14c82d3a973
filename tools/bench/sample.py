"""Pictures a second of `cgt sample`: with several writer threads, one, and one by one; ratios in one run.

    python tools/bench/sample.py [--pictures N] [--turns N] [--threads N] [--folder DIR]

"One by one" makes, encodes and writes a picture at a time, each put on the disk by itself. Rows are timed in
turns, so that a busy machine slows them all; each counts with its best turn. The generator is one of random
weights, of the demo's shape at 32 px and wider at 64 px.
"""

import argparse
import contextlib
import io
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cgt.cli.sample_outputs import Order, write_folder, write_shards
from cgt.files import write_bytes
from cgt.images import encode_png
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.folder import load_generator, save_model
from cgt.models.mixes import Mix
from cgt.wording import counted

SHAPES = {
    32: GeneratorConfig(channels=(64, 48, 32, 16), dim_z=64),
    64: GeneratorConfig(channels=(128, 96, 64, 48, 32), dim_z=64),
}
CLASSES = ("a", "b", "c", "d")


def order_of(root: Path, resolution: int, pictures: int) -> Order:
    """Pictures of a random generator's classes."""
    folder = root / "model"
    save_model(folder, Generator(SHAPES[resolution], resolution, CLASSES).eval(), provenance={})
    mixes = tuple(map(Mix.of, CLASSES))
    return Order(folder, load_generator(folder), mixes, pictures // len(CLASSES), 0, None, 64)


def one_by_one(out: Path, order: Order, pictures: int) -> None:
    """What a loop over single pictures does; so few of them that it does not take all day."""
    wanted = [(mix, number) for mix in order.mixes for number in range(order.per_class)][:pictures]
    for i, one in enumerate(wanted):
        (x_3RR,) = order.own([one])
        write_bytes(out / f"{i}.png", encode_png(x_3RR))


def measure(rows: dict[str, tuple[Callable[[Path], None], int]], root: Path, turns: int) -> dict[str, float]:
    """Pictures a second for each row, in its best turn."""
    rates = dict.fromkeys(rows, 0.0)
    for _, (name, (write, pictures)) in itertools.product(range(turns), rows.items()):
        out = root / "out"
        start = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):
            write(out)
        rates[name] = max(rates[name], pictures / (time.perf_counter() - start))
        shutil.rmtree(out)
    return rates


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", help="where to write, in place of the system's temporary folder")
    words = parser.parse_args()
    table = Table("pictures/s (times one by one)", *(f"{size} px" for size in SHAPES))
    columns = []
    for resolution in SHAPES:
        with tempfile.TemporaryDirectory(dir=words.folder) as folder:
            root = Path(folder)
            order = order_of(root, resolution, words.pictures)
            few = order.total // 8
            rows: dict[str, tuple[Callable[[Path], None], int]] = {
                "one by one": (lambda out: one_by_one(out, order, few), few)  # noqa: B023 - called at once
            }
            for threads in dict.fromkeys((1, words.threads)):
                name = counted(threads, "thread")

                def folder_by(out: Path, threads: int = threads, order: Order = order) -> None:
                    write_folder(out, order, None, threads)

                def shards_by(out: Path, threads: int = threads, order: Order = order) -> None:
                    write_shards(out, order, None, threads, overwrite=False)

                rows[f"folder, {name}"] = folder_by, order.total
                rows[f"shards, {name}"] = shards_by, order.total
            columns.append(measure(rows, root, words.turns))
    for name in columns[0]:
        table.add_row(
            name, *(f"{column[name]:,.0f} ({column[name] / column['one by one']:.2f})" for column in columns)
        )
    Console().print(table)


if __name__ == "__main__":
    main()
