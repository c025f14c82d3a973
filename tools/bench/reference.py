"""A transfer's networks and step in a literal arrangement, to compare ours with.

It is arranged as the published program is (github.com/mshahbazi72/cGANTransfer, on BigGAN-PyTorch), and
computes what ours computes; `tests/tools/test_reference.py` holds both to equal losses and gradients.

* Every layer of G, frozen though it is, and of D does a power iteration and a division at every forward.
* Every site makes scale and shift of every sample (`reference_sites`).
* Batch norm, scale, shift, ReLU and enlargement are operations of their own, on maps of plain layout. In its
  shortcut a block of G enlarges its map first and then convolves it, and a block of D convolves it first and
  then halves it.
* Attention has its matrix of pixels by pixels; Adam goes through the parameters one by one.

As the published transfers it keeps no average of the weights.

Shapes: B samples, R resolution, C channels, H rows, W columns, M new classes, K latent chunk, O outputs and I
inputs of a weight as a matrix.
"""

import itertools
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from reference_sites import Site, sites_of
from torch import Tensor, nn

from cgt import rng
from cgt.images import to_float
from cgt.models.biggan import Generator, GeneratorBlock
from cgt.models.discriminator import Discriminator, DiscriminatorBlock
from cgt.models.layers import SelfAttention, SpectralNormalised
from cgt.training.trainer import Trainer
from cgt.transfer.cgantransfer import CGANTransferConfig
from cgt.transfer.propagation import PropagatedBank


class Normalised(nn.Module):
    """A layer whose weight is divided by an estimate of its largest singular value at every forward."""

    def __init__(self, ours: SpectralNormalised) -> None:
        super().__init__()
        bias = cast(Tensor | None, getattr(ours, "bias", None))
        self.weight = nn.Parameter(ours.weight.detach().clone(memory_format=torch.contiguous_format))
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        assert ours.u is not None, "the reference takes weights as they were trained, not folded ones"
        self.register_buffer("u_1O", ours.u[None].clone())
        self.eps = ours.eps

    def normalised(self) -> Tensor:
        """The weight to use."""
        u_1O = cast(Tensor, self.u_1O)
        weight_OI = self.weight.view(len(self.weight), -1)
        with torch.no_grad():
            v_1I = F.normalize(u_1O @ weight_OI, eps=self.eps)
            new_u_1O = F.normalize(v_1I @ weight_OI.t(), eps=self.eps)
            if self.training:
                u_1O.copy_(new_u_1O)
        return self.weight / (v_1I @ weight_OI.t() @ new_u_1O.t()).squeeze()


class Convolution(Normalised):
    """Keeps the size."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The convolved map."""
        return F.conv2d(x_BCHW, self.normalised(), self.bias, padding=self.weight.shape[-1] // 2)


class Linear(Normalised):
    """A matrix and a bias."""

    def forward(self, x_BI: Tensor) -> Tensor:
        """The outputs (B, O)."""
        return F.linear(x_BI, self.normalised(), self.bias)


class Embedding(Normalised):
    """A vector a class."""

    def forward(self, y_B: Tensor) -> Tensor:
        """The classes' vectors."""
        return F.embedding(y_B, self.normalised())


class Attention(nn.Module):
    """Self-attention over pixels."""

    def __init__(self, ours: SelfAttention) -> None:
        super().__init__()
        self.query, self.key = Convolution(ours.query), Convolution(ours.key)
        self.value, self.out = Convolution(ours.value), Convolution(ours.out)
        self.gain = nn.Parameter(ours.gain.detach().clone())

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """A map of the same shape."""
        query = self.query(x_BCHW).flatten(2)
        key = F.max_pool2d(self.key(x_BCHW), 2).flatten(2)
        value = F.max_pool2d(self.value(x_BCHW), 2).flatten(2)
        weights = F.softmax(torch.bmm(query.transpose(1, 2), key), -1)
        attended = torch.bmm(value, weights.transpose(1, 2)).unflatten(2, x_BCHW.shape[2:])
        added: Tensor = self.out(attended)
        return self.gain * added + x_BCHW


class UpBlock(nn.Module):
    """Of G: doubles the size."""

    def __init__(self, ours: GeneratorBlock, first: Site, second: Site) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.conv1, self.conv2 = Convolution(ours.conv1), Convolution(ours.conv2)
        self.shortcut = Convolution(ours.shortcut)

    def forward(self, x_BCHW: Tensor, one_hot_BM: Tensor, z_BK: Tensor | None) -> Tensor:
        """A map of twice the size."""
        h = F.relu(self.first(x_BCHW, one_hot_BM, z_BK))
        h = F.interpolate(h, scale_factor=2)
        x_BCHW = F.interpolate(x_BCHW, scale_factor=2)
        h = self.conv1(h)
        h = F.relu(self.second(h, one_hot_BM, z_BK))
        h, shortcut = self.conv2(h), self.shortcut(x_BCHW)
        return torch.add(h, shortcut)


class ReferenceGenerator(nn.Module):
    """G of the source with the propagation block of `bank`."""

    def __init__(self, source: Generator, bank: PropagatedBank) -> None:
        super().__init__()
        assert not source.config.deep, "there is no published transfer of BigGAN-deep"
        self.classes = len(bank.classes)
        self.chunk, self.dim_z = source.latent_width, source.dim_z
        self.bottom, self.eps = source.bottom, source.config.bn_eps
        self.sites = sites_of(bank, self.eps)
        self.linear = Linear(cast(Any, source.linear))
        pairs = zip(self.sites[::2], self.sites[1::2], strict=True)
        self.blocks = nn.ModuleList(
            UpBlock(cast(GeneratorBlock, block), *pair)
            for block, pair in zip(source.blocks, pairs, strict=True)
        )
        self.attention = nn.ModuleDict(
            {at: Attention(cast(SelfAttention, layer)) for at, layer in source.attention.items()}
        )
        self.gain = nn.Parameter(source.output_affine.gain.detach().clone())
        self.bias = nn.Parameter(source.output_affine.bias.detach().clone())
        self.register_buffer("mean_C", torch.zeros_like(self.gain))
        self.register_buffer("var_C", torch.ones_like(self.gain))
        self.to_rgb = Convolution(source.to_rgb)
        self.requires_grad_(False)
        for site in self.sites:
            for parameter in site.parameters():
                parameter.requires_grad_(True)

    def forward(self, z_BZ: Tensor, y_B: Tensor) -> Tensor:
        """Pictures (B, 3, R, R) of new classes y."""
        one_hot_BM = F.one_hot(y_B, self.classes).to(z_BZ.dtype)
        first, *others = z_BZ.split(self.chunk, 1) if self.chunk else (z_BZ, *[None] * len(self.blocks))
        h = self.linear(first).view(len(z_BZ), -1, self.bottom, self.bottom)
        for i, (block, z_BK) in enumerate(zip(self.blocks, others, strict=True)):
            h = block(h, one_hot_BM, z_BK)
            if str(i) in self.attention:
                h = self.attention[str(i)](h)
        mean_C, var_C = cast(Tensor, self.mean_C), cast(Tensor, self.var_C)
        h = F.batch_norm(h, mean_C, var_C, self.gain, self.bias, training=True, eps=self.eps)
        return torch.tanh(self.to_rgb(F.relu(h)))


class DownBlock(nn.Module):
    """Of D: may halve the size."""

    def __init__(self, ours: DiscriminatorBlock) -> None:
        super().__init__()
        self.begins, self.halve = ours.first, ours.halve
        self.conv1, self.conv2 = Convolution(ours.conv1), Convolution(ours.conv2)
        self.shortcut = None if ours.shortcut is None else Convolution(ours.shortcut)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """A map of the same or half the size."""
        h = self.conv2(F.relu(self.conv1(x_BCHW if self.begins else F.relu(x_BCHW))))
        if self.halve:
            h = F.avg_pool2d(h, 2)
        if self.begins and self.halve:  # the one block that halves first
            x_BCHW = F.avg_pool2d(x_BCHW, 2)
        shortcut = x_BCHW if self.shortcut is None else self.shortcut(x_BCHW)
        if self.halve and not self.begins:
            shortcut = F.avg_pool2d(shortcut, 2)
        return torch.add(h, shortcut)


class ReferenceDiscriminator(nn.Module):
    """D of the new classes."""

    def __init__(self, ours: Discriminator) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DownBlock(cast(DiscriminatorBlock, block)) for block in ours.blocks)
        self.attention = nn.ModuleDict(
            {at: Attention(cast(SelfAttention, layer)) for at, layer in ours.attention.items()}
        )
        self.linear = Linear(ours.linear)
        self.embedding = Embedding(cast(Any, ours.embedding))

    def forward(self, x_B3RR: Tensor, y_B: Tensor) -> Tensor:
        """Logits (B,)."""
        h = x_B3RR
        for i, block in enumerate(self.blocks):
            h = block(h)
            if str(i) in self.attention:
                h = self.attention[str(i)](h)
        h_BC = F.relu(h).sum((2, 3))
        logit_B1: Tensor = self.linear(h_BC) + (self.embedding(y_B) * h_BC).sum(1, keepdim=True)
        return logit_B1.squeeze(1)


class Reference:
    """The step of a trainer of cGANTransfer, one update of D and one of G, in the arrangement above.

    Args:
        trainer: whose weights, rates and draws it takes; it is left alone.
        source: the generator that the transfer started from, not folded.
        naive: call D on real and on generated pictures apart, and let G's forward for D's loss build its
            graph, which then serves nothing. The published program does neither.
    """

    def __init__(self, trainer: Trainer, source: Generator, *, naive: bool = False) -> None:
        self.config, self.device, self.naive = trainer.config, trainer.world.device, naive
        self.weights = cast(CGANTransferConfig, trainer.method.config)
        self.generator = (
            ReferenceGenerator(source, cast(PropagatedBank, trainer.bank)).to(self.device).train()
        )
        self.discriminator = ReferenceDiscriminator(trainer.discriminator).to(self.device).train()
        optim = self.config.optim
        options: dict[str, Any] = {"betas": (optim.beta1, optim.beta2), "eps": optim.eps, "foreach": False}
        sites = itertools.chain.from_iterable(site.parameters() for site in self.generator.sites)
        self.of_generator = torch.optim.Adam(sites, optim.generator_lr * optim.class_lr_scale, **options)
        self.of_discriminator = torch.optim.Adam(
            self.discriminator.parameters(), optim.discriminator_lr, **options
        )

    def step(self, batches: Iterator[tuple[Tensor, Tensor]], step: int) -> dict[str, float]:
        """D's update and G's."""
        losses = self.discriminator_gradients(*next(batches), step)
        self.of_discriminator.step()
        losses |= self.generator_gradients(step)
        self.of_generator.step()
        return {name: float(loss) for name, loss in losses.items()}

    def discriminator_gradients(self, x_uint8: Tensor, y: Tensor, step: int) -> dict[str, Tensor]:
        """The gradients of D's loss."""
        self.discriminator.requires_grad_(True)
        self.of_discriminator.zero_grad()
        z_BZ, y_fake_B = self._draws("discriminator", step, 0)
        real_B3RR = to_float(x_uint8.to(self.device)).to(z_BZ.dtype)
        y_B = y.to(self.device)
        with torch.set_grad_enabled(self.naive):
            fake_B3RR = self.generator(z_BZ, y_fake_B).detach()
        if self.naive:
            fake_B, real_B = self.discriminator(fake_B3RR, y_fake_B), self.discriminator(real_B3RR, y_B)
        else:
            both = torch.cat([fake_B3RR, real_B3RR]), torch.cat([y_fake_B, y_B])
            fake_B, real_B = self.discriminator(*both).split([len(y_fake_B), len(y_B)])
        loss = F.relu(1 - real_B).mean() + F.relu(1 + fake_B).mean()
        loss.backward()
        return {"loss_discriminator": loss.detach()}

    def generator_gradients(self, step: int) -> dict[str, Tensor]:
        """The gradients of G's loss with its penalties (eq. 7)."""
        self.discriminator.requires_grad_(False)
        self.of_generator.zero_grad()
        z_BZ, y_B = self._draws("generator", step)
        adversarial = -self.discriminator(self.generator(z_BZ, y_B), y_B).mean()
        kinds = [kind for site in self.generator.sites for kind in (site.scale, site.shift)]
        l2 = self.weights.lambda_r * sum(kind.residual_CM.square().mean() for kind in kinds)
        l1 = self.weights.lambda_s * sum(kind.scores_NM.abs().mean() for kind in kinds)
        (adversarial + l2 + l1).backward()
        terms = {"loss_generator": adversarial, "residual_l2": cast(Tensor, l2), "score_l1": cast(Tensor, l1)}
        return {name: term.detach() for name, term in terms.items()}

    def _draws(self, stream: str, *position: int) -> tuple[Tensor, Tensor]:
        """The latents and labels that ours draws there."""
        size, seed, classes = self.config.batch_size, self.config.seed, self.generator.classes
        z_BZ = rng.normal((size, self.generator.dim_z), seed, f"{stream} latents", *position)
        y_B = rng.integers(size, classes, seed, f"{stream} labels", *position)
        return z_BZ.to(self.device), y_B.to(self.device)
