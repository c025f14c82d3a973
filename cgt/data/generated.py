"""A shard folder of pictures that a generator makes, by the writer of all shard folders."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import PIL
from torch import Tensor

from cgt import __version__, images, rng
from cgt.data.encode import Outcome, Recipe, encode
from cgt.data.manifest import Build, Manifest
from cgt.data.partial import partial_build
from cgt.data.report import Report
from cgt.data.shard_writer import recall, write_shards
from cgt.data.sources import Picture
from cgt.threads import in_threads

Wanted = tuple[str, int]
"""A picture by the name of its class and its number."""


def write_generated(
    out: Path,
    classes: Sequence[str],
    per_class: int,
    size: int,
    make: Callable[[Iterable[Wanted]], Iterator[Tensor]],
    made_by: Build,
    *,
    seed: int = 0,
    jpeg_quality: int | None = None,
    shard_mb: float = 128,
    threads: int = 1,
    ahead: int = 128,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Write the shard folder `out` with `per_class` generated pictures of each class, in a shuffled order.

    Until everything is written, it lies in `OUT.partial`; a command that was interrupted goes on from there.

    Args:
        out: its place, for which `refuse_output` found nothing in the way.
        classes: names; a picture's label is a position in this list.
        per_class: pictures of each, with the numbers from 0.
        size: height and width of the pictures, pixels.
        make: the uint8 pictures (3, size, size) of those that are wanted, in order.
        made_by: what decides the pictures beside the arguments here, for the manifest: the model's
            `model_sha256`, for example.
        seed: of the pictures, and of their order.
        jpeg_quality: 1..100; None: PNG, which loses nothing.
        shard_mb: size at which a shard is closed, 10^6 bytes.
        threads: that encode while the next pictures are made.
        ahead: pictures that may wait for them.
        overwrite: replace the shard folder that stands at `out`, once the new one is complete.
        progress: called with the pictures done and their total.

    Raises:
        UserError: `out` can't be replaced, or another process is writing it.
        RunError: the disk is full; what is finished stays in `OUT.partial`.
    """
    recipe = Recipe({name: label for label, name in enumerate(classes)}, size, jpeg_quality=jpeg_quality)
    build: Build = {
        "source": "cgt sample",
        **made_by,
        "classes": tuple(classes),
        "per_class": per_class,
        "seed": seed,
        "jpeg_quality": jpeg_quality,
        "shard_mb": shard_mb,
        "cgt": __version__,
    }
    maker = hashlib.sha256(repr(sorted(made_by.items())).encode()).hexdigest()[:8]
    total = len(classes) * per_class
    order = [divmod(place, per_class) for place in rng.permutation(total, seed, "build-order").tolist()]
    pictures = [
        Picture(f"{maker}-{seed}-{_short(classes[label])}-{number:06d}", classes[label], number)
        for label, number in order
    ]
    found = Report(pictures, strict=True, whole=False)
    identity: dict[str, object] = {"build": build, "size": size, "pillow": PIL.__version__}
    with partial_build(
        out, identity, overwrite=overwrite, checked=lambda done: progress(done, total)
    ) as partial:
        recall(partial, pictures, found)
        done = partial.consumed
        progress(done, total)
        left = pictures[done:]

        def encoded(pair: tuple[Picture, Tensor]) -> tuple[Picture, Outcome]:
            picture, x_3RR = pair
            shown = picture._replace(place=x_3RR)
            return picture, encode(images.to_pil, recipe, shown)

        def written() -> Iterator[tuple[Picture, Outcome]]:
            made = make((picture.class_name, picture.place) for picture in left)
            pairs = zip(left, made, strict=True)
            for i, outcome in enumerate(in_threads(encoded, pairs, threads=threads, ahead=ahead), done + 1):
                yield outcome
                progress(i, total)

        write_shards(partial, written(), classes, int(shard_mb * 1e6), found)
        manifest = Manifest(
            classes=tuple(classes),
            size=size,
            encoding=recipe.encoding,
            shards=partial.shards,
            build=build,
        )
        partial.complete(manifest, found.content)
        partial.put()
    return manifest


def _short(name: str) -> str:
    """Stands for a class name, which may be long and have any letters, in a key."""
    return hashlib.sha256(name.encode()).hexdigest()[:8]
