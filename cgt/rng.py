"""Random draws as pure functions of (seed, stream, position).

No generator state is kept anywhere: whoever needs noise for step 7 asks for the generator of step 7. So a run
that was killed and resumed draws what the uninterrupted run drew, and every rank can draw the whole global
batch and keep its slice.
"""

import contextlib
import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor


def key(seed: int, stream: str, *position: int) -> int:
    """A 63-bit integer that depends on every argument; equal arguments give equal keys on every machine."""
    text = repr((int(seed), stream, *map(int, position)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, stream: str, *position: int) -> torch.Generator:
    """A fresh CPU generator for the draws of one `stream` (say "noise") at one `position` (say the step).

    Torch seeds it with the low 32 bits of the key: of a million positions, some hundred pairs draw alike.
    """
    return torch.Generator().manual_seed(key(seed, stream, *position))


def permutation(n: int, seed: int, stream: str, *position: int) -> Tensor:
    """A random order of 0..n-1, int64 (n,)."""
    return torch.randperm(n, generator=generator(seed, stream, *position))


def normal(shape: tuple[int, ...], seed: int, stream: str, *position: int) -> Tensor:
    """N(0, 1) draws, float32."""
    return torch.randn(shape, generator=generator(seed, stream, *position))


def truncated_normal(
    shape: tuple[int, ...], threshold: float, seed: int, stream: str, *position: int
) -> Tensor:
    """N(0, 1) within [-threshold, threshold], float32: BigGAN's truncation (Brock et al., 2019, Sec. 3.1)."""
    below = 0.5 * math.erfc(threshold / math.sqrt(2))
    uniform = torch.rand(shape, generator=generator(seed, stream, *position), dtype=torch.float64)
    z: Tensor = torch.special.ndtri(below + uniform * (1 - 2 * below))
    return z.to(torch.float32)


def uniform(shape: tuple[int, ...], seed: int, stream: str, *position: int) -> Tensor:
    """Draws from [0, 1), float32."""
    return torch.rand(shape, generator=generator(seed, stream, *position))


def integers(n: int, bound: int, seed: int, stream: str, *position: int) -> Tensor:
    """n draws from 0..bound-1, int64 (n,)."""
    return torch.randint(bound, (n,), generator=generator(seed, stream, *position))


@contextlib.contextmanager
def seeded_globally(seed: int, stream: str) -> Iterator[None]:
    """Torch's global CPU generator seeded for a block (weight initialisation uses it), and put back after.

    Those of other devices are left alone.
    """
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(key(seed, stream))
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
