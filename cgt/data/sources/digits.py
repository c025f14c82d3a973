"""scikit-learn's handwritten digits: 1797 real 8 x 8 pictures, from the UCI repository."""

import numpy as np
from PIL import Image

from cgt.data.sources import Picture, Request, Source
from cgt.errors import UserError

INPUT = None
SPLITS = ("all", "train", "test")
SIZE = 32


def read(request: Request) -> Source:
    """All digits, or every fifth of each class as `test` and the others as `train`.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            'the source digits reads scikit-learn\'s pictures: install it with `pip install "cgt[digits]"`.'
        ) from error
    bunch = load_digits()
    pictures = []
    seen = dict.fromkeys(range(10), 0)
    for number, (picture_88, digit) in enumerate(zip(bunch.images, bunch.target.tolist(), strict=True)):
        seen[digit] += 1
        if request.split in ("all", "test" if seen[digit] % 5 == 0 else "train"):
            pixels_88 = (picture_88 * (255 / 16)).round().astype(np.uint8)
            pictures.append(Picture(f"{number:04d}", str(digit), pixels_88))
    return Source(tuple(map(str, range(10))), pictures, Image.fromarray)
