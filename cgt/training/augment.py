"""DiffAugment: differentiable augmentation of what the discriminator sees, real and generated alike (Zhao et
al., 2020), of all pictures or of as many as D needs (ADA: Karras et al., "Training Generative Adversarial
Networks with Limited Data", 2020).

Shapes: N pictures, 3 colours, H rows, W columns in [-1, 1]; U uniform draws a picture.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from cgt.config import Section

DRAWS = 7
"""U: brightness, saturation, contrast; shift x, y; cutout x, y."""
GATES = 3
"""More of U, where not every picture is augmented: one draw each for colour, translation and cutout."""


class AugmentConfig(Section):
    """Which augmentations D sees through, and how often."""

    policy: tuple[Literal["color", "translation", "cutout"], ...] = ()
    """Colour augmentation destroys a class that is a colour; translation is the safest with few pictures."""
    target: float | None = Field(None, gt=-1, lt=1)
    """Each of the policy is applied with a probability p that starts at 0, rises while the mean sign of D(x)
    over real pictures, from -1 to 1, is above this, and falls while it is below (Karras et al., 2020: 0.6);
    None: always."""
    adjust_pictures: int = Field(500_000, ge=1)
    """Real pictures shown to D over which p can go from 0 to 1 (Karras et al.'s number). A run shows it
    steps * optim.discriminator_steps * batch_size of them: a short one needs fewer here."""

    @model_validator(mode="after")
    def _has_something_to_adapt(self) -> "AugmentConfig":
        if self.target is not None and not self.policy:
            raise ValueError(
                f"target={self.target} says how often the transformations of policy are applied, and policy "
                "names none: add some, as in policy=[translation,cutout], or leave target out"
            )
        return self


def diff_augment(
    x_N3HW: Tensor, uniform_NU: Tensor, policy: tuple[str, ...], probability: Tensor | None = None
) -> Tensor:
    """Augment each picture by its own draws; gradients flow to the pictures.

    Args:
        x_N3HW: pictures.
        uniform_NU: draws from [0, 1): `DRAWS` a picture, and with a probability `GATES` after them.
        policy: any of "color", "translation", "cutout".
        probability: of each of these to be applied to a picture, (); at 0 it comes out as it was, to the bit.
            None: all are applied to all.
    """
    transformations = (
        ("color", _color, slice(0, 3)),
        ("translation", _translation, slice(3, 5)),
        ("cutout", _cutout, slice(5, 7)),
    )
    for gate, (name, transform, draws) in enumerate(transformations, DRAWS):
        if name not in policy:
            continue
        changed_N3HW = transform(x_N3HW, uniform_NU[:, draws])
        if probability is not None:
            applied_N111 = uniform_NU[:, gate, None, None, None] < probability
            changed_N3HW = torch.where(applied_N111, changed_N3HW, x_N3HW)
        x_N3HW = changed_N3HW
    return x_N3HW


def _color(x_N3HW: Tensor, uniform_N3: Tensor) -> Tensor:
    """Brightness +-0.5, saturation x0..2, contrast x0.5..1.5."""
    brightness, saturation, contrast = uniform_N3[:, :, None, None, None].unbind(1)
    x = x_N3HW + (brightness - 0.5)
    gray = x.mean(1, keepdim=True)
    x = (x - gray) * (saturation * 2) + gray
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (contrast + 0.5) + mean


def _translation(x_N3HW: Tensor, uniform_N2: Tensor) -> Tensor:
    """Shift by whole pixels, up to an eighth of the size either way; grey comes in at the border."""
    _, _, height, width = x_N3HW.shape
    pad_y, pad_x = height // 8, width // 8
    # The padded picture is read from an offset of 0 to twice the padding.
    top_N1, left_N1 = (
        (uniform_N2[:, :1] * (2 * pad_y + 1)).long(),
        (uniform_N2[:, 1:] * (2 * pad_x + 1)).long(),
    )
    rows = torch.arange(height, device=x_N3HW.device) + top_N1
    columns = torch.arange(width, device=x_N3HW.device) + left_N1
    padded = F.pad(x_N3HW, (pad_x, pad_x, pad_y, pad_y))
    sample = torch.arange(len(x_N3HW), device=x_N3HW.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cutout(x_N3HW: Tensor, uniform_N2: Tensor) -> Tensor:
    """Grey out a rectangle of half the height and width around a random place."""
    _, _, height, width = x_N3HW.shape
    top_N = (uniform_N2[:, :1] * (height + 1 - height // 2 % 2)).long() - height // 4
    left_N = (uniform_N2[:, 1:] * (width + 1 - width // 2 % 2)).long() - width // 4
    rows = torch.arange(height, device=x_N3HW.device)
    columns = torch.arange(width, device=x_N3HW.device)
    in_rows = (rows >= top_N) & (rows < top_N + height // 2)
    in_columns = (columns >= left_N) & (columns < left_N + width // 2)
    inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    return x_N3HW.masked_fill(inside, 0.0)
