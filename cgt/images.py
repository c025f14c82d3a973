"""The only place where uint8 pictures and [-1, 1] tensors meet.

Shapes: N pictures, 3 colours, H rows, W columns. uint8 0..255 stands for -1..1 evenly: 0 is -1, 255 is 1.
"""

import io
from collections.abc import Sequence
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


def encode_png(x_3HW: Tensor) -> bytes:
    """One uint8 picture (3, H, W) as PNG bytes."""
    return _png(to_pil(x_3HW))


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


def save_grid(path: Path, x_N3HW: Tensor, columns: int, *, labels: Sequence[str] = (), zoom: int = 1) -> None:
    """Write a PNG grid of uint8 pictures, enlarged by the whole number `zoom`; `labels` name its rows."""
    sheet = to_pil(grid(x_N3HW.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3), columns))
    if labels:
        sheet = _with_labels(sheet, labels)
    write_bytes(path, _png(sheet))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


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
