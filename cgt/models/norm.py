"""Class banks and class-conditional batch norm: the only places where a generator knows classes.

At site l a generator computes  gamma_l(y, z) * BN(h) + beta_l(y, z)  with

    gamma_l(y, z) = 1 + scale_l[y] + latent_scale_l z_l        beta_l(y, z) = shift_l[y] + latent_shift_l z_l

BigGAN-deep's first layer is one more site, with a shift alone and no norm:

    first(y, z) = first[y] + latent_first z

The tables, the latent projections and the batch-norm statistics of one group of classes are a *class bank*. A
pretrained generator has one bank; a transfer appends another and touches nothing of the earlier ones.

Shapes: N samples, C_l channels of site l, n classes of one bank, B banks, K latent chunk, E width of a shared
embedding, F outputs of the first layer, T levels of truncation.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgt.models.layers import Linear, full_precision
from cgt.models.naming import BankKind, distinct
from cgt.models.site_statistics import SiteStatistics

if TYPE_CHECKING:
    from cgt.models.norm_relu import SumOverRanks


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
    first: tuple[Tensor, ...] = ()
    """(n, F), the shift of the first layer; empty where the classes have no part in it."""
    latent_first: tuple[Tensor, ...] = ()
    """(F, K); empty likewise."""

    @property
    def of_classes(self) -> tuple[Tensor, ...]:
        """All that have a row a class."""
        return self.scale + self.shift + self.first

    @property
    def of_latents(self) -> tuple[Tensor, ...]:
        """All that z is multiplied by."""
        return self.latent_scale + self.latent_shift + self.latent_first


class Latents(NamedTuple):
    """z as the layers of a generator take it in."""

    first_NK: Tensor
    """Of the first layer."""
    sites_LNK: Sequence[Tensor] = ()
    """Of every site; empty where z reaches the first layer only."""


class Trunk(Protocol):
    """What a bank may ask of the generator that it is in."""

    def split(self, z_NZ: Tensor) -> Latents:
        """z, divided among the layers."""

    def draw(self, bank: "Bank", latents: Latents, y_N: Tensor) -> Tensor:
        """Pictures (N, 3, R, R) in [-1, 1] of the classes y of one bank, by its running statistics."""


class Bank(nn.Module):
    """One group of classes: its names, its tables and its batch-norm statistics, the output norm's last.

    Args:
        classes: names, n of them.
        widths: C_l of every site.
        output_width: channels of the output norm.
        levels: T, the truncations that there are statistics for; 1 for running statistics.

    Raises:
        ValueError: no class, a class name given twice, or one that won't do as a name.
    """

    kind: ClassVar[BankKind | None] = None
    """What a model folder calls banks of this sort; those that are only trained have none."""

    def __init__(
        self, classes: Sequence[str], widths: Sequence[int], output_width: int, *, levels: int = 1
    ) -> None:
        super().__init__()
        self.classes = distinct(classes)
        self.levels = levels
        self.statistics = nn.ModuleList(SiteStatistics(width, levels) for width in (*widths, output_width))

    def site_statistics(self) -> list[SiteStatistics]:
        """The statistics of every site, then of the output norm."""
        return [cast(SiteStatistics, statistics) for statistics in self.statistics]

    @torch.no_grad()
    def take_statistics(self, other: "Bank", first_site: int = 0) -> None:
        """Copy another's statistics, from a site on; where they go by truncation, those without any."""
        pairs = zip(self.site_statistics(), other.site_statistics(), strict=True)
        for own, theirs in list(pairs)[first_site:]:
            levels = own.mean.dim() == theirs.mean.dim()
            mean, var = (theirs.mean, theirs.var) if levels else theirs.at(1.0)
            own.mean.copy_(mean)
            own.var.copy_(var)

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
        return {"levels": self.levels} if self.levels > 1 else {}

    @torch.no_grad()
    def only(self, rows: Sequence[int]) -> "Bank":
        """A copy with these of its classes alone, each as it is, counted within the bank."""
        bank = copy.deepcopy(self)
        bank.classes = tuple(self.classes[row] for row in rows)
        bank.keep(list(rows))
        return bank

    def keep(self, rows: list[int]) -> None:
        """Let go, in place, what is of other classes than these."""
        raise NotImplementedError

    def stored(self) -> "Bank":
        """What a model folder holds of the bank: a copy with plain tables, unless its kind is another."""
        return self.baked() if self.kind in (None, "tables") else copy.deepcopy(self)

    def baked(self) -> "Bank":
        """What gives the same with all worked out that z has no part in: by default a copy with tables."""
        with torch.no_grad():
            tables = self.tables()
            widths = [table.shape[1] for table in tables.scale]
            output_width = self.site_statistics()[-1].mean.shape[-1]
            first = sum(table.shape[1] for table in tables.first)
            bank = ClassBank(
                self.classes,
                widths,
                output_width,
                latent=_latent(tables),
                first=first,
                levels=self.levels,
            )
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
        first: F, where the first layer is a site too; 0 where it is not.
        levels: T, the truncations that there are statistics for; 1 for running statistics.
    """

    kind = "tables"

    def __init__(
        self,
        classes: Sequence[str],
        widths: Sequence[int],
        output_width: int,
        *,
        latent: int = 0,
        first: int = 0,
        levels: int = 1,
    ) -> None:
        super().__init__(classes, widths, output_width, levels=levels)
        n = len(classes)
        self.scale = nn.ParameterList(torch.zeros(n, width) for width in widths)
        self.shift = nn.ParameterList(torch.zeros(n, width) for width in widths)
        self.latent_scale = nn.ParameterList(torch.zeros(width, latent) for width in widths if latent)
        self.latent_shift = nn.ParameterList(torch.zeros(width, latent) for width in widths if latent)
        self.first = nn.ParameterList([torch.zeros(n, first)] if first else [])
        self.latent_first = nn.ParameterList([torch.zeros(first, latent)] if first else [])

    def tables(self) -> ClassTables:
        """The parameters themselves."""
        return ClassTables(
            tuple(self.scale),
            tuple(self.shift),
            tuple(self.latent_scale),
            tuple(self.latent_shift),
            tuple(self.first),
            tuple(self.latent_first),
        )

    def keep(self, rows: list[int]) -> None:
        """Those rows of every table."""
        for table in (*self.scale, *self.shift, *self.first):
            table.data = table.data[rows]


class EmbeddedBank(Bank):
    """A bank whose tables come from one embedding shared by all sites.

    It goes through a spectrally normalised W_l = [class part ; latent part] for each site's scale and shift.
    This is how BigGAN learns its classes on ImageNet (Brock et al., 2019, Sec. 3.1).

    Args:
        classes: names, n of them.
        widths: C_l of every site.
        output_width: channels of the output norm.
        shared: E.
        latent: K, the width of the latent chunk that reaches the sites; 0 for none.
        first: F, where the first layer is a site too; 0 where it is not.
        levels: T, the truncations that there are statistics for; 1 for running statistics.
    """

    kind = "embedding"

    def __init__(
        self,
        classes: Sequence[str],
        widths: Sequence[int],
        output_width: int,
        *,
        shared: int,
        latent: int,
        first: int = 0,
        levels: int = 1,
    ) -> None:
        super().__init__(classes, widths, output_width, levels=levels)
        self.embedding = nn.Embedding(len(classes), shared)
        self.scale = nn.ModuleList(Linear(shared + latent, width, bias=False) for width in widths)
        self.shift = nn.ModuleList(Linear(shared + latent, width, bias=False) for width in widths)
        self.first = nn.ModuleList([Linear(shared + latent, first, bias=False)] if first else [])

    def keep(self, rows: list[int]) -> None:
        """Those rows of the embedding."""
        self.embedding = nn.Embedding.from_pretrained(self.embedding.weight[rows], freeze=False)

    def class_projections(self) -> tuple[tuple[Tensor, ...], ...]:
        """W_l[:, :E] (C_l, E) of every site, for scale, for shift and for the first layer."""
        shared = self.embedding.embedding_dim
        return tuple(tuple(weight[:, :shared] for weight in weights) for weights in self._weights())

    def tables(self) -> ClassTables:
        """W_l[:, :E] e_y for every class, and W_l[:, E:], in float32 whatever autocast says."""
        shared = self.embedding.embedding_dim
        weights = self._weights()
        with full_precision(self.embedding.weight):
            scale, shift, first = (
                tuple(F.linear(self.embedding.weight, weight[:, :shared]) for weight in of_kind)
                for of_kind in weights
            )
        tables = ClassTables(scale, shift, first=first)
        if weights[0][0].shape[1] == shared:
            return tables
        latent_scale, latent_shift, latent_first = (
            tuple(weight[:, shared:] for weight in of_kind) for of_kind in weights
        )
        return tables._replace(
            latent_scale=latent_scale, latent_shift=latent_shift, latent_first=latent_first
        )

    def _weights(self) -> list[list[Tensor]]:
        """W_l of every site, for scale, for shift and for the first layer."""
        return [
            [cast(Linear, layer).normalised_weight() for layer in layers]
            for layers in (self.scale, self.shift, self.first)
        ]


class Condition(NamedTuple):
    """What one site applies to a batch: normalise if `statistics` is given, then x * scale + shift."""

    scale_NC: Tensor
    shift_NC: Tensor
    statistics: SiteStatistics | None


class ConditionalBatchNormReLU(nn.Module):
    """Batch norm whose scale and shift come from outside, per sample, and the ReLU that follows all of them.

    With statistics in the condition (training) it normalises by the batch's own mean and variance and updates
    the running ones; without (evaluation) the statistics are already folded into scale and shift, and one
    affine per channel remains. `synchronise` makes the batch that of all ranks.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.sum_over_ranks: SumOverRanks | None = None

    def forward(self, x_NCHW: Tensor, condition: Condition) -> Tensor:
        """The map, normalised, moved and cut off below 0, in its own number type."""
        scale_NC11 = condition.scale_NC[:, :, None, None].to(x_NCHW.dtype)
        shift_NC11 = condition.shift_NC[:, :, None, None].to(x_NCHW.dtype)
        statistics = condition.statistics
        if statistics is not None:
            if self.sum_over_ranks is not None or not torch.compiler.is_compiling():
                # It comes with torch's compiler, which takes seconds to import.
                from cgt.models.norm_relu import norm_scale_shift_relu

                activated: Tensor = norm_scale_shift_relu(
                    x_NCHW,
                    scale_NC11,
                    shift_NC11,
                    statistics,
                    eps=self.eps,
                    sum_over_ranks=self.sum_over_ranks,
                )
                return activated
            mean, var, momentum = statistics.mean, statistics.var, statistics.momentum
            x_NCHW = F.batch_norm(x_NCHW, mean, var, training=True, momentum=momentum, eps=self.eps)
        # In place, for a second map costs as much as the arithmetic.
        return torch.addcmul(shift_NC11, x_NCHW, scale_NC11).relu_()


def synchronise(network: nn.Module, sum_over_ranks: "SumOverRanks | None") -> None:
    """Let all batch norms of `network`, and of its deep copies, take the statistics of all ranks' samples.

    Args:
        network: changed in place; all ranks must then run it in training mode together.
        sum_over_ranks: such as `World.sum_`; None to go back to the samples of each rank alone.
    """
    for module in network.modules():
        if isinstance(module, ConditionalBatchNormReLU):
            module.sum_over_ranks = sum_over_ranks


def tables_of_all(banks: Sequence[Bank]) -> ClassTables:
    """The tables of all classes of all banks, with the latent projections of the first bank."""
    return stacked([bank.tables() for bank in banks])


def stacked(tables: Sequence[ClassTables]) -> ClassTables:
    """The classes of several tables, one after the other, with the latent projections of the first."""

    def joined(groups: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(*groups, strict=True))

    return tables[0]._replace(
        scale=joined(part.scale for part in tables),
        shift=joined(part.shift for part in tables),
        first=joined(part.first for part in tables),
    )


def _latent(tables: ClassTables) -> int:
    return tables.latent_scale[0].shape[1] if tables.latent_scale else 0
