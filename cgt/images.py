"""The only place where uint8 pictures and [-1, 1] tensors meet.

Shapes: N pictures, 3 colours, H rows, W columns. uint8 0..255 stands for -1..1 evenly: 0 is -1, 255 is 1.
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cgt.files import write_bytes


def to_float(x_uint8: Tensor) -> Tensor:
    """uint8 in 0..255 -> float32 in [-1, 1], same shape and device."""
    return x_uint8.to(torch.float32) * (2 / 255) - 1


def to_uint8(x: Tensor) -> Tensor:
    """Float in [-1, 1], clipped -> uint8 in 0..255, rounded to nearest; same shape and device."""
    return x.detach().to(torch.float32).add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def to_pil(x_3HW: Tensor) -> Image.Image:
    """One uint8 picture (3, H, W) as a Pillow image."""
    return Image.fromarray(np.ascontiguousarray(x_3HW.permute(1, 2, 0).cpu().numpy()))


def from_pil(image: Image.Image) -> Tensor:
    """A Pillow image of any mode as uint8 RGB (3, H, W), by way of `rgb`."""
    return torch.from_numpy(np.array(rgb(image))).permute(2, 0, 1).contiguous()


def rgb(image: Image.Image) -> Image.Image:
    """A Pillow image of any mode as 8-bit RGB; what is transparent shows white."""
    if image.mode.startswith("I;16"):  # Pillow would clip these at 255, not scale them
        image = Image.fromarray(np.rint(np.asarray(image, dtype=np.float32) / 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def encode(image: Image.Image, jpeg_quality: int | None = None) -> bytes:
    """An RGB image as JPEG of that quality (1..100) with colours at full resolution, or as PNG for None."""
    buffer = io.BytesIO()
    if jpeg_quality is None:
        image.save(buffer, "png")
    else:  # subsampling 0 keeps the colours at full resolution (4:4:4)
        image.save(buffer, "jpeg", quality=jpeg_quality, subsampling=0)
    return buffer.getvalue()


def encode_png(x_3HW: Tensor) -> bytes:
    """One uint8 picture (3, H, W) as PNG bytes."""
    return encode(to_pil(x_3HW))


def grid(x_N3HW: Tensor, columns: int, gap: int = 2) -> Tensor:
    """uint8 pictures (N, 3, H, W) in rows of `columns`, `gap` pixels apart on white: one (3, H', W')."""
    n, _, height, width = x_N3HW.shape
    rows = -(-n // columns)
    sheet = torch.full(
        (3, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8
    )
    for i, x_3HW in enumerate(x_N3HW.cpu()):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = x_3HW
    return sheet


def enlarged(x_N3HW: Tensor, zoom: int) -> Tensor:
    """Pictures whose every pixel has become `zoom` x `zoom` of them."""
    return x_N3HW.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)


def save_grid(path: Path, x_N3HW: Tensor, columns: int, *, labels: Sequence[str] = (), zoom: int = 1) -> None:
    """Write a PNG grid of uint8 pictures, enlarged by the whole number `zoom`; `labels` name its rows."""
    sheet = to_pil(grid(enlarged(x_N3HW, zoom), columns))
    if labels:
        sheet = _with_labels(sheet, labels)
    write_bytes(path, encode(sheet))


FILMS = {".webp": {"quality": 90}, ".gif": {}}
"""The suffixes of films, and what Pillow is told for each. A GIF has 256 colours in each frame."""


def save_film(path: Path, frames_3HW: Iterable[Tensor], fps: float) -> None:
    """Write uint8 frames (3, H, W) of one size as a film without end; the suffix, of `FILMS`, is its format.

    All frames are held. GIF counts in hundredths of a second, so that its speed is rounded.
    """
    kind = path.suffix.lower()
    first, *others = map(to_pil, frames_3HW)
    timing = {"duration": round(1000 / fps), "loop": 0}
    buffer = io.BytesIO()
    first.save(buffer, kind.removeprefix("."), save_all=True, append_images=others, **timing, **FILMS[kind])
    write_bytes(path, buffer.getvalue())


def _with_labels(sheet: Image.Image, labels: Sequence[str]) -> Image.Image:
    from PIL import ImageDraw, ImageFont

    font = ImageFont.load_default(13)
    margin = 8 + max(int(font.getlength(label)) for label in labels)
    page = Image.new("RGB", (sheet.width + margin, sheet.height), "white")
    page.paste(sheet, (margin, 0))
    draw = ImageDraw.Draw(page)
    row = sheet.height / len(labels)
    for i, label in enumerate(labels):
        draw.text((margin - 4, (i + 0.5) * row), label, fill="black", font=font, anchor="rm")
    return page
