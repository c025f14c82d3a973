"""A bank whose classes are mined from the source's: MineGAN's (Wang et al., CVPR 2020).

For every class one stack of linear layers moves z to the part of the latent space that looks like the class,
and another makes of it the class vector, in place of the source's. There is nothing between the layers, so
that a trained stack is one affine map.

Shapes: N samples, Z latent size, Q size of the class vector.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from cgt.models.class_space import LatentBank
from cgt.models.layers import Linear
from cgt.models.norm import Trunk


class Miner(nn.Module):
    """Two stacks of spectrally normalised linear layers: z to z, and z to a class vector."""

    def __init__(self, dim_z: int, space: int, depth: int, *, normalised: bool) -> None:
        super().__init__()
        self.to_z = nn.Sequential(*(Linear(dim_z, dim_z) for _ in range(depth)))
        self.to_class = nn.Sequential(*(Linear(dim_z, dim_z) for _ in range(depth - 1)), Linear(dim_z, space))
        for layer in (*self.to_z, *self.to_class):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
            if not normalised:
                layer.u = None

    def forward(self, z_NZ: Tensor) -> tuple[Tensor, Tensor]:
        """The z to use, and the class vector (N, Q)."""
        return self.to_z(z_NZ), self.to_class(z_NZ)


class MinedBank(LatentBank):
    """A miner for every class.

    Args:
        classes: names.
        widths: channels of every site.
        output_width: channels of the output norm.
        latent: width of the latent chunk that reaches the sites; 0 for none.
        first: outputs of the first layer, where it is a site too; 0 where it is not.
        space: Q.
        dim_z: Z.
        depth: layers of each stack.
        normalised: give the layers spectral norm.
    """

    kind = "mined"

    def __init__(
        self,
        classes: Sequence[str],
        widths: Sequence[int],
        output_width: int,
        *,
        latent: int,
        first: int,
        space: int,
        dim_z: int,
        depth: int,
        normalised: bool = True,
    ) -> None:
        super().__init__(classes, widths, output_width, latent=latent, first=first, space=space)
        self.dim_z = dim_z
        self._options: dict[str, Any] = {
            "space": space,
            "depth": depth,
            "normalised": normalised,
        }
        self.miners = nn.ModuleList(Miner(dim_z, space, depth, normalised=normalised) for _ in self.classes)

    def options(self) -> dict[str, Any]:
        """Size of the class vector, and what the layers are."""
        return self._options

    def keep(self, rows: list[int]) -> None:
        """Those miners."""
        self.miners = nn.ModuleList(self.miners[row] for row in rows)

    def points(self, z_NZ: Tensor, y_N: Tensor, trunk: Trunk) -> tuple[Tensor, Tensor]:
        """What each sample's miner gives.

        All of them work on the whole batch: so no sample's bits depend on the others' classes.
        """
        sample_N = torch.arange(y_N.shape[0], device=y_N.device)
        mined = [miner(z_NZ) for miner in self.miners]
        z_MNZ, c_MNQ = (torch.stack(parts) for parts in zip(*mined, strict=True))
        return z_MNZ[y_N, sample_N], c_MNQ[y_N, sample_N]

    @torch.no_grad()
    def baked(self) -> "MinedBank":
        """A copy whose stacks are the affine maps that they amount to."""
        widths = [len(projection) for projection in self.latent_scale]
        output_width, space = self.site_statistics()[-1].mean.numel(), self.mean_Q.numel()
        with torch.random.fork_rng(devices=[]):  # what is drawn is overwritten
            bank = MinedBank(
                self.classes,
                widths,
                output_width,
                latent=self.latent_scale[0].shape[1] - space,
                first=sum(len(projection) for projection in self.latent_first),
                dim_z=self.dim_z,
                **{**self._options, "depth": 1, "normalised": False},
            ).to(self.mean_Q.device)
        for own, miner in zip(bank.miners, self.miners, strict=True):
            for target, stack in ((own.to_z, miner.to_z), (own.to_class, miner.to_class)):
                _make_affine(cast(Linear, cast(nn.Sequential, target)[0]), cast(nn.Sequential, stack))
        for name in ("latent_scale", "latent_shift", "latent_first", "statistics"):
            getattr(bank, name).load_state_dict(getattr(self, name).state_dict())
        bank.mean_Q.copy_(self.mean_Q)
        bank.spread_Q.copy_(self.spread_Q)
        return bank.train(self.training)


def _make_affine(layer: Linear, stack: nn.Sequential) -> None:
    """Give `layer` the weight and the bias that `stack` amounts to, without a norm of its own."""
    first, *others = (cast(Linear, part) for part in stack)
    weight: Tensor = first.normalised_weight()
    bias: Tensor = first.bias
    for part in others:
        following = part.normalised_weight()
        weight, bias = following @ weight, following @ bias + part.bias
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
