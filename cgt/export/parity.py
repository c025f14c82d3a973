"""How far what was exported is from the model: the greatest difference of pictures, bank by bank.

Shapes: N pictures, J classes that are mixed, S exported classes, Z latent size, R resolution.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cgt import rng
from cgt.errors import RunError, UserError
from cgt.models.banks import banks_of
from cgt.models.biggan import Generator
from cgt.models.conditions import located
from cgt.models.sampling import latent_range

LIMIT = 1e-4
"""What differs by more, in pictures of [-1, 1], is not written."""
BATCHES = (1, 7, 64)
PIXELS = 2**22
"""Of the largest batch, at most: beyond 256 px it has fewer pictures, for which memory suffices anywhere."""
MIXED = 3
"""Classes of a mix, where there are so many."""


@dataclass(frozen=True)
class Parity:
    """Greatest differences of pictures in [-1, 1]."""

    by_bank: tuple[float, ...]
    """For the classes of each of `compared_banks`."""
    mixing: float | None = None
    """For mixes of classes, where the target has them."""

    @property
    def greatest(self) -> float:
        """Of all."""
        return max((*self.by_bank, *(() if self.mixing is None else (self.mixing,))), default=0.0)


def measure(
    reference: Generator,
    classes: Sequence[str],
    exported: Callable[[Tensor, Tensor], Tensor],
    mixing: Callable[[Tensor, Tensor], Tensor] | None = None,
    *,
    truncation: float | None = None,
) -> Parity:
    """`difference`, which must be within `LIMIT`.

    Raises:
        UserError: the model makes values that are not finite.
        RunError: the difference is greater.
    """
    parity = difference(reference, classes, exported, mixing, truncation=truncation)
    if parity.greatest > LIMIT:
        raise RunError(
            f"what was exported makes other pictures than the model: by {parity.greatest:.2g} (in [-1, 1]), "
            f"and {LIMIT:g} is allowed, so nothing was written. Either versions of the packages don't "
            "fit together, or the model magnifies rounding; with --no-verify it is written as it is."
        )
    return parity


@torch.no_grad()
def difference(
    reference: Generator,
    classes: Sequence[str],
    exported: Callable[[Tensor, Tensor], Tensor],
    mixing: Callable[[Tensor, Tensor], Tensor] | None = None,
    *,
    truncation: float | None = None,
) -> Parity:
    """Compare an export with its model, by batches of 1, 7 and 64 pictures of classes of all its banks.

    Args:
        reference: the model's generator, in eval mode.
        classes: those exported, in the model's order.
        exported: what was written, read again: pictures of z (N, Z) and class ids (N,) that count along
            `classes`.
        mixing: likewise its second entry, of z and weights (N, S).
        truncation: of z.

    Raises:
        UserError: the model makes values that are not finite.
    """
    id_S = torch.tensor([reference.classes.index(name) for name in classes])
    bank_S = located(banks_of(reference), id_S).bank_N
    of_banks = {number: (bank_S == number).nonzero()[:, 0] for number in compared_banks(reference, classes)}
    worst = dict.fromkeys(of_banks, 0.0)
    level = reference.level(truncation)
    for z_NZ, y_N in _batches(reference, list(of_banks.values()), truncation):
        wanted_N3RR = reference(z_NZ, id_S[y_N], truncation=level)
        difference_N = _difference(wanted_N3RR, exported(z_NZ, y_N))
        for number in bank_S[y_N].unique().tolist():
            worst[number] = max(worst[number], difference_N[bank_S[y_N] == number].max().item())
    mixes = None if mixing is None else _of_mixes(reference, id_S, mixing, truncation)
    return Parity(tuple(worst.values()), mixes)


def compared_banks(reference: Generator, classes: Collection[str]) -> list[int]:
    """The numbers of the banks that some of the classes are of, and whose pictures can be compared.

    Steered ones can't: the gradient steps that look for a picture magnify the rounding of its last bits.
    """
    return [
        number
        for number, bank in enumerate(banks_of(reference))
        if bank.kind != "steered" and not set(bank.classes).isdisjoint(classes)
    ]


def batch_sizes(resolution: int) -> list[int]:
    """Pictures of the batches that are compared."""
    return sorted({min(size, PIXELS // resolution**2) for size in BATCHES})


def _batches(
    reference: Generator, of_banks: Sequence[Tensor], truncation: float | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """z and ids within the exported classes: one picture of each bank, then mixed batches.

    Args:
        reference: the model's generator.
        of_banks: of every bank the ids to choose from.
        truncation: of z.
    """
    if not of_banks:
        return
    batch, most = 0, sum(len(ids) for ids in of_banks)
    for size in batch_sizes(reference.resolution):
        for start in range(len(of_banks) if size == 1 else 1):
            # Banks take turns, so that every one has its pictures however few classes it has.
            choice = rng.integers(size, most, 0, "parity classes", batch)
            y = [of_banks[(start + i) % len(of_banks)] for i in range(size)]
            y_N = torch.stack([ids[c % len(ids)] for ids, c in zip(y, choice, strict=True)])
            yield latents(reference, size, batch, truncation), y_N
            batch += 1


def _of_mixes(
    reference: Generator,
    id_S: Tensor,
    mixing: Callable[[Tensor, Tensor], Tensor],
    truncation: float | None,
) -> float:
    """The greatest difference of mixes, of classes drawn from all."""
    worst = 0.0
    for batch, size in enumerate(BATCHES[:2]):
        z_NZ = latents(reference, size, len(BATCHES) + batch, truncation)
        rank_NS = rng.normal((size, len(id_S)), 0, "parity mixes", batch)
        y_NJ = rank_NS.argsort(1)[:, :MIXED]
        weight_NJ = rng.normal(tuple(y_NJ.shape), 0, "parity weights", batch).softmax(1)
        weight_NS = torch.zeros(size, len(id_S)).scatter(1, y_NJ, weight_NJ)
        wanted = reference.interpolate(z_NZ, id_S[y_NJ], weight_NJ, truncation=reference.level(truncation))
        worst = max(worst, _difference(wanted, mixing(z_NZ, weight_NS)).max().item())
    return worst


def latents(reference: Generator, count: int, number: int, truncation: float | None) -> Tensor:
    """z (count, Z) of batch `number`."""
    shape = (count, reference.dim_z)
    return latent_range(reference, truncation).drawn(shape, 0, "parity latents", number)


def _difference(wanted_N3RR: Tensor, found_N3RR: Tensor) -> Tensor:
    """The greatest difference of each picture's values, (N,); infinite for what is no picture."""
    if not wanted_N3RR.isfinite().all():
        raise UserError(
            "the model makes pictures with values that are not finite (NaN or infinity): its training has "
            "diverged. Take an earlier checkpoint."
        )
    if found_N3RR.shape != wanted_N3RR.shape:
        return torch.full((len(wanted_N3RR),), torch.inf)
    return (found_N3RR - wanted_N3RR).abs().nan_to_num(torch.inf).flatten(1).amax(1)
