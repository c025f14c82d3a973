"""Loading and encoding pictures in several processes: what a worker does, and how it is fed.

What a worker makes of a picture are the very bytes that go into a shard, so that the process that writes has
nothing left to do but to append them.
"""

import collections
import hashlib
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self, get_args

import webdataset
from PIL import Image

from cgt import images
from cgt.data.partial import DIGEST_BYTES
from cgt.data.pool import worker_pool
from cgt.data.sources import Picture
from cgt.data.square import Filter, squared
from cgt.data.tar import BLOCK
from cgt.errors import RunError, UserError

Load = Callable[[Any], Image.Image]
Part = Literal["train", "holdout"]
PARTS: tuple[Part, ...] = get_args(Part)
CHUNK_PIXELS = 32 * 128 * 128
"""A worker is handed pictures of so many pixels at a time, and at most 32 pictures: enough that handing over
costs next to nothing, and few enough that what waits to be written needs little memory."""
CHUNKS_A_WORKER = 4
"""Under way at a time."""


@dataclass(frozen=True)
class Recipe:
    """How pictures become samples of a shard."""

    labels: Mapping[str, int]
    """The number of each class."""
    size: int
    """Height and width, pixels."""
    resample: Filter = "lanczos"
    jpeg_quality: int | None = None
    """1..100; None: PNG."""
    holdout: float | None = None
    """Share of the pictures that is held out, by their content; None: no picture is."""
    part: Part = "train"

    @property
    def encoding(self) -> Literal["png", "jpg"]:
        """The suffix of the pictures."""
        return "png" if self.jpeg_quality is None else "jpg"

    @property
    def share(self) -> float:
        """Of all pictures, the expected share that belongs to the part."""
        held_out = self.holdout or 0.0
        return held_out if self.part == "holdout" else 1 - held_out

    def takes(self, digest: bytes) -> bool:
        """Whether a picture of this content belongs to the part."""
        if self.holdout is None:
            return True
        held_out = int.from_bytes(digest, "big") / 256 ** len(digest) < self.holdout
        return held_out is (self.part == "holdout")


class Sample(NamedTuple):
    """A picture that is ready to be written."""

    tar: bytes
    """Its members of a tar file, headers and padding included."""
    digest: bytes
    """Of the pixels and the size of the source's picture: equal for equal pictures."""


class Unreadable(NamedTuple):
    """A picture that its source can't load, or that can't be decoded."""

    reason: str


Outcome = Sample | Unreadable | None
"""None: the picture belongs to the other part."""


class Encoders:
    """Processes that load and encode; they end with the block, and with the process that started them."""

    def __init__(self, load: Load, recipe: Recipe, workers: int, locks: Sequence[int] = ()) -> None:
        """Start nothing yet.

        Args:
            load: a source's.
            recipe: how pictures become samples.
            workers: the number of processes.
            locks: file descriptors whose locks no worker may hold on to, should it outlive this process.
        """
        self._chunk = max(1, min(32, CHUNK_PIXELS // recipe.size**2))
        self._workers = workers
        self._pool = worker_pool(workers, _prepare, (load, recipe), locks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def outcomes(self, pictures: Sequence[Picture], *, all_parts: bool = False) -> Iterator[Outcome]:
        """What becomes of each picture, in the given order, with enough under way to keep all workers busy.

        Args:
            pictures: of the source whose `load` the workers have.
            all_parts: encode the pictures of the other part as well.

        Raises:
            RunError: a worker was killed, or ran out of memory.
        """
        queue: collections.deque[Future[list[Outcome]]] = collections.deque()
        starts = iter(range(0, len(pictures), self._chunk))
        try:
            while True:
                for start in itertools.islice(starts, CHUNKS_A_WORKER * self._workers - len(queue)):
                    chunk = list(pictures[start : start + self._chunk])
                    queue.append(self._pool.submit(_encode_chunk, chunk, all_parts))
                if not queue:
                    return
                yield from queue.popleft().result()
        except (BrokenProcessPool, MemoryError) as error:
            raise RunError(
                "a worker process ended before its work was done, most likely for lack of memory. What is "
                "finished is kept: run the command again, with fewer --workers, which need less memory."
            ) from error


def encode(load: Load, recipe: Recipe, picture: Picture, *, all_parts: bool = False) -> Outcome:
    """Load, square and encode one picture."""
    try:
        image = images.rgb(load(picture.place))
        digest = content_digest(image)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        # Names of files may have bytes that are not UTF-8, which neither the log nor the report could hold.
        return Unreadable(reason.encode(errors="backslashreplace").decode())
    if not all_parts and not recipe.takes(digest):
        return None
    content = images.encode(squared(image, recipe.size, recipe.resample), recipe.jpeg_quality)
    label = str(recipe.labels[picture.class_name]).encode()
    return Sample(members(picture.key, {"cls": label, recipe.encoding: content}), digest)


def content_digest(image: Image.Image) -> bytes:
    """`DIGEST_BYTES` bytes that are equal for RGB pictures of the same size and pixels."""
    digest = hashlib.blake2b(f"{image.width} {image.height} ".encode(), digest_size=DIGEST_BYTES)
    digest.update(image.tobytes())
    return digest.digest()


def members(key: str, parts: Mapping[str, bytes]) -> bytes:
    """One sample as it stands in a tar file, without the end mark that a file of its own would have."""
    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer, encoder=False, mtime=0, compress=False) as tar:
        tar.write({"__key__": key, **parts})
    length = sum(BLOCK + -(-len(content) // BLOCK) * BLOCK for content in parts.values())
    return buffer.getvalue()[:length]


_work: tuple[Load, Recipe] | None = None
"""What a worker process was started with."""


def _prepare(load: Load, recipe: Recipe) -> None:
    global _work
    _work = load, recipe


def _encode_chunk(pictures: list[Picture], all_parts: bool) -> list[Outcome]:
    assert _work is not None
    load, recipe = _work
    return [encode(load, recipe, picture, all_parts=all_parts) for picture in pictures]
