"""What is measured: something that makes pictures, or pictures that are there.

Shapes: N pictures, Z latent size, R resolution.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor


class Sampler(Protocol):
    """A generator, or whatever else makes pictures of classes from noise."""

    training: bool

    @property
    def classes(self) -> Sequence[str]:
        """Names; y counts along them."""

    @property
    def dim_z(self) -> int:
        """Z."""

    @property
    def resolution(self) -> int:
        """R in pixels."""

    @property
    def levelled(self) -> bool:
        """Whether its statistics go by the truncation of z."""

    def level(self, truncation: float | None) -> float:
        """The truncation to call it with."""

    def __call__(self, z_NZ: Tensor, y_N: Tensor, /) -> Tensor:
        """Pictures (N, 3, R, R) in [-1, 1]."""


class PictureSet(Protocol):
    """Pictures that are measured as they are, such as `cgt.data.loose.LoosePictures`."""

    @property
    def classes(self) -> Sequence[str]:
        """Names; labels count along them. None, where the pictures have no classes."""

    @property
    def counts(self) -> Sequence[int]:
        """Pictures per class."""

    @property
    def resolution(self) -> int:
        """R in pixels."""

    def __len__(self) -> int:
        """The number of pictures."""

    def once(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's part: uint8 (N, 3, R, R), and int64 labels (N,)."""


def counts_of(pictures: PictureSet, classes: Sequence[str]) -> dict[str, int]:
    """How many pictures there are of each of these classes, all of which they have."""
    counts = dict(zip(pictures.classes, pictures.counts, strict=True))
    return {name: counts[name] for name in classes}
