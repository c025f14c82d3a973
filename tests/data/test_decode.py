"""Decoding pictures of a shard: which bits, and what is refused before it does harm."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cgt.data import decode
from cgt.data.decode import UndecodableError, decode_into

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 2, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS).resize((16, 16), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decoded(content: bytes, encoding: str, size: int = 16) -> np.ndarray:
    out_RR3 = np.zeros((size, size, 3), np.uint8)
    decode_into(content, encoding, out_RR3)
    return out_RR3


def png_claiming(width: int, height: int) -> bytes:
    """A few bytes of PNG that say they are so large."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0")),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def test_png_gives_the_pixels_that_were_saved() -> None:
    assert np.array_equal(decoded(encoded(PICTURE, "PNG"), "png"), np.asarray(PICTURE))


def test_png_of_other_modes_is_made_rgb() -> None:
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    assert (decoded(encoded(clear, "PNG"), "png") == 255).all()
    gray = PICTURE.convert("L")
    assert np.array_equal(decoded(encoded(gray, "PNG"), "png")[..., 1], np.asarray(gray))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_both_jpeg_decoders_give_the_same_bits(
    mode: str, subsampling: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("simplejpeg")
    content = encoded(PICTURE.convert(mode), "JPEG", quality=80, subsampling=subsampling)
    fast = decoded(content, "jpg")
    monkeypatch.setattr(decode, "simplejpeg", None)
    assert np.array_equal(decoded(content, "jpg"), fast)
    assert np.abs(fast.astype(int) - np.asarray(PICTURE.convert(mode).convert("RGB"))).max() < 60


@pytest.fixture(params=["with simplejpeg", "without"])
def either_decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without":
        monkeypatch.setattr(decode, "simplejpeg", None)


@pytest.mark.usefixtures("either_decoder")
@pytest.mark.parametrize(
    ("content", "encoding", "words"),
    [
        (b"", "png", "is no picture"),
        (b"nothing", "jpg", "is no picture"),
        (encoded(PICTURE, "PNG"), "jpg", "is no picture"),
        (encoded(PICTURE, "JPEG"), "png", "is no picture"),
        (encoded(PICTURE, "JPEG")[:-40], "jpg", "can't be decoded"),
        (encoded(PICTURE, "PNG")[:-40], "png", "can't be decoded"),
        (encoded(PICTURE.resize((16, 15)), "PNG"), "png", "is 16 x 15, the manifest says 16 x 16"),
        (encoded(PICTURE.resize((15, 16)), "JPEG"), "jpg", "is 15 x 16, the manifest says 16 x 16"),
    ],
)
def test_what_can_not_be_decoded_says_why(content: bytes, encoding: str, words: str) -> None:
    with pytest.raises(UndecodableError, match=words):
        decoded(content, encoding)


@pytest.mark.filterwarnings("ignore:Image size")  # Pillow's, of the smaller one
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_picture_that_claims_to_be_huge_is_not_decoded(side: int) -> None:
    with pytest.raises(UndecodableError, match=rf"is {side} x {side}|exceeds limit"):
        decoded(png_claiming(side, side), "png")
