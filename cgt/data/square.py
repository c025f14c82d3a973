"""Pictures of any kind as squares of one size."""

from PIL import Image

from cgt import images


def squared(image: Image.Image, size: int) -> Image.Image:
    """The middle square of `image`, resized (Lanczos) to `size` pixels, RGB, on white where transparent."""
    image = images.rgb(image)
    side = min(image.size)
    if image.size == (size, size):
        return image
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box)
