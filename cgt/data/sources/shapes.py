"""Drawn pictures whose classes are a shape in a style: `red-disk` ... `gold-plus`, 5 x 4.

A class that is held out is the shape of some source classes in the style of others, which is what a transfer
can make use of. The configs publish that split: `shapes/source_classes.txt` and `shapes/new_classes.txt`.

Shapes of arrays: R rows and columns of the picture, S = OVERSAMPLING x R.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from cgt import rng
from cgt.data.sources import Picture, Request, Source

INPUT = None
SPLITS = ("train", "test")
SIZE = 32
PER_CLASS = {"train": 250, "test": 150}
"""Pictures of each class without --per-class."""
OVERSAMPLING = 4

Floats = npt.NDArray[np.floating[Any]]


def read(request: Request) -> Source:
    """The asked number of pictures of each class; `test` holds other ones than `train`."""
    n = request.per_class or PER_CLASS[request.split]
    classes = tuple(f"{style}-{shape}" for style in STYLES for shape in OUTLINES)
    pictures = [
        Picture(
            f"{request.split}-{name}-{i:06d}",
            name,
            (name, request.size, request.seed, f"shapes/{request.split}/{name}", i),
        )
        for name in classes
        for i in range(n)
    ]
    return Source(classes, pictures, _load)


def _load(place: tuple[str, int, int, str, int]) -> Image.Image:
    return draw(*place)


def draw(name: str, size: int, seed: int, stream: str, number: int) -> Image.Image:
    """A picture of the class `name` whose place, size, turn and shades come from the last three arguments."""
    style, shape = name.split("-")
    u = rng.uniform((8,), seed, stream, number).tolist()
    radius = 0.36 + 0.04 * u[0]
    left, top = (0.5 + 0.08 * (share - 0.5) for share in u[1:3])
    turn = math.radians(12 * (u[3] - 0.5))
    backdrop = np.array([225 + 25 * u[4], 225 + 25 * u[4], 225 + 25 * u[5]]) - 60 * u[6]

    pixels = size * OVERSAMPLING
    scale = radius * pixels
    cos, sin = math.cos(turn), math.sin(turn)
    outline = [
        (left * pixels + scale * (x * cos - y * sin), top * pixels + scale * (x * sin + y * cos))
        for x, y in OUTLINES[shape]
    ]
    mask = Image.new("1", (pixels, pixels))
    ImageDraw.Draw(mask).polygon(outline, fill=1)
    right_S = (np.arange(pixels, dtype=np.float32) + np.float32(0.5 - left * pixels)) / scale
    down_S1 = (np.arange(pixels, dtype=np.float32) + np.float32(0.5 - top * pixels))[:, None] / scale
    blend_SS = STYLES[style].blend(cos * right_S + sin * down_S1, cos * down_S1 - sin * right_S)

    # Colours mix linearly, so the two maps are all that has to be averaged over the oversampled pixels.
    inside_SS = np.asarray(mask, dtype=np.float32)
    inside_RR1, blend_RR1 = _averaged(inside_SS), _averaged(inside_SS * blend_SS)
    shade = 0.85 + 0.15 * u[7]
    low, high = shade * np.array(STYLES[style].low), shade * np.array(STYLES[style].high)
    picture_RR3 = backdrop * (1 - inside_RR1) + low * inside_RR1 + (high - low) * blend_RR1
    return Image.fromarray(picture_RR3.round().clip(0, 255).astype(np.uint8))


def _averaged(map_SS: Floats) -> Floats:
    """The means over OVERSAMPLING x OVERSAMPLING pixels, (R, R, 1)."""
    side = len(map_SS) // OVERSAMPLING
    means: Floats = map_SS.reshape(side, OVERSAMPLING, side, OVERSAMPLING).mean(axis=(1, 3))[..., None]
    return means


def _around(*radii: float, corners: int) -> list[tuple[float, float]]:
    """A closed outline whose corners, the first on top, are at `radii` from the centre, in turn."""
    angles = [2 * math.pi * i / corners - math.pi / 2 for i in range(corners)]
    return [
        (radii[i % len(radii)] * math.cos(angle), radii[i % len(radii)] * math.sin(angle))
        for i, angle in enumerate(angles)
    ]


ARM = 0.34
"""Half the width of an arm of the plus."""
QUARTER_TURNS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Cosine and sine."""
_CORNER = [(ARM, -1.0), (ARM, -ARM), (1.0, -ARM)]

OUTLINES = {
    "disk": _around(0.95, corners=48),
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": _around(1.1, corners=3),
    "star": _around(1.15, 0.48, corners=10),
    "plus": [(x * c - y * s, x * s + y * c) for c, s in QUARTER_TURNS for x, y in _CORNER],
}
"""Corners (right, down) in units of the radius."""


class Style(NamedTuple):
    """A surface of two colours."""

    low: tuple[float, float, float]
    """RGB, 0..255."""
    high: tuple[float, float, float]
    blend: Callable[[Floats, Floats], Floats]
    """(right, down) in the shape's own turned frame, in units of the radius -> 0 (low) .. 1 (high)."""


def _plain(x_SS: Floats, y_SS: Floats) -> Floats:
    return np.zeros_like(x_SS)


def _stripes(x_SS: Floats, y_SS: Floats) -> Floats:
    return (np.mod(x_SS + y_SS, 0.62) > 0.36).astype(np.float32)


def _dots(x_SS: Floats, y_SS: Floats) -> Floats:
    pitch = 0.56
    x_SS, y_SS = np.mod(x_SS + pitch / 2, pitch) - pitch / 2, np.mod(y_SS + pitch / 2, pitch) - pitch / 2
    return (x_SS**2 + y_SS**2 < 0.17**2).astype(np.float32)


def _shine(x_SS: Floats, y_SS: Floats) -> Floats:
    """A metal's: a bright band at the upper left."""
    return np.exp(-(((x_SS + y_SS + 0.45) / 0.5) ** 2))


STYLES = {
    "red": Style((214, 36, 40), (214, 36, 40), _plain),
    "striped": Style((16, 122, 52), (176, 236, 168), _stripes),
    "dotted": Style((30, 70, 200), (170, 204, 250), _dots),
    "gold": Style((176, 122, 8), (255, 232, 118), _shine),
}
"""The surfaces: plain red, stripes of two greens, pale dots on blue, and gold."""
