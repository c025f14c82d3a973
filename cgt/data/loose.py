"""Picture files as they lie in a folder, for measuring: those that another program made, for example.

Shapes: N pictures of a batch, R rows and columns.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from cgt import images
from cgt.data.sources.picture_files import SUFFIXES, File, files, open_file
from cgt.errors import UserError

SAMPLES = "samples.json"
"""What `cgt sample` leaves in a folder of pictures, with the class of each subfolder."""


def holds_pictures(folder: Path) -> bool:
    """Whether there are picture files in a folder or in its subfolders."""
    if not folder.is_dir():
        return False
    root = folder.resolve()
    return any(file.suffix in SUFFIXES for file in files(root, root))


class LoosePictures:
    """The pictures of a folder, of one size: in a subfolder for each class, or side by side without classes.

    The name of a subfolder is that of its class, unless the samples.json of `cgt sample` says another.

    Attributes:
        classes: the classes; none, if the pictures lie side by side.
        resolution: R, pixels.
        counts: pictures per class.
        digest: SHA-256 over the files' names, sizes and times.

    Raises:
        UserError: no folder, no pictures in it, pictures beside subfolders, or a first one that is not
            square.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder} with pictures.")
        self.folder = folder.resolve()
        self._files = [file for file in files(self.folder, self.folder) if file.suffix in SUFFIXES]
        if not self._files:
            raise UserError(
                f"{folder} has no pictures ({', '.join(sorted(SUFFIXES))}) in it or in its subfolders."
            )
        beside = [file.relative for file in self._files if "/" not in file.relative]
        if beside and len(beside) < len(self._files):
            raise UserError(
                f"{folder} has pictures ({beside[0]}) and subfolders with pictures: put all of them into "
                "subfolders, one for each class, or none."
            )
        names = _class_names(self.folder)
        found = {} if beside else {part: names.get(part, part) for part in map(_part, self._files)}
        self.classes = tuple(dict.fromkeys(found.values()))
        position = {part: self.classes.index(name) for part, name in found.items()}
        self._labels = [position.get(_part(file), -1) for file in self._files]
        counted = Counter(self._labels)
        self.counts = tuple(counted[label] for label in range(len(self.classes)))
        self.resolution = self._size(self._files[0])
        self.digest = hashlib.sha256(b"".join(file.mark for file in self._files)).hexdigest()

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self._files)

    def once(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's contiguous part of the pictures, in the order of their names.

        Yields:
            x, uint8 (N, 3, R, R), and labels y, int64 (N,), positions in `classes`, or -1 without any.

        Raises:
            UserError: a picture can't be read, or has another size.
        """
        first, last = (len(self) * part // world for part in (rank, rank + 1))
        with ThreadPoolExecutor() as threads:
            for start in range(first, last, batch_size):
                part = slice(start, min(start + batch_size, last))
                x_N3RR = torch.stack(list(threads.map(self._read, self._files[part])))
                yield x_N3RR, torch.tensor(self._labels[part])

    def _read(self, file: File) -> Tensor:
        image = images.rgb(open_file(self.folder, file.relative))
        if image.size != (self.resolution, self.resolution):
            raise UserError(
                f"{self.folder / file.relative} has {image.width} x {image.height} pixels, and the first "
                f"picture there {self.resolution} x {self.resolution}: all must have one size. `cgt shards "
                f"build folder {self.folder} OUT --size {self.resolution}` makes them so."
            )
        return images.from_pil(image)

    def _size(self, file: File) -> int:
        width, height = open_file(self.folder, file.relative).size
        if width != height:
            raise UserError(
                f"{self.folder / file.relative} has {width} x {height} pixels, and pictures must be square: "
                f"`cgt shards build folder {self.folder} OUT` makes them so."
            )
        return width


def _part(file: File) -> str:
    """The folder next to the root that a file is in."""
    return file.relative.partition("/")[0]


def _class_names(folder: Path) -> Mapping[str, str]:
    """The classes of subfolders, where `cgt sample` made them."""
    record = folder / SAMPLES
    if not record.is_file():
        return {}
    try:
        classes = json.loads(record.read_text(encoding="utf-8"))["classes"]
        return {str(part): str(name) for part, name in classes.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{record} does not say the classes of the subfolders, as `cgt sample` would write it: remove "
            "it to have the classes named as the subfolders."
        ) from None
