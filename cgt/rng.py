"""Random draws as pure functions of (seed, stream, position).

No generator state is kept anywhere: whoever needs noise for step 7 asks for the generator of step 7. So a run
that was killed and resumed draws what the uninterrupted run drew, and every rank can draw the whole global batch
and keep its slice.
"""

import hashlib

import torch
from torch import Tensor


def key(seed: int, stream: str, *position: int) -> int:
    """A 63-bit integer that depends on every argument; equal arguments give equal keys on every machine."""
    text = f"{seed}/{stream}/{'/'.join(map(str, position))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, stream: str, *position: int) -> torch.Generator:
    """A fresh CPU generator for the draws of one `stream` (say "noise") at one `position` (say the step)."""
    return torch.Generator().manual_seed(key(seed, stream, *position))


def permutation(n: int, seed: int, stream: str, *position: int) -> Tensor:
    """A random order of 0..n-1, int64 (n,)."""
    return torch.randperm(n, generator=generator(seed, stream, *position))
