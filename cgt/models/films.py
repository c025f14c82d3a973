"""Films that go from class to class and back to the first.

Shapes: K pictures of a frame, Z latent size, R resolution.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cgt.images import enlarged, grid
from cgt.models.biggan import Generator
from cgt.models.mixes import Mix
from cgt.models.sampling import PICTURES_AT_ONCE, Drawn, grid_zoom, latent, latent_range, pictures_of


def frames_of(
    generator: Generator,
    stops: Sequence[Mix],
    steps: int,
    count: int,
    *,
    seed: int,
    truncation: float | None = None,
    moving: bool = False,
    batch_size: int = PICTURES_AT_ONCE,
) -> Iterator[Tensor]:
    """The frames of a loop, uint8 grids (3, H, W): `steps` from each stop to the next, the last going back.

    A class is mixed into the next one linearly, site by site (`Generator.interpolate`).

    Args:
        generator: in eval mode.
        stops: classes, or mixes of them.
        steps: frames on each way.
        count: K; a grid without a blank place if one is not too wide.
        seed: of the latents.
        truncation: cut them off at plus and minus this, None for not at all; of a levelled generator see
            `latent_range`.
        moving: whether every stop has latents of its own, with great arcs between them; else a picture keeps
            its latent through the film.
        batch_size: pictures at once.

    Raises:
        UserError: a truncation that a levelled generator has no statistics for.
        RunError: the generator makes values that are not finite.
    """
    z_SKZ = [
        [
            latent(generator, stop * count + k if moving else k, seed=seed, truncation=truncation)
            for k in range(count)
        ]
        for stop in range(len(stops))
    ]

    bound = latent_range(generator, truncation).largest

    def drawn() -> Iterator[Drawn]:
        for stop, mix in enumerate(stops):
            following = (stop + 1) % len(stops)
            for step in range(steps):
                share = step / steps
                between = mix.towards(stops[following], share)
                for k in range(count):
                    z_Z = z_SKZ[stop][k]
                    if moving and step:
                        z_Z = slerp(z_Z, z_SKZ[following][k], share)
                        # Halfway along an arc a number may be beyond both of its ends.
                        z_Z = z_Z if bound is None else z_Z.clamp(-bound, bound)
                    yield Drawn(z_Z, between)

    columns = _columns(count)
    pictures = pictures_of(generator, drawn(), batch_size, truncation=truncation)
    for _ in range(len(stops) * steps):
        x_K3RR = torch.stack([next(pictures) for _ in range(count)])
        yield grid(enlarged(x_K3RR, grid_zoom(generator)), columns)


def _columns(count: int) -> int:
    """Of a grid that is full and at most twice as wide as high; where there is none, one nearly square."""
    square = math.ceil(math.sqrt(count))
    full = (columns for columns in range(square, math.isqrt(2 * count) + 1) if count % columns == 0)
    return next(full, square)


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """The point at `share` of the way along the great arc between two vectors (Shoemake, 1985).

    Between normal draws, whose lengths are nearly the same, no point is nearer to 0 than such draws are.
    """
    cos = torch.nn.functional.cosine_similarity(start, end, dim=0).clamp(-1, 1)
    angle = torch.arccos(cos)
    if angle.sin() < 1e-4:  # one line: the arc is that line, or any at all
        return torch.lerp(start, end, share)
    return (((1 - share) * angle).sin() * start + (share * angle).sin() * end) / angle.sin()
