"""Pictures of any kind as squares of one size."""

from typing import Literal, get_args

from PIL import Image

from cgt import images

Filter = Literal["lanczos", "box", "bicubic"]
FILTERS: tuple[Filter, ...] = get_args(Filter)
"""What pictures may be resized with. Each averages over all source pixels that a new pixel covers."""


def squared(image: Image.Image, size: int, resample: Filter = "lanczos") -> Image.Image:
    """The middle square of `image`, resized to `size` pixels, RGB, on white where transparent."""
    image = images.rgb(image)
    side = min(image.size)
    if image.size == (size, size):
        return image
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cut first: a filter that is given a box of a picture reaches over its edges.
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling[resample.upper()])
