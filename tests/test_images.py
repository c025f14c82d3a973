"""uint8 and [-1, 1], Pillow and tensors, grids."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgt import images


def test_every_uint8_value_survives_the_way_to_floats_and_back() -> None:
    x_uint8 = torch.arange(256, dtype=torch.uint8)
    x = images.to_float(x_uint8)
    assert x.dtype == torch.float32
    assert (x[0], x[255]) == (-1, 1)
    assert torch.equal(images.to_uint8(x), x_uint8)


def test_floats_are_rounded_to_the_nearest_and_clipped() -> None:
    x = torch.tensor([-7.0, -1 + 0.4 * 2 / 255, -1 + 0.6 * 2 / 255, 0.999, 7.0])
    assert images.to_uint8(x).tolist() == [0, 0, 1, 255, 255]


def test_half_precision_is_rounded_like_single() -> None:
    x_uint8 = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(images.to_uint8(images.to_float(x_uint8).half()), x_uint8)


def test_the_input_stays_as_it_is() -> None:
    x = torch.tensor([0.5])
    images.to_uint8(x)
    images.to_float(x)
    assert x == 0.5


def test_a_png_holds_the_very_pixels() -> None:
    x_3HW = torch.randint(256, (3, 5, 7), dtype=torch.uint8)
    image = Image.open(io.BytesIO(images.encode_png(x_3HW)))
    assert image.size == (7, 5)
    assert torch.equal(images.from_pil(image), x_3HW)


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("L", (2, 2), 99), (99, 99, 99)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 99 * 257, np.uint16)), (99, 99, 99)),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 255)), (10, 20, 30)),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), (255, 255, 255)),
        (Image.new("RGB", (2, 2), (10, 20, 30)).quantize(2), (10, 20, 30)),
    ],
    ids=["grey", "black and white", "16 bit", "opaque", "transparent", "palette"],
)
def test_pictures_of_every_mode_become_the_rgb_that_one_sees(
    image: Image.Image, colour: tuple[int, int, int]
) -> None:
    x_3HW = images.from_pil(image)
    assert x_3HW.shape == (3, 2, 2)
    assert x_3HW[:, 1, 0].tolist() == list(colour)


def test_a_grid_puts_pictures_row_by_row_on_white() -> None:
    x_N3HW = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 4, 5)
    sheet = images.grid(x_N3HW, columns=2, gap=1)
    assert sheet.shape == (3, 1 + 2 * 5, 1 + 2 * 6)
    assert sheet[0, 1:5, 1:6].eq(0).all()
    assert sheet[0, 1:5, 7:12].eq(1).all()
    assert sheet[0, 6:10, 1:6].eq(2).all()
    assert sheet.eq(255).sum() == 3 * (11 * 13 - 3 * 20)


def test_a_saved_grid_has_room_for_its_labels_and_shows_the_pictures_enlarged(tmp_path: Path) -> None:
    x_N3HW = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    images.save_grid(tmp_path / "plain.png", x_N3HW, 2, zoom=3)
    images.save_grid(tmp_path / "labelled.png", x_N3HW, 2, zoom=3, labels=["cat", "a rather long name"])
    plain, labelled = (Image.open(tmp_path / name) for name in ("plain.png", "labelled.png"))
    assert plain.size == (2 + 2 * (24 + 2), 2 + 2 * (24 + 2))
    margin = labelled.width - plain.width
    assert margin > 50
    assert labelled.height == plain.height
    assert images.from_pil(labelled)[:, :, margin:].equal(images.from_pil(plain))
    assert images.from_pil(labelled)[:, :, :margin].min() < 128  # something is written there


@pytest.mark.parametrize("name", ["film.webp", "film.gif"])
def test_a_film_has_its_frames_its_pace_and_no_end(tmp_path: Path, name: str) -> None:
    frames = [torch.full((3, 16, 16), shade, dtype=torch.uint8) for shade in (0, 120, 250)]
    images.save_film(tmp_path / name, iter(frames), fps=10)
    with Image.open(tmp_path / name) as film:
        assert film.n_frames == 3
        assert film.info["loop"] == 0
        for i, frame in enumerate(frames):
            film.seek(i)
            film.load()
            assert film.info["duration"] == 100
            shown = images.from_pil(film).float().mean()
            assert shown == pytest.approx(float(frame.float().mean()), abs=4)


def test_jpeg_has_the_asked_quality() -> None:
    image = images.to_pil(torch.randint(256, (3, 32, 32), dtype=torch.uint8))
    low, high = (images.encode(image, quality) for quality in (10, 95))
    assert len(low) < len(high)
    assert Image.open(io.BytesIO(high)).format == "JPEG"
