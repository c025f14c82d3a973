"""Class banks and class-conditional batch norm: the only places where a generator knows classes.

At site l a generator computes  gamma_l(y, z) * BN(h) + beta_l(y, z)  with

    gamma_l(y, z) = 1 + scale_l[y] + latent_scale_l z_l        beta_l(y, z) = shift_l[y] + latent_shift_l z_l

The tables, the latent projections and the batch-norm statistics of one group of classes are a *class bank*. A
pretrained generator has one bank; a transfer appends another and touches nothing of the earlier ones.

Shapes: N samples, C_l channels of site l, n classes of one bank, B banks, K latent chunk, E width of a shared
embedding.
"""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgt.models.layers import Linear, full_precision
from cgt.models.naming import BankKind, distinct
from cgt.models.recompute import again
from cgt.models.sync_norm import SumOverRanks, synchronised_batch_norm


class ClassTables(NamedTuple):
    """What the classes of one bank are, site by site."""

    scale: tuple[Tensor, ...]
    """gamma - 1, (n, C_l)."""
    shift: tuple[Tensor, ...]
    """beta, (n, C_l)."""
    latent_scale: tuple[Tensor, ...] = ()
    """(C_l, K); empty where z reaches the first layer only."""
    latent_shift: tuple[Tensor, ...] = ()
    """(C_l, K); empty likewise."""


class Latents(NamedTuple):
    """z as the layers of a generator take it in."""

    first_NK: Tensor
    """Of the first linear layer."""
    sites_LNK: Sequence[Tensor] = ()
    """Of every site; empty where z reaches the first layer only."""


class Trunk(Protocol):
    """What a bank may ask of the generator that it is in."""

    def split(self, z_NZ: Tensor) -> Latents:
        """z, divided among the layers."""

    def draw(self, bank: "Bank", latents: Latents, y_N: Tensor) -> Tensor:
        """Pictures (N, 3, R, R) in [-1, 1] of the classes y of one bank, by its running statistics."""


class SiteStatistics(nn.Module):
    """Running mean and variance of one site, (C,)."""

    mean: Tensor
    var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self.momentum = 0.1


class Bank(nn.Module):
    """One group of classes: its names, its tables and its batch-norm statistics, the output norm's last.

    Raises:
        ValueError: no class, a class name given twice, or one that won't do as a name.
    """

    kind: ClassVar[BankKind | None] = None
    """What a model folder calls banks of this sort; those that are only trained have none."""

    def __init__(self, classes: Sequence[str], widths: Sequence[int], output_width: int) -> None:
        super().__init__()
        self.classes = distinct(classes)
        self.statistics = nn.ModuleList(SiteStatistics(width) for width in (*widths, output_width))

    def site_statistics(self) -> list[SiteStatistics]:
        """The statistics of every site, then of the output norm."""
        return [cast(SiteStatistics, statistics) for statistics in self.statistics]

    def tables(self) -> ClassTables:
        """The tables as they are now, with gradient to whatever they are made of."""
        raise NotImplementedError

    def latents(self, z_NZ: Tensor, y_N: Tensor, trunk: Trunk) -> Latents:
        """What the layers take in: z, divided among them.

        Args:
            z_NZ: latents.
            y_N: int64 classes, counted within the bank; -1 for samples of other banks, which get anything.
            trunk: the generator that the bank is in.
        """
        return trunk.split(z_NZ)

    def options(self) -> dict[str, Any]:
        """Plain values that a bank of this kind is built by, beside its classes and the generator's shape."""
        return {}

    def stored(self) -> "Bank":
        """What a model folder holds of the bank: a copy with plain tables, unless its kind is another."""
        return self.baked() if self.kind in (None, "tables") else copy.deepcopy(self)

    def baked(self) -> "Bank":
        """What gives the same with all worked out that z has no part in: by default a copy with tables."""
        with torch.no_grad():
            tables = self.tables()
            widths = [table.shape[1] for table in tables.scale]
            output_width = self.site_statistics()[-1].mean.numel()
            bank = ClassBank(self.classes, widths, output_width, latent=_latent(tables))
            bank.to(tables.scale[0])
            for own, group in zip(bank.tables(), tables, strict=True):
                for parameter, value in zip(own, group, strict=True):
                    parameter.copy_(value)
        bank.statistics.load_state_dict(self.statistics.state_dict())
        return bank


class ClassBank(Bank):
    """A bank of plain tables: what most transfers end in, and BigGAN's per-layer class embeddings.

    Args:
        classes: names, n of them.
        widths: C_l of every site.
        output_width: channels of the output norm.
        latent: K, the width of the latent chunk that reaches the sites; 0 for none.
    """

    kind = "tables"

    def __init__(
        self, classes: Sequence[str], widths: Sequence[int], output_width: int, *, latent: int = 0
    ) -> None:
        super().__init__(classes, widths, output_width)
        n = len(classes)
        self.scale = nn.ParameterList(torch.zeros(n, width) for width in widths)
        self.shift = nn.ParameterList(torch.zeros(n, width) for width in widths)
        self.latent_scale = nn.ParameterList(torch.zeros(width, latent) for width in widths if latent)
        self.latent_shift = nn.ParameterList(torch.zeros(width, latent) for width in widths if latent)

    def tables(self) -> ClassTables:
        """The parameters themselves."""
        return ClassTables(
            tuple(self.scale), tuple(self.shift), tuple(self.latent_scale), tuple(self.latent_shift)
        )


class EmbeddedBank(Bank):
    """A bank whose tables come from one embedding shared by all sites.

    It goes through a spectrally normalised W_l = [class part ; latent part] for each site's scale and shift.
    This is how BigGAN learns its classes on ImageNet (Brock et al., 2019, Sec. 3.1).
    """

    kind = "embedding"

    def __init__(
        self, classes: Sequence[str], widths: Sequence[int], output_width: int, *, shared: int, latent: int
    ) -> None:
        super().__init__(classes, widths, output_width)
        self.embedding = nn.Embedding(len(classes), shared)
        self.scale = nn.ModuleList(Linear(shared + latent, width, bias=False) for width in widths)
        self.shift = nn.ModuleList(Linear(shared + latent, width, bias=False) for width in widths)

    def class_projections(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """W_l[:, :E] (C_l, E) of every site, for scale and for shift."""
        shared = self.embedding.embedding_dim
        scale, shift = self._weights()
        return tuple(weight[:, :shared] for weight in scale), tuple(weight[:, :shared] for weight in shift)

    def tables(self) -> ClassTables:
        """W_l[:, :E] e_y for every class, and W_l[:, E:], in float32 whatever autocast says."""
        shared = self.embedding.embedding_dim
        scale, shift = self._weights()
        with full_precision(self.embedding.weight):
            tables = ClassTables(
                tuple(F.linear(self.embedding.weight, weight[:, :shared]) for weight in scale),
                tuple(F.linear(self.embedding.weight, weight[:, :shared]) for weight in shift),
            )
        if scale[0].shape[1] == shared:
            return tables
        return tables._replace(
            latent_scale=tuple(weight[:, shared:] for weight in scale),
            latent_shift=tuple(weight[:, shared:] for weight in shift),
        )

    def _weights(self) -> list[list[Tensor]]:
        """W_l of every site, for scale and for shift."""
        return [
            [cast(Linear, layer).normalised_weight() for layer in layers]
            for layers in (self.scale, self.shift)
        ]


class Condition(NamedTuple):
    """What one site applies to a batch: normalise if `statistics` is given, then x * scale + shift."""

    scale_NC: Tensor
    shift_NC: Tensor
    statistics: SiteStatistics | None


class ConditionalBatchNorm(nn.Module):
    """Batch norm whose scale and shift come from outside, per sample.

    With statistics in the condition (training) it normalises by the batch's own mean and variance and updates
    the running ones; without (evaluation) the statistics are already folded into scale and shift, and one
    affine per channel remains. `synchronise` makes the batch that of all ranks.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.sum_over_ranks: SumOverRanks | None = None

    def forward(self, x_NCHW: Tensor, condition: Condition) -> Tensor:
        """The map, normalised and moved, in its own number type."""
        statistics = condition.statistics
        if statistics is not None:
            mean, var = statistics.mean, statistics.var
            momentum = 0.0 if again() else statistics.momentum
            if self.sum_over_ranks is None:
                x_NCHW = F.batch_norm(x_NCHW, mean, var, training=True, momentum=momentum, eps=self.eps)
            else:
                x_NCHW = synchronised_batch_norm(
                    x_NCHW, mean, var, momentum=momentum, eps=self.eps, sum_over_ranks=self.sum_over_ranks
                )
        scale = condition.scale_NC[:, :, None, None].to(x_NCHW.dtype)
        shift = condition.shift_NC[:, :, None, None].to(x_NCHW.dtype)
        return torch.addcmul(shift, x_NCHW, scale)


def synchronise(network: nn.Module, sum_over_ranks: SumOverRanks | None) -> None:
    """Let all batch norms of `network`, and of its deep copies, take the statistics of all ranks' samples.

    Args:
        network: changed in place; all ranks must then run it in training mode together.
        sum_over_ranks: such as `World.sum_`; None to go back to the samples of each rank alone.
    """
    for module in network.modules():
        if isinstance(module, ConditionalBatchNorm):
            module.sum_over_ranks = sum_over_ranks


def training_conditions(
    bank: Bank,
    tables: ClassTables,
    output_affine: tuple[Tensor, Tensor],
    latents: Latents,
    y_N: Tensor,
) -> list[Condition]:
    """One condition per site and one for the output norm, for a batch of classes of one bank.

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
    return conditions


def evaluation_conditions(
    banks: Sequence[Bank],
    tables: Sequence[ClassTables],
    output_affine: tuple[Tensor, Tensor],
    latents: Sequence[Latents],
    y_N: Tensor,
    eps: float,
) -> list[Condition]:
    """`training_conditions` for a batch that may mix banks, with each bank's running statistics folded in.

    y counts over all banks; `latents` has an entry for each of them. What a sample gets does not depend on
    the other banks or samples, to the bit: lookups and elementwise arithmetic aside, every bank's latent
    projection is applied to the whole batch before the samples of the bank are picked. Steered samples alone
    are looked for in a batch of their own, on whose size their last bits depend.
    """
    bank_N = bank_of(banks, y_N)

    def lookup(per_bank: Sequence[Tensor]) -> Tensor:
        return F.embedding(y_N, per_bank[0] if len(per_bank) == 1 else torch.cat(tuple(per_bank)))

    def project(site: int, projections: Sequence[Sequence[Tensor]]) -> Tensor:
        width = tables[0].scale[site].shape[1]
        return picked(
            [
                F.linear(of_bank.sites_LNK[site], projection[site])
                if projection
                else of_bank.first_NK.new_zeros(len(y_N), width)
                for of_bank, projection in zip(latents, projections, strict=True)
            ],
            bank_N,
        )

    conditions = []
    statistics = [bank.site_statistics() for bank in banks]
    for site in range(len(statistics[0])):
        if site == len(tables[0].scale):
            gain, bias = (affine.expand(len(y_N), -1) for affine in output_affine)
        else:
            gain = 1 + lookup([table.scale[site] for table in tables])
            bias = lookup([table.shift[site] for table in tables])
            if any(table.latent_scale for table in tables):
                gain = gain + project(site, [table.latent_scale for table in tables])
                bias = bias + project(site, [table.latent_shift for table in tables])
        mean_BC = torch.stack([of_bank[site].mean for of_bank in statistics])
        var_BC = torch.stack([of_bank[site].var for of_bank in statistics])
        scale = gain * torch.rsqrt(var_BC + eps)[bank_N]
        conditions.append(Condition(scale, bias - mean_BC[bank_N] * scale, None))
    return conditions


def bank_of(banks: Sequence[Bank], y_N: Tensor) -> Tensor:
    """The number of each sample's bank, int64 (N,), of class ids that count over all banks."""
    ends = torch.tensor([len(bank.classes) for bank in banks], device=y_N.device).cumsum(0)
    return torch.bucketize(y_N.contiguous(), ends, right=True)


def picked(per_bank: Sequence[Tensor], bank_N: Tensor) -> Tensor:
    """Each sample's row of what its bank gave for the whole batch."""
    if len(per_bank) == 1:
        return per_bank[0]
    return torch.stack(tuple(per_bank))[bank_N, torch.arange(len(bank_N), device=bank_N.device)]


def tables_of_all(banks: Sequence[Bank]) -> ClassTables:
    """The tables of all classes of all banks, with the latent projections of the first bank."""
    tables = [bank.tables() for bank in banks]
    return ClassTables(
        tuple(torch.cat(parts) for parts in zip(*(of_bank.scale for of_bank in tables), strict=True)),
        tuple(torch.cat(parts) for parts in zip(*(of_bank.shift for of_bank in tables), strict=True)),
        tables[0].latent_scale,
        tables[0].latent_shift,
    )


def _latent(tables: ClassTables) -> int:
    return tables.latent_scale[0].shape[1] if tables.latent_scale else 0
