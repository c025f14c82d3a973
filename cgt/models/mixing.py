"""Pictures between all classes at once, given a weight for each of them.

What `Generator.interpolate` does with J classes, with the rows of all tables mixed in one product a site: for
graphs whose inputs can't be a list of classes.

Shapes: N samples, S classes of all banks, M classes of a part, Z latent size, C channels of a site.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cgt.models.banks import banks_of
from cgt.models.biggan import Generator
from cgt.models.class_space import LatentBank
from cgt.models.conditions import Conditions
from cgt.models.norm import Bank, ClassTables, Condition, Latents


class _Part(NamedTuple):
    """Classes of one bank that take z in alike: all of it, or one where each makes another z of it."""

    bank: Bank
    tables: ClassTables
    latents: Latents
    weight_NM: Tensor


def mixed(generator: Generator, z_NZ: Tensor, weight_NS: Tensor, *, truncation: float = 1.0) -> Tensor:
    """Pictures (N, 3, R, R) in [-1, 1] between the classes.

    Args:
        generator: in eval mode.
        z_NZ: latents.
        weight_NS: of every class, in the order of `classes`; usually from 0 to 1 with the sum 1, beyond that
            they extrapolate.
        truncation: as in `Generator.forward`.
    """
    assert not generator.training, "classes are mixed by their running statistics, in eval mode"
    parts = list(_parts(generator, z_NZ, weight_NS))
    sites = range(len(generator.last_bank.site_statistics()))
    return generator.synthesise(
        Conditions(
            torch.stack([_first(part) for part in parts]).sum(0),
            [_condition(generator, parts, site, truncation) for site in sites],
        )
    )


def _parts(generator: Generator, z_NZ: Tensor, weight_NS: Tensor) -> Iterator[_Part]:
    first = 0
    for bank in banks_of(generator):
        tables, n = bank.tables(), len(bank.classes)
        weight_NM = weight_NS[:, first : first + n]
        # Miners give every class its own z: each is a part of its own.
        for rows in [slice(m, m + 1) for m in range(n)] if isinstance(bank, LatentBank) else [slice(0, n)]:
            y_N = torch.full_like(weight_NS[:, 0], rows.start, dtype=torch.int64)
            of_rows = tables._replace(
                scale=tuple(table[rows] for table in tables.scale),
                shift=tuple(table[rows] for table in tables.shift),
                first=tuple(table[rows] for table in tables.first),
            )
            yield _Part(bank, of_rows, bank.latents(z_NZ, y_N, generator), weight_NM[:, rows])
        first += n


def _first(part: _Part) -> Tensor:
    """What a part adds to what the first layer takes in, or where it is a site, to its shift."""
    first_NK: Tensor = _total(part) * part.latents.first_NK
    if not part.tables.first:
        return first_NK
    return part.weight_NM @ part.tables.first[0] + F.linear(first_NK, part.tables.latent_first[0])


def _condition(generator: Generator, parts: list[_Part], site: int, truncation: float) -> Condition:
    """The weighted sum of what the classes apply at one site, statistics folded in."""
    scales, shifts = zip(*(_affine(generator, part, site, truncation) for part in parts), strict=True)
    return Condition(torch.stack(scales).sum(0), torch.stack(shifts).sum(0), None)


def _affine(generator: Generator, part: _Part, site: int, truncation: float) -> tuple[Tensor, Tensor]:
    """Scale and shift (N, C) that a part adds at a site."""
    tables, latents, total_N1 = part.tables, part.latents, _total(part)
    if site == len(tables.scale):
        affine = generator.output_affine
        gain_NC, bias_NC = total_N1 * affine.gain, total_N1 * affine.bias
    else:
        gain_NC = total_N1 + part.weight_NM @ tables.scale[site]
        bias_NC = part.weight_NM @ tables.shift[site]
        if tables.latent_scale:
            gain_NC = gain_NC + total_N1 * F.linear(latents.sites_LNK[site], tables.latent_scale[site])
            bias_NC = bias_NC + total_N1 * F.linear(latents.sites_LNK[site], tables.latent_shift[site])
    mean_C, var_C = part.bank.site_statistics()[site].at(truncation)
    scale_NC = gain_NC * torch.rsqrt(var_C + generator.config.bn_eps)
    return scale_NC, bias_NC - mean_C * scale_NC


def _total(part: _Part) -> Tensor:
    """(N, 1)"""
    return part.weight_NM.sum(1, keepdim=True)
