"""What `cgt sample` writes: a grid, a film, a folder of single pictures, or shards."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgt.data.generated import Wanted, write_generated
from cgt.data.loose import SAMPLES as RECORD
from cgt.errors import UserError
from cgt.files import FolderKind, replacing_folder, sha256, write_json
from cgt.images import encode, save_film, save_grid, to_pil
from cgt.models.biggan import Generator
from cgt.models.films import frames_of
from cgt.models.mixes import Mix
from cgt.models.sampling import grid_zoom, own_latents, pictures_of, shared_latents
from cgt.progress import work_progress
from cgt.threads import in_threads

KIND = FolderKind(
    "a folder of samples",
    (RECORD,),
    tuple(f"{kind}[0-9]*/[0-9]*.{suffix}" for kind in ("", "mix") for suffix in ("png", "jpg")),
)
FASTEST_GIF = 50
"""Frames a second. Programs that show one take a frame of less than 2/100 s for a much longer one."""
LATENTS_OF_ONE = 3
"""Stops of a film of one class: with two, the way back would be the way there."""
LARGEST_GRID = 200_000_000
"""Pixels."""
MOST_FRAMES = 2000
"""All of a film's are in memory until it is written."""
BATCHES_WAITING = 2
"""That may wait for the threads which write, beside the one that is made."""


@dataclass(frozen=True)
class Order:
    """What is drawn."""

    model: Path
    """The generator's folder."""
    generator: Generator
    """Ready for use, on its device."""
    mixes: tuple[Mix, ...]
    per_class: int
    seed: int
    truncation: float | None
    batch_size: int

    @property
    def total(self) -> int:
        """Pictures of all classes."""
        return len(self.mixes) * self.per_class

    @property
    def ahead(self) -> int:
        """Pictures that may wait to be written."""
        return BATCHES_WAITING * self.batch_size

    def own(self, wanted: Iterable[tuple[Mix, int]]) -> Iterator[Tensor]:
        """The pictures of these numbers, each class with latents of its own."""
        drawn = own_latents(self.generator, wanted, seed=self.seed, truncation=self.truncation)
        return pictures_of(self.generator, drawn, self.batch_size, truncation=self.truncation)

    def record(self) -> dict[str, Any]:
        """How the pictures come about, but for the classes."""
        return {
            "model": str(self.model),
            "model_sha256": sha256(self.model / "generator.safetensors"),
            "per_class": self.per_class,
            "seed": self.seed,
            "truncation": self.truncation,
        }


def write_grid(out: Path, order: Order) -> None:
    """A PNG with a row for each class, whose columns are of one latent each.

    Raises:
        UserError: it would be too large.
    """
    zoom = grid_zoom(order.generator)
    size = order.total * (order.generator.resolution * zoom) ** 2
    if size > LARGEST_GRID:
        raise UserError(
            f"a grid of {order.total:,} pictures, {size / 1e6:,.0f} million pixels, is too large to be "
            f"looked at ({LARGEST_GRID / 1e6:,.0f} are the most): lower --per-class, name fewer classes, or "
            "give a folder for single pictures."
        )
    drawn = shared_latents(
        order.generator, order.mixes, order.per_class, seed=order.seed, truncation=order.truncation
    )
    pictures = []
    with work_progress("pictures", "sampling") as progress:
        for x_3RR in pictures_of(order.generator, drawn, order.batch_size, truncation=order.truncation):
            pictures.append(x_3RR)
            progress.reach(len(pictures), order.total)
    labels = [mix.name for mix in order.mixes]
    save_grid(out, torch.stack(pictures), order.per_class, labels=labels, zoom=zoom)


def write_film(out: Path, order: Order, steps: int, fps: float, *, moving: bool) -> None:
    """A loop from class to class.

    Raises:
        UserError: nothing would move in it, it is too long, or too fast for a GIF.
    """
    stops = order.mixes
    if len(stops) == 1 and not moving:
        raise UserError(
            f"a film of {stops[0].name} alone stands still: name more classes with --classes, or let the "
            "latents move with --moving."
        )
    if len(stops) == 1:
        stops *= LATENTS_OF_ONE
    total = steps * len(stops)
    if total > MOST_FRAMES:
        raise UserError(
            f"a film of {total:,} frames is too long, {MOST_FRAMES:,} are the most: name fewer classes with "
            "--classes, or give fewer --frames."
        )
    if out.suffix.lower() == ".gif" and fps > FASTEST_GIF:
        raise UserError(f"--fps {fps:g}: a GIF has at most {FASTEST_GIF} frames a second; or write a .webp.")
    frames = []
    with work_progress("frames", "sampling") as progress:
        for frame_3HW in frames_of(
            order.generator,
            stops,
            steps,
            order.per_class,
            seed=order.seed,
            truncation=order.truncation,
            moving=moving,
            batch_size=order.batch_size,
        ):
            frames.append(frame_3HW)
            progress.reach(len(frames), total)
    save_film(out, frames, fps)


def write_folder(out: Path, order: Order, jpeg_quality: int | None, threads: int) -> None:
    """Single pictures, in a folder for each class, and a record of how they came about."""
    suffix = "png" if jpeg_quality is None else "jpg"
    places = _subfolders(order.generator.classes, order.mixes)
    wanted = [(mix, number) for mix in order.mixes for number in range(order.per_class)]
    record = {"classes": {place: mix.name for mix, place in places.items()}, **order.record()}
    if jpeg_quality is not None:
        record["jpeg_quality"] = jpeg_quality
    with replacing_folder(out) as temporary, work_progress("pictures", "sampling") as progress:
        write_json(temporary / RECORD, record)
        for place in places.values():
            (temporary / place).mkdir()

        # The folder is put on the disk as a whole in the end: no picture by itself.
        def write(pair: tuple[tuple[Mix, int], Tensor]) -> None:
            (mix, number), x_3RR = pair
            file = temporary / places[mix] / f"{number:05d}.{suffix}"
            file.write_bytes(encode(to_pil(x_3RR), jpeg_quality))

        pairs = zip(wanted, order.own(wanted), strict=True)
        for done, _ in enumerate(in_threads(write, pairs, threads=threads, ahead=order.ahead), 1):
            progress.reach(done, order.total)


def write_shards(out: Path, order: Order, jpeg_quality: int | None, threads: int, *, overwrite: bool) -> None:
    """A shard folder, whose manifest says how the pictures came about."""
    mixes = {mix.name: mix for mix in order.mixes}

    def make(wanted: Iterable[Wanted]) -> Iterator[Tensor]:
        return order.own((mixes[name], number) for name, number in wanted)

    made_by = {key: value for key, value in order.record().items() if key not in ("per_class", "seed")}
    with work_progress("pictures", "sampling") as progress:
        write_generated(
            out,
            tuple(mixes),
            order.per_class,
            order.generator.resolution,
            make,
            made_by,
            seed=order.seed,
            jpeg_quality=jpeg_quality,
            threads=threads,
            ahead=order.ahead,
            overwrite=overwrite,
            progress=progress.reach,
        )


def _subfolders(classes: list[str], mixes: Iterable[Mix]) -> dict[Mix, str]:
    """A folder's name for each: that of a mix begins with "mix" and its place among the mixes."""
    ids = {name: number for number, name in enumerate(classes)}
    places: dict[Mix, str] = {}
    for mix in mixes:
        if mix.name in ids:
            places[mix] = subfolder(ids[mix.name], mix.name)
        else:
            mixed = sum(place.startswith("mix") for place in places.values())
            places[mix] = f"mix{subfolder(mixed, mix.name)}"
    return places


def subfolder(number: int, name: str) -> str:
    """A name for the folder of a class: its id and what of its name is safe on any disk."""
    return f"{number:03d}-{re.sub(r'[^A-Za-z0-9]+', '-', name)[:60].strip('-')}".rstrip("-")
