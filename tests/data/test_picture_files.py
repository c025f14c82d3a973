"""Opening pictures of every kind, refusing others, and naming them."""

import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgt import images
from cgt.data.sources.picture_files import (
    FORMATS,
    MAX_PIXELS,
    SUFFIXES,
    File,
    Keys,
    files,
    inside,
    long_key,
    open_file,
    open_picture,
    reading,
    subfolders,
)
from cgt.errors import UserError

COLOUR = (200, 60, 30)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def claiming_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it had that size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(99)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a"])
@pytest.mark.parametrize("form", FORMATS)
def test_content_tells_the_format_whatever_the_suffix(form: str, name: str, tmp_path: Path) -> None:
    """ImageNet has a PNG file that is called JPEG."""
    content = encoded(Image.new("RGB", (8, 6), COLOUR), form)
    (tmp_path / name).write_bytes(content)
    for image in (open_file(tmp_path, name), open_picture(content, "bytes")):
        assert image.size == (8, 6)
        assert np.abs(np.asarray(image.convert("RGB"), dtype=int) - COLOUR).max() <= 8


@pytest.mark.parametrize(("mode", "form"), [("CMYK", "jpeg"), ("L", "jpeg"), ("RGBA", "png")])
def test_other_modes_show_their_colours(mode: str, form: str) -> None:
    image = Image.new("RGB", (8, 8), COLOUR).convert(mode)
    grey = Image.new("RGB", (1, 1), COLOUR).convert("L").getpixel((0, 0))
    pixels = np.asarray(images.rgb(open_picture(encoded(image, form), "a")), dtype=int)
    assert np.abs(pixels - ([grey] * 3 if mode == "L" else COLOUR)).max() <= 8


def test_sixteen_bits_are_scaled() -> None:
    ramp = np.linspace(0, 65535, 16, dtype=np.uint16)[None].repeat(2, axis=0)
    shown = images.rgb(open_picture(encoded(Image.fromarray(ramp), "png"), "a"))
    assert np.asarray(shown)[0, :, 1].tolist() == [17 * i for i in range(16)]


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
def test_pictures_are_turned_as_their_exif_says(form: str) -> None:
    image = Image.new("RGB", (8, 4), "black")
    image.paste("white", (0, 0, 4, 4))
    exif = image.getexif()
    exif[0x0112] = 8  # shown after a quarter turn to the left: the left half comes to the bottom
    shown = open_picture(encoded(image, form, exif=exif, quality=95), "a")
    assert shown.size == (4, 8)
    assert max(shown.getpixel((2, 1))) < 50
    assert min(shown.getpixel((2, 6))) > 200


def test_damaged_exif_does_not_spoil_a_picture(recwarn: pytest.WarningsRecorder) -> None:
    content = encoded(Image.new("RGB", (8, 4), COLOUR), "jpeg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff\xff")
    assert open_picture(content, "a").size == (8, 4)
    assert not recwarn


def test_the_first_picture_of_several_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for form in ("gif", "tiff", "mpo"):
        content = encoded(frames[0], form, save_all=True, append_images=frames[1:])
        red, _, blue = open_picture(content, form).convert("RGB").getpixel((4, 4))
        assert red > 200 > 50 > blue


@pytest.mark.parametrize(
    ("width", "height"),
    [(MAX_PIXELS // 2**10 + 1, 2**10), (MAX_PIXELS + 1, 1), (30000, 30000), (2**31 - 1, 2**31 - 1)],
)
def test_tiny_files_that_claim_a_huge_size_are_refused(width: int, height: int) -> None:
    with pytest.raises(UserError, match="bomb can't be read, .* pixels are more than the 134,217,728"):
        open_picture(claiming_png(width, height), "bomb")


def test_the_claimed_size_is_refused_before_anything_is_decoded() -> None:
    with pytest.raises(UserError, match="pixels are more than"):
        open_picture(claiming_png(MAX_PIXELS + 1, 1)[:60], "bomb")


@pytest.mark.parametrize("form", ["ppm", "eps", "pcx"])
def test_formats_that_no_source_has_are_refused(form: str) -> None:
    with pytest.raises(UserError, match="odd can't be read, it is no picture"):
        open_picture(encoded(Image.new("RGB", (8, 8)), form), "odd")


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "bmp", "gif", "tiff"])
def test_cut_and_overwritten_files_are_refused_or_read_but_never_crash(form: str) -> None:
    draws = np.random.default_rng(0)
    whole = encoded(Image.fromarray(draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)), form)
    with pytest.raises(UserError, match="part can't be read"):
        open_picture(whole[: len(whole) // 2], "part")
    for _ in range(40):
        damaged = bytearray(whole)
        for place in draws.integers(0, min(len(whole), 200), 4):
            damaged[place] = draws.integers(0, 256)
        try:
            open_picture(bytes(damaged), "damaged").tobytes()
        except UserError as error:
            assert str(error).startswith("damaged can't be read")  # noqa: PT017 - either outcome is fine


class TestFiles:
    def test_are_sorted_with_what_lies_deeper(self, tmp_path: Path) -> None:
        for name in ("b/2.png", "b/1.png", "a.png", "c/d/e.JPG", ".hidden.png", ".git/a.png"):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * len(name))
        found = list(files(tmp_path, tmp_path))
        assert [file.relative for file in found] == ["a.png", "b/1.png", "b/2.png", "c/d/e.JPG"]
        assert [file.relative for file in files(tmp_path, tmp_path, deep=False)] == ["a.png"]
        assert [file.relative for file in files(tmp_path, tmp_path, "c")] == ["c/d/e.JPG"]
        assert (found[-1].size, found[-1].stem, found[-1].suffix) == (9, "e", ".jpg")
        assert subfolders(tmp_path, tmp_path) == ["b", "c"]

    @pytest.mark.parametrize(
        "target", ["../outside", "../outside/a.png", "gone.png", "sub", ".", "link.png", "link.png/a"]
    )
    def test_links_out_to_folders_or_to_nothing_are_refused(self, target: str, tmp_path: Path) -> None:
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "a.png").touch()
        (tmp_path / "in" / "sub").mkdir(parents=True)
        (tmp_path / "in" / "link.png").symlink_to(target)
        for walk in (files, subfolders):
            with pytest.raises(UserError, match=r"link\.png is a link to"):
                list(walk(tmp_path / "in", tmp_path / "in"))

    def test_what_would_hold_up_a_reader_for_ever_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(UserError, match=r"pipe\.png can't be read, it is no plain file"):
            list(files(tmp_path, tmp_path))
        with pytest.raises(UserError, match=r"pipe\.png can't be read, it is no plain file"):
            open_file(tmp_path, "pipe.png")

    def test_folders_that_cannot_be_read_are_told(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def denied(path: Path) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("os.scandir", denied)
        with pytest.raises(UserError, match="can't be read .*Permission denied"):
            list(files(tmp_path, tmp_path))

    def test_paths_and_files_that_cannot_be_read_are_told(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="can't be read .*File name too long"):
            inside(tmp_path / ("x" * 300), tmp_path)
        (tmp_path / "a.png").touch()
        with pytest.raises(UserError, match="can't be read .*No such file"), reading(tmp_path / "absent"):
            pass
        with (
            pytest.raises(UserError, match="can't be read .*Input/output error"),
            reading(tmp_path / "a.png"),
        ):
            raise OSError(5, "Input/output error")

    def test_mark_changes_with_name_size_and_time(self) -> None:
        variants = [File("a", 1, 1), File("b", 1, 1), File("a", 2, 1), File("a", 1, 2)]
        assert len({file.mark for file in variants}) == 4


class TestKeys:
    NAMES = (
        "n01440764_10026.JPEG",
        "a/b.png",
        "c/b.png",
        "d/b.jpg",
        "é.png",
        "ü.png",
        f"{'x' * 90}.png",
        ".png",
    )

    def test_all_differ_and_will_do_in_shards(self) -> None:
        keys = Keys()
        taken = [keys.key(File(name, 0, 0).stem, name) for name in self.NAMES]
        assert taken[:2] == ["n01440764_10026", "b"]
        for made in (taken, [long_key(name) for name in self.NAMES]):
            assert len(set(made)) == len(self.NAMES)
            assert all(re.fullmatch("[A-Za-z0-9_-]{1,80}", key) for key in made), made


def test_suffixes_are_of_formats_that_are_decoded() -> None:
    known = Image.registered_extensions()
    assert {known[suffix] for suffix in SUFFIXES} <= set(FORMATS)
