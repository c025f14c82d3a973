"""Squares of pictures of every mode and shape."""

import io

import numpy as np
import pytest
from PIL import Image

from cgt.data.square import FILTERS, Filter, squared

COLOUR = (200, 60, 30)


def picture(mode: str) -> Image.Image:
    """A picture of one colour, wider than high, as a file of that mode holds it."""
    if mode == "I;16":
        return Image.fromarray(np.full((4, 6), 99 * 257, np.uint16))
    plain = Image.new("RGB", (6, 4), COLOUR)
    return plain.quantize(4) if mode == "P" else plain.convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_pictures_of_every_mode_become_rgb_of_about_the_same_colour(mode: str) -> None:
    image = picture(mode)
    square = squared(image, 3)
    assert (square.mode, square.size) == ("RGB", (3, 3))
    means = np.asarray(square, dtype=float).mean(axis=(0, 1))
    if mode == "1":  # black and white dots in the place of grey
        assert means[0] == means[1] == means[2]
        return
    grey = 99 if mode == "I;16" else Image.new("RGB", (1, 1), COLOUR).convert("L").getpixel((0, 0))
    expected = [grey] * 3 if mode in ("L", "LA", "I;16") else COLOUR
    assert np.abs(means - expected).max() <= 4


def test_cmyk_jpeg_shows_its_colours_and_not_their_opposites() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), COLOUR).convert("CMYK").save(buffer, "jpeg", quality=95)
    means = np.asarray(squared(Image.open(buffer), 4), dtype=float).mean(axis=(0, 1))
    assert np.abs(means - COLOUR).max() <= 8


def test_sixteen_bit_png_is_scaled_not_clipped() -> None:
    buffer = io.BytesIO()
    ramp = np.linspace(0, 65535, 16, dtype=np.uint16)[:, None].repeat(16, axis=1)
    Image.fromarray(ramp).save(buffer, "png")
    values = np.asarray(squared(Image.open(buffer), 16))[:, 0, 0]
    assert values.tolist() == [17 * i for i in range(16)]


def test_what_is_transparent_shows_white() -> None:
    palette = Image.new("RGB", (4, 4), COLOUR).quantize(2)
    palette.info["transparency"] = palette.getpixel((0, 0))
    for image in (Image.new("RGBA", (4, 4), (*COLOUR, 0)), Image.new("LA", (4, 4), (9, 0)), palette):
        assert squared(image, 2).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (3, 2000), (2000, 3)])
def test_narrow_pictures_give_their_middle(size: tuple[int, int], resample: Filter) -> None:
    image = Image.new("RGB", size, "blue")
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    image.paste(COLOUR, (left, top, left + side, top + side))
    square = squared(image, 8, resample)
    assert square.size == (8, 8)
    assert square.getcolors() == [(64, COLOUR)]


def test_the_box_filter_gives_the_mean_and_the_others_sharper_edges() -> None:
    pixels = np.zeros((12, 12, 3), np.uint8)
    pixels[:, 5:] = 240
    rows = {
        resample: np.asarray(squared(Image.fromarray(pixels), 4, resample))[0, :, 0].tolist()
        for resample in FILTERS
    }
    assert rows["box"] == [0, 80, 240, 240]
    assert len({tuple(row) for row in rows.values()}) == len(FILTERS)


def test_shrinking_averages_fine_patterns_away() -> None:
    checks = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    for resample in FILTERS:
        values = np.asarray(squared(Image.fromarray(checks), 8, resample))
        assert np.abs(values.astype(int) - 127).max() <= 8
