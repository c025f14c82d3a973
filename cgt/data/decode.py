"""Pictures out of their encoded form, by the fastest decoder that is installed."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from cgt import images

try:
    import simplejpeg  # type: ignore[import-untyped]
except ImportError:  # an extra: Pillow gives the same pixels, at half the speed
    simplejpeg = None

_FORMATS = {"png": ("PNG",), "jpg": ("JPEG",)}


class UndecodableError(ValueError):
    """Not a picture, a damaged one, or one of another size: says which."""


def decode_into(encoded: bytes, encoding: str, out_RR3: np.ndarray) -> None:
    """Decode a picture, "png" or "jpg", of just the size of `out_RR3`, contiguous uint8 (R, R, 3), into it.

    The size is looked at before any pixel is decoded.

    Raises:
        UndecodableError: it can't be.
    """
    try:
        if encoding == "jpg" and simplejpeg is not None and _by_simplejpeg(encoded, out_RR3):
            return
        with Image.open(io.BytesIO(encoded), formats=_FORMATS[encoding]) as image:
            _check_size(image.width, image.height, out_RR3)
            plain = image.mode == "RGB" and "transparency" not in image.info
            out_RR3[:] = np.asarray(image if plain else images.rgb(image))
    except UndecodableError:
        raise
    except UnidentifiedImageError:
        raise UndecodableError("is no picture") from None
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise UndecodableError(f"can't be decoded ({error})") from None


def _by_simplejpeg(encoded: bytes, out_RR3: np.ndarray) -> bool:
    """Whether it was decoded; if not, Pillow may do better, or tells what is wrong."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
        _check_size(width, height, out_RR3)
        simplejpeg.decode_jpeg(encoded, buffer=out_RR3)
    except ValueError as error:
        if isinstance(error, UndecodableError):
            raise
        return False
    return True


def _check_size(width: int, height: int, out_RR3: np.ndarray) -> None:
    size = len(out_RR3)
    if (width, height) != (size, size):
        raise UndecodableError(f"is {width} x {height}, the manifest says {size} x {size}")
