"""The space that a generator's classes are points of, and banks whose classes are a point for each z in it.

At site l a generator's scale and shift are linear in a class vector c:

    gamma_l = 1 + of_scale_l c + latent_scale_l z_l        beta_l = of_shift_l c + latent_shift_l z_l

and so is the first layer's shift, where it is a site. Where the source has an embedding shared by all sites,
c is in the embedding's space; else c mixes the source's class tables, one number a class.

Shapes: N samples, Q size of the class vector, C channels of a site, K latent chunk, M classes of the bank, S
classes of the source, F outputs of the first layer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cgt.models.norm import Bank, ClassTables, EmbeddedBank, Latents, Trunk


class ClassSpace(NamedTuple):
    """Where the classes of a generator are."""

    vectors_SQ: Tensor
    """Of its classes."""
    of_scale: tuple[Tensor, ...]
    """(C, Q) site by site."""
    of_shift: tuple[Tensor, ...]
    """(C, Q) site by site."""
    of_first: tuple[Tensor, ...]
    """(F, Q); empty where classes have no part in the first layer."""


@torch.no_grad()
def class_space(banks: Sequence[Bank], tables: ClassTables) -> ClassSpace:
    """The class space of a generator with these banks.

    Args:
        banks: all of them, as they were trained.
        tables: of all classes of all banks.
    """
    first = banks[0]
    if len(banks) == 1 and isinstance(first, EmbeddedBank):
        return ClassSpace(first.embedding.weight.detach(), *first.class_projections())
    return ClassSpace(
        torch.eye(len(tables.scale[0])),
        tuple(table.mT for table in tables.scale),
        tuple(table.mT for table in tables.shift),
        tuple(table.mT for table in tables.first),
    )


class LatentBank(Bank):
    """A bank whose classes are class vectors that depend on z, which may itself become another.

    Args:
        classes: M names.
        widths: C of every site.
        output_width: channels of the output norm.
        latent: K, the width of the latent chunk that reaches the sites; 0 for none.
        first: F, where the first layer is a site too; 0 where it is not.
        space: Q.
    """

    def __init__(
        self,
        classes: Sequence[str],
        widths: Sequence[int],
        output_width: int,
        *,
        latent: int,
        first: int,
        space: int,
    ) -> None:
        super().__init__(classes, widths, output_width)
        self.latent_scale = nn.ParameterList(torch.zeros(width, latent + space) for width in widths)
        self.latent_shift = nn.ParameterList(torch.zeros(width, latent + space) for width in widths)
        self.latent_first = nn.ParameterList([torch.zeros(first, latent + space)] if first else [])
        self.mean_Q: Tensor
        self.spread_Q: Tensor
        self.register_buffer("mean_Q", torch.zeros(space))
        self.register_buffer("spread_Q", torch.ones(space))

    @torch.no_grad()
    def take(self, space: ClassSpace, tables: ClassTables, first: Bank) -> None:
        """Take the source's projections, the mean and spread of its classes' vectors, and the running
        statistics of its first bank to begin with.
        """
        self.take_statistics(first)
        for own, of_class, of_latent in (
            (self.latent_scale, space.of_scale, tables.latent_scale),
            (self.latent_shift, space.of_shift, tables.latent_shift),
            (self.latent_first, space.of_first, tables.latent_first),
        ):
            for site, projection in enumerate(own):
                parts = [of_latent[site], of_class[site]] if of_latent else [of_class[site]]
                projection.copy_(torch.cat(parts, 1))
        self.mean_Q.copy_(space.vectors_SQ.mean(0))
        self.spread_Q.copy_(space.vectors_SQ.std(0, correction=0).clamp_min(1e-6))

    def tables(self) -> ClassTables:
        """Nothing of the class alone, and the projections of the latent chunk and the class vector."""
        like, n = self.mean_Q, len(self.classes)
        nothing = tuple(like.new_zeros(n, len(projection)) for projection in self.latent_scale)
        return ClassTables(
            nothing,
            nothing,
            tuple(self.latent_scale),
            tuple(self.latent_shift),
            tuple(like.new_zeros(n, len(projection)) for projection in self.latent_first),
            tuple(self.latent_first),
        )

    def latents(self, z_NZ: Tensor, y_N: Tensor, trunk: Trunk) -> Latents:
        """z as it becomes, divided among the layers, and beside each site's chunk the class vector."""
        return self.joined(*self.points(z_NZ, y_N, trunk), trunk)

    def points(self, z_NZ: Tensor, y_N: Tensor, trunk: Trunk) -> tuple[Tensor, Tensor]:
        """The z to use, and the class vector (N, Q) in spreads of the source's classes from their mean.

        The arguments are those of `latents`.
        """
        raise NotImplementedError

    def joined(self, z_NZ: Tensor, standard_NQ: Tensor, trunk: Trunk) -> Latents:
        """What the layers take in at these points."""
        c_NQ = self.mean_Q + self.spread_Q * standard_NQ
        first_NK, chunks = trunk.split(z_NZ)
        sites = [torch.cat([chunk, c_NQ], 1) for chunk in chunks] or [c_NQ] * len(self.latent_scale)
        if self.latent_first:
            first_NK = torch.cat([first_NK, c_NQ], 1)
        return Latents(first_NK, sites)
