"""Which picture comes when: a function of (seed, epoch) and of the place in the global batch alone."""

import torch
from torch import Tensor

from cgt import rng
from cgt.errors import UserError


def flips(n: int, seed: int, epoch: int) -> Tensor:
    """Which of the n places of an epoch show their picture mirrored, bool (n,): each with probability 1/2."""
    return rng.integers(n, 2, seed, "data-flips", epoch).to(torch.bool)


def share(count: int, rank: int, world: int) -> slice:
    """The contiguous part of `count` places that is this rank's; the parts of all ranks tile them."""
    return slice(count * rank // world, count * (rank + 1) // world)


def check_batch_size(batch_size: int, world: int) -> None:
    """Refuse a global batch that the ranks can't share evenly.

    Raises:
        UserError: `batch_size` is not a positive multiple of `world`.
    """
    if batch_size < 1 or batch_size % world:
        raise UserError(
            f"a global batch of {batch_size} pictures can't be shared evenly by {world} processes: "
            f"set batch_size to a multiple of {world}."
        )
