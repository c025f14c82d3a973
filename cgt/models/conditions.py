"""What classes and latents make of the sites of a generator: for each sample one scale and shift a channel.

Shapes: N samples, C channels of a site, n classes of one bank, B banks, K latent chunk, F outputs of the
first layer.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cgt.models.norm import Bank, ClassTables, Condition, Latents


class Conditions(NamedTuple):
    """What the classes and the latents of a batch make of the layers of a generator."""

    first: Tensor
    """What the first layer takes in, (N, K); or where it is a site, its shift (N, F)."""
    sites: list[Condition]
    """Of every site, then of the output norm."""


def training_conditions(
    bank: Bank,
    tables: ClassTables,
    output_affine: tuple[Tensor, Tensor],
    latents: Latents,
    y_N: Tensor,
) -> Conditions:
    """The conditions of a batch of classes of one bank.

    Args:
        bank: its statistics are the ones updated.
        tables: of this bank.
        output_affine: gain and bias (C,) of the output norm.
        latents: of the batch, as the bank gives them.
        y_N: int64 in [0, n), counted within the bank.
    """
    conditions = []
    for site, statistics in enumerate(bank.site_statistics()):
        if site == len(tables.scale):
            gain, bias = (affine.expand(len(y_N), -1) for affine in output_affine)
        else:
            gain = 1 + F.embedding(y_N, tables.scale[site])
            bias = F.embedding(y_N, tables.shift[site])
            if tables.latent_scale:
                gain = gain + F.linear(latents.sites_LNK[site], tables.latent_scale[site])
                bias = bias + F.linear(latents.sites_LNK[site], tables.latent_shift[site])
        conditions.append(Condition(gain, bias, statistics))
    first = latents.first_NK
    if tables.first:
        first = F.embedding(y_N, tables.first[0]) + F.linear(first, tables.latent_first[0])
    return Conditions(first, conditions)


class Located(NamedTuple):
    """Where the classes of a batch are, in a generator of several banks."""

    bank_N: Tensor
    """int64 numbers of their banks."""
    row_N: Tensor
    """int64, counted within the bank."""

    def within(self, number: int, otherwise: int) -> Tensor:
        """The rows of one bank's samples, and this for the others."""
        return torch.where(self.bank_N == number, self.row_N, otherwise)


def located(banks: Sequence[Bank], y_N: Tensor) -> Located:
    """Bank and row of class ids that count over all banks."""
    bank_N, row_N = torch.zeros_like(y_N), y_N
    ends = itertools.accumulate(len(bank.classes) for bank in banks)
    # A tensor of the ends would have to be waited for on a GPU.
    for bank, end in zip(banks[:-1], ends, strict=False):
        beyond_N = (y_N >= end).long()
        bank_N, row_N = bank_N + beyond_N, row_N - beyond_N * len(bank.classes)
    return Located(bank_N, row_N)


def evaluation_conditions(
    banks: Sequence[Bank],
    tables: Sequence[ClassTables],
    output_affine: tuple[Tensor, Tensor],
    latents: Sequence[Latents],
    place: Located,
    eps: float,
    truncation: float = 1.0,
) -> Conditions:
    """`training_conditions` for a batch that may mix banks, with each bank's running statistics folded in.

    `latents` has an entry for each of the banks. What a sample gets does not depend on the other banks or
    samples, to the bit: lookups and elementwise arithmetic aside, every bank's latent projection is applied
    to the whole batch before the samples of the bank are picked. Steered samples alone
    are looked for in a batch of their own, on whose size their last bits depend. Banks whose statistics go by
    truncation take those of `truncation`, in (0, 1].
    """
    # Sizes of batches are read off shapes here: to `torch.export`, len() makes a size a constant.
    bank_N = place.bank_N
    rows = [place.within(number, 0) for number in range(len(banks))] if len(banks) > 1 else [place.row_N]

    def lookup(per_bank: Sequence[Tensor]) -> Tensor:
        # Each bank by itself: to join their tables would copy those of all classes.
        found = [F.embedding(row_N, table) for row_N, table in zip(rows, per_bank, strict=True)]
        return picked(found, bank_N)

    def of_bank(per_bank: Sequence[Tensor]) -> Tensor:
        return per_bank[0] if len(per_bank) == 1 else torch.stack(tuple(per_bank))[bank_N]

    def project(site: int, projections: Sequence[Sequence[Tensor]]) -> Tensor:
        width = tables[0].scale[site].shape[1]
        return picked(
            [
                F.linear(own.sites_LNK[site], projection[site])
                if projection
                else own.first_NK.new_zeros(bank_N.shape[0], width)
                for own, projection in zip(latents, projections, strict=True)
            ],
            bank_N,
        )

    conditions = []
    statistics = [[site.at(truncation) for site in bank.site_statistics()] for bank in banks]
    for site in range(len(statistics[0])):
        if site == len(tables[0].scale):
            gain, bias = (affine.expand(bank_N.shape[0], -1) for affine in output_affine)
        else:
            gain = 1 + lookup([table.scale[site] for table in tables])
            bias = lookup([table.shift[site] for table in tables])
            if any(table.latent_scale for table in tables):
                gain = gain + project(site, [table.latent_scale for table in tables])
                bias = bias + project(site, [table.latent_shift for table in tables])
        means, variances = zip(*(site_of[site] for site_of in statistics), strict=True)
        scale = gain * of_bank([torch.rsqrt(var_C + eps) for var_C in variances])
        conditions.append(Condition(scale, bias - of_bank(means) * scale, None))
    if not tables[0].first:
        return Conditions(picked([own.first_NK for own in latents], bank_N), conditions)
    shifts = [
        F.linear(own.first_NK, table.latent_first[0]) for own, table in zip(latents, tables, strict=True)
    ]
    return Conditions(lookup([table.first[0] for table in tables]) + picked(shifts, bank_N), conditions)


def picked(per_bank: Sequence[Tensor], bank_N: Tensor) -> Tensor:
    """Each sample's row of what its bank gave for the whole batch."""
    if len(per_bank) == 1:
        return per_bank[0]
    return torch.stack(tuple(per_bank))[bank_N, torch.arange(bank_N.shape[0], device=bank_N.device)]
