"""One training step: D's updates, then G's.

Everything that is drawn is a function of (seed, step, position in the global batch).

Shapes: N pictures of a micro-batch on this rank, Z latent size, R resolution.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from cgt import rng
from cgt.errors import RunError
from cgt.images import to_float
from cgt.models.norm import ClassTables
from cgt.training.augment import DRAWS, diff_augment
from cgt.training.losses import mode_seeking
from cgt.training.optim import set_learning_rates
from cgt.training.trainer import Trainer

Losses = dict[str, float]


def train_step(trainer: Trainer, batches: Iterator[tuple[Tensor, Tensor]], step: int) -> Losses:
    """D's updates, each on pictures of its own, then one update of G and of the average.

    Args:
        trainer: changed in place.
        batches: this rank's share of the global batches, x uint8 (n, 3, R, R) and y int64 (n,).
        step: generator updates done so far.

    Raises:
        RunError: a loss is not finite; the update that it belongs to was not made.
    """
    optim = trainer.config.optim
    for optimiser in (trainer.generator_optimiser, trainer.discriminator_optimiser):
        set_learning_rates(optimiser, step, trainer.config.steps, optim.decay_from)
    losses: Losses = {}
    # G does not change while D learns: its tables are built once for all of D's updates.
    with torch.no_grad():
        tables = trainer.bank.tables()
    for update in range(optim.discriminator_steps):
        losses |= discriminator_step(trainer, *next(batches), tables, step, update)
    losses |= generator_step(trainer, step)
    trainer.ema.update(step)
    return losses


def discriminator_step(
    trainer: Trainer, x_uint8: Tensor, y: Tensor, tables: ClassTables, step: int, update: int
) -> Losses:
    """One update of D on as many real as generated pictures, which it sees in one forward pass."""
    trainer.discriminator.requires_grad_(True)
    z = _latents(trainer, "discriminator", step, update)
    y_fake = _labels(trainer, "discriminator", step, update)
    uniform = _augment_draws(trainer, "discriminator", step, update, pictures=2)
    total = 0.0
    for z_NZ, y_fake_N, x_N, y_N, draws in _micro_batches(trainer, z, y_fake, x_uint8, y, uniform):
        with trainer.world.autocast():
            with torch.no_grad():
                fake_N3RR = trainer.generator(z_NZ, _within_generator(trainer, y_fake_N), tables)
            x_N3RR = torch.cat([to_float(x_N), fake_N3RR.float()]).contiguous(
                memory_format=torch.channels_last
            )
            x_N3RR = diff_augment(x_N3RR, draws.transpose(0, 1).flatten(0, 1), trainer.config.augment.policy)
            real_N, fake_N = trainer.discriminator(x_N3RR, torch.cat([y_N, y_fake_N])).float().chunk(2)
        loss = trainer.method.discriminator_loss(real_N, fake_N) / trainer.micro_batches
        total += _finite(loss, "discriminator", step)
        trainer.discriminator_scaler.scale(loss).backward()
    _update(trainer.discriminator_optimiser, trainer.discriminator_scaler)
    return {"loss_discriminator": total}


def generator_step(trainer: Trainer, step: int) -> Losses:
    """One update of what is trained of G."""
    trainer.discriminator.requires_grad_(False)
    z, y = _latents(trainer, "generator", step), _labels(trainer, "generator", step)
    uniform = _augment_draws(trainer, "generator", step, pictures=1)
    seeking = trainer.config.optim.mode_seeking
    # The tables' graph is walked once: micro-batches add up gradients at its leaves.
    tables = trainer.bank.tables()
    leaves = ClassTables(*(tuple(table.detach().requires_grad_() for table in group) for group in tables))
    losses = dict.fromkeys(["loss_generator"] + ["mode_seeking"] * bool(seeking), 0.0)
    for z_NZ, y_N, draws in _micro_batches(trainer, z, y, uniform):
        with trainer.world.autocast():
            fake_N3RR = trainer.generator(z_NZ, _within_generator(trainer, y_N), leaves)
            seen_N3RR = diff_augment(fake_N3RR.float(), draws.flatten(0, 1), trainer.config.augment.policy)
            logits_N = trainer.discriminator(seen_N3RR, y_N).float()
        loss = adversarial = trainer.method.generator_loss(logits_N) / trainer.micro_batches
        if seeking:
            term = seeking * mode_seeking(fake_N3RR, z_NZ) / trainer.micro_batches
            losses["mode_seeking"] += _finite(term, "mode-seeking", step)
            loss = loss + term
        losses["loss_generator"] += _finite(adversarial, "generator", step)
        trainer.generator_scaler.scale(loss).backward()
    penalties = trainer.method.penalties(trainer.generator)
    losses |= {name: _finite(penalty, name, step) for name, penalty in penalties.items()}
    flat_tables, flat_leaves = ([table for group in kind for table in group] for kind in (tables, leaves))
    heads = [*flat_tables, *(trainer.generator_scaler.scale(penalty) for penalty in penalties.values())]
    torch.autograd.backward(heads, [leaf.grad for leaf in flat_leaves] + [None] * len(penalties))
    _update(trainer.generator_optimiser, trainer.generator_scaler)
    return losses


def _update(optimiser: torch.optim.Adam, scaler: torch.amp.GradScaler) -> None:
    scaler.step(optimiser)
    scaler.update()
    optimiser.zero_grad()


def _finite(loss: Tensor, name: str, step: int) -> float:
    value = loss.item()
    if not torch.isfinite(loss):
        raise RunError(f"the {name} loss became {value} in step {step}; the update was not made.")
    return value


def _latents(trainer: Trainer, stream: str, *position: int) -> Tensor:
    shape = (trainer.config.batch_size, trainer.generator.dim_z)
    return trainer.world.share(rng.normal(shape, trainer.config.seed, f"{stream} latents", *position))


def _labels(trainer: Trainer, stream: str, *position: int) -> Tensor:
    """Uniform class ids within the bank.

    Neighbours share theirs where the mode-seeking term compares them.
    """
    pair = 2 if trainer.config.optim.mode_seeking and stream == "generator" else 1
    n = trainer.config.batch_size // pair
    y = rng.integers(n, len(trainer.bank.classes), trainer.config.seed, f"{stream} labels", *position)
    return trainer.world.share(y.repeat_interleave(pair))


def _augment_draws(trainer: Trainer, stream: str, *position: int, pictures: int) -> Tensor:
    shape = (trainer.config.batch_size, pictures, DRAWS)
    return trainer.world.share(rng.uniform(shape, trainer.config.seed, f"{stream} augmentation", *position))


def _micro_batches(trainer: Trainer, *shares: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same slices of each tensor, one micro-batch after the other, on this rank's device."""
    device = trainer.world.device
    chunks = [share.to(device, non_blocking=True).chunk(trainer.micro_batches) for share in shares]
    return zip(*chunks, strict=True)


def _within_generator(trainer: Trainer, y_N: Tensor) -> Tensor:
    """Ids of the trained bank as ids of the generator, whose earlier banks come first."""
    return y_N + trainer.generator.first_of_last_bank
