"""The tables that cGANTransfer's program (layers.py, `ccbn`) makes of what it trains, as plain tables.

At every site a new class y and a chunk z of the latent get the gain

    1 + P (S[:, y] + s) + p + Z z + d + R[:, y]

and the shift likewise without the 1, with S, s the weight and bias of `comb_layer`, P, p of `prev_knowledge`,
Z, d of `z_layer` and the weight R of `res`: s, p and d are the same for all new classes. In the ImageNet tree
S, P and Z are spectrally normalised at every use, each on its own and without its bias, from the stored
vectors; P has no bias there. In the CIFAR tree nothing is normalised, and P has one.

Shapes: N source classes, M new classes, C channels of a site, K latent chunk.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cgt.models.layers import Linear
from cgt.models.norm import ClassTables


class SiteTable(nn.Module):
    """Of one site, for scale or shift: what the program computes it from."""

    def __init__(self, old: int, new: int, width: int, latent: int, *, normalised: bool) -> None:
        super().__init__()
        linear = Linear if normalised else nn.Linear
        self.scores = linear(new, old)
        self.prior = linear(old, width, bias=not normalised)
        self.latent = linear(latent, width) if latent else None
        self.residuals = nn.Linear(new, width, bias=False)

    def table(self) -> Tensor:
        """(M, C): of the new classes, all but what z adds."""
        score_NM = _weight(self.scores) + self.scores.bias[:, None]
        table_CM = _weight(self.prior) @ score_NM + self.residuals.weight
        for layer in (self.prior, self.latent):
            if layer is not None and layer.bias is not None:
                table_CM = table_CM + layer.bias[:, None]
        return table_CM.mT

    def latent_projection(self) -> Tensor | None:
        """(C, K), of the latent chunk; None where none reaches the sites."""
        return None if self.latent is None else _weight(self.latent)


class Site(nn.Module):
    """One site."""

    def __init__(self, old: int, new: int, width: int, latent: int, *, normalised: bool) -> None:
        super().__init__()
        self.scale = SiteTable(old, new, width, latent, normalised=normalised)
        self.shift = SiteTable(old, new, width, latent, normalised=normalised)


class Propagation(nn.Module):
    """All sites.

    Args:
        old: N.
        new: M.
        widths: C of every site.
        latent: K; 0 where z reaches the first layer only.
        normalised: whether this is the ImageNet tree.
    """

    def __init__(self, old: int, new: int, widths: Sequence[int], latent: int, *, normalised: bool) -> None:
        super().__init__()
        self.sites = nn.ModuleList(Site(old, new, width, latent, normalised=normalised) for width in widths)

    @torch.no_grad()
    def tables(self) -> ClassTables:
        """The new classes' tables, in eval mode."""
        of_scale, of_shift = ([getattr(site, kind) for site in self.sites] for kind in ("scale", "shift"))
        return ClassTables(
            *(tuple(table.table() for table in tables) for tables in (of_scale, of_shift)),
            *(
                tuple(latent for table in tables if (latent := table.latent_projection()) is not None)
                for tables in (of_scale, of_shift)
            ),
        )


def _weight(layer: nn.Linear) -> Tensor:
    """The weight that a layer uses."""
    return layer.normalised_weight() if isinstance(layer, Linear) else layer.weight
