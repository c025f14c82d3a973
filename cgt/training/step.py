"""One training step: D's updates, then G's.

Everything that is drawn is a function of (seed, step, position in the global batch).

Shapes: N pictures of a micro-batch on this rank, Z latent size, R resolution.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cgt import rng
from cgt.errors import RunError
from cgt.images import to_float
from cgt.models.norm import ClassTables
from cgt.training.augment import DRAWS, GATES, diff_augment
from cgt.training.losses import mode_seeking
from cgt.training.optim import set_learning_rates
from cgt.training.trainer import Trainer
from cgt.transfer.supervised import SupervisedBatch, SupervisedExtension

Losses = dict[str, Tensor]
"""Of an update: scalars on the device, which may still be at work on them."""
Terms = dict[str, Tensor]
"""A loss's terms on this process: means over its pictures."""


def train_step(trainer: Trainer, batches: Iterator[tuple[Tensor, Tensor]], step: int) -> Losses:
    """D's updates, each on pictures of its own, then one update of G and of the average.

    A method without a discriminator makes one update of what it trains, and of the average.

    The device is not waited for: `fetch` does. (fp16 waits, whose loss scale goes by what was found, and so
    do ZeRO and the methods that look at samples on their way: `ppgn`, `bsa_supervised`.)

    Args:
        trainer: changed in place.
        batches: this rank's share of the global batches, x uint8 (n, 3, R, R) and y int64 (n,).
        step: generator updates done so far.

    Returns:
        The losses, means over the global batch, the same on all ranks.
    """
    optim = trainer.config.optim
    for part in (trainer.of_generator, trainer.of_discriminator):
        set_learning_rates(part.optimiser, step, trainer.config.steps, optim.decay_from)
    losses: Losses = {}
    if isinstance(trainer.method, SupervisedExtension):
        losses |= supervised_step(trainer, trainer.method, *next(batches), step)
    else:
        losses |= _adversarial_step(trainer, batches, step)
    with trainer.of_generator.whole():
        trainer.ema.update(step)
    return losses


def fetch(steps: Mapping[int, Losses]) -> list[dict[str, float]]:
    """The losses of some steps, by number, as soon as the device has worked them out.

    Raises:
        RunError: one is not finite; on all ranks, if all of them fetch the same.
    """
    if not steps:
        return []
    flat = torch.stack([loss for losses in steps.values() for loss in losses.values()]).tolist()
    values = iter(flat)
    fetched = []
    for step, losses in steps.items():
        fetched.append({name: next(values) for name in losses})
        for name, value in fetched[-1].items():
            if not math.isfinite(value):
                name = name.removeprefix("loss_").replace("_", "-")
                raise RunError(
                    f"the {name} loss became {value} in step {step}: the run has diverged; lower the "
                    "learning rates."
                )
    return fetched


def _adversarial_step(trainer: Trainer, batches: Iterator[tuple[Tensor, Tensor]], step: int) -> Losses:
    losses: Losses = {}
    # G does not change while D learns: its tables are built once for all of D's updates.
    trainer.of_generator.hold(trainer.bank)
    with torch.no_grad():
        tables = trainer.bank.tables()
    for update in range(trainer.batches_per_step):
        losses |= discriminator_step(trainer, *next(batches), tables, step, update)
    return losses | generator_step(trainer, step)


def discriminator_step(
    trainer: Trainer, x_uint8: Tensor, y: Tensor, tables: ClassTables, step: int, update: int
) -> Losses:
    """One update of D."""
    terms = discriminator_gradients(trainer, x_uint8, y, tables, step, update)
    losses = _over_ranks(trainer, terms)
    trainer.of_discriminator.update()
    return losses | trainer.feedback.update(losses)


def discriminator_gradients(
    trainer: Trainer, x_uint8: Tensor, y: Tensor, tables: ClassTables, step: int, update: int
) -> Terms:
    """Add D's gradients by as many real as generated pictures, which it sees in one forward pass.

    Beside the loss's terms, what the feedback observes is returned.
    """
    z = _latents(trainer, "discriminator", step, update)
    y_fake = _labels(trainer, "discriminator", step, update)
    uniform = _augment_draws(trainer, "discriminator", step, update, pictures=2)
    sums: Terms = {}
    for last, micro_batch in _micro_batches(trainer, z, y_fake, x_uint8, y, uniform):
        z_NZ, y_fake_N, x_N, y_N, draws = micro_batch
        with trainer.world.autocast():
            with torch.no_grad():
                fake_N3RR = trainer.generator(z_NZ, _within_generator(trainer, y_fake_N), tables)
            x_N3RR = _augmented(trainer, draws, to_float(x_N), fake_N3RR.float())
            logits = trainer.of_discriminator(x_N3RR, torch.cat([y_N, y_fake_N])).float()
            real_N, fake_N = logits.chunk(2)
        adversarial = {"loss_discriminator": trainer.method.discriminator_loss(real_N, fake_N)}
        terms = adversarial | trainer.feedback.penalties(real_N, fake_N)
        for name, term in (terms | trainer.feedback.observed(real_N, fake_N)).items():
            sums[name] = sums.get(name, 0) + term.detach() / trainer.micro_batches
        loss = torch.stack(list(terms.values())).sum() / trainer.micro_batches
        trainer.of_discriminator.backward(loss, last=last)
    return sums


def generator_step(trainer: Trainer, step: int) -> Losses:
    """One update of what is trained of G."""
    losses = _over_ranks(trainer, generator_gradients(trainer, step))
    trainer.of_generator.update()
    return losses


def generator_gradients(trainer: Trainer, step: int) -> Terms:
    """Add the gradients of what is trained of G; D stays as it is."""
    _ask_for_gradients(trainer.of_discriminator.parameters, wanted=False)
    z, y = _latents(trainer, "generator", step), _labels(trainer, "generator", step)
    uniform = _augment_draws(trainer, "generator", step, pictures=1)
    seeking = trainer.config.optim.mode_seeking
    trainer.of_generator.hold(trainer.bank)
    tables = trainer.bank.tables()
    # The tables' graph is walked once, by the last micro-batch; the others leave gradients at its leaves.
    flat_tables = [table for group in tables for table in group]
    leaves = [table.detach().requires_grad_() for table in flat_tables]
    zero = torch.zeros((), device=trainer.world.device)
    terms = {"loss_generator": zero.clone(), **({"mode_seeking": zero.clone()} if seeking else {})}
    for last, (z_NZ, y_N, draws) in _micro_batches(trainer, z, y, uniform):
        seen_tables = tables if last else _grouped_like(tables, leaves)
        with trainer.world.autocast():
            fake_N3RR = trainer.of_generator(z_NZ, _within_generator(trainer, y_N), seen_tables)
            seen_N3RR = _seen(trainer, fake_N3RR.float(), draws.flatten(0, 1))
            logits_N = trainer.discriminator(seen_N3RR, y_N).float()
        loss = trainer.method.generator_loss(logits_N) / trainer.micro_batches
        terms["loss_generator"] += loss.detach()
        if seeking:
            term = seeking * mode_seeking(fake_N3RR, z_NZ, trainer.world.mean) / trainer.micro_batches
            terms["mode_seeking"] += term.detach()
            loss = loss + term
        if not last:
            trainer.of_generator.backward(loss, last=False)
    penalties = trainer.method.penalties(trainer.generator)
    carried = [
        (table, leaf.grad)
        for table, leaf in zip(flat_tables, leaves, strict=True)
        if table.requires_grad and leaf.grad is not None
    ]
    trainer.of_generator.backward(sum(penalties.values(), start=loss), carried)
    _ask_for_gradients(trainer.of_discriminator.parameters, wanted=True)
    return terms | {name: penalty.detach() for name, penalty in penalties.items()}


def supervised_step(
    trainer: Trainer, method: SupervisedExtension[Any], x_uint8: Tensor, y: Tensor, step: int
) -> Losses:
    """One update of what a method trains by a loss of its own."""
    all_draws = [trainer.world.to_device(draw) for draw in method.draws(trainer.config.batch_size, step)]
    draws = [trainer.world.share(draw) for draw in all_draws]
    uniform = _augment_draws(trainer, "supervised", step, pictures=2)
    trainer.of_generator.hold(trainer.bank)
    sums: Terms = {}
    for last, (x_n, y_n, uniform_n, *draws_n) in _micro_batches(trainer, x_uint8, y, uniform, *draws):
        pictures = functools.partial(_augmented, trainer, uniform_n)
        batch = SupervisedBatch(to_float(x_n), y_n, draws_n, all_draws, pictures)
        with trainer.world.autocast():
            terms = method.terms(trainer.generator, trainer.of_generator, batch)
        for name, term in terms.items():
            sums[name] = sums.get(name, 0) + term.detach() / trainer.micro_batches
        loss = torch.stack(list(terms.values())).sum() / trainer.micro_batches
        trainer.of_generator.backward(loss, last=last)
    losses = _over_ranks(trainer, sums)
    trainer.of_generator.update()
    return losses


def _augmented(trainer: Trainer, draws: Tensor, *pictures_n3RR: Tensor) -> Tensor:
    """Groups of pictures, joined, as the run's augmentation shows them by the draws (n, groups, U)."""
    x_N3RR = torch.cat(pictures_n3RR).contiguous(memory_format=torch.channels_last)
    return _seen(trainer, x_N3RR, draws.transpose(0, 1).flatten(0, 1))


def _seen(trainer: Trainer, x_N3RR: Tensor, uniform_NU: Tensor) -> Tensor:
    return diff_augment(
        x_N3RR, uniform_NU, trainer.config.augment.policy, trainer.feedback.augment_probability
    )


def _over_ranks(trainer: Trainer, terms: Terms) -> Losses:
    """The terms as means over the ranks."""
    means = trainer.world.sum_(torch.stack(list(terms.values()))) / trainer.world.size
    return dict(zip(terms, means.unbind(), strict=True))


def _ask_for_gradients(parameters: Sequence[nn.Parameter], *, wanted: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(wanted)


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
    size, seed, stream = trainer.config.batch_size, trainer.config.seed, f"{stream} augmentation"
    draws = rng.uniform((size, pictures, DRAWS), seed, stream, *position)
    if trainer.feedback.augment_probability is not None:
        # Of a stream of their own, so that the other draws are those of a run without a target.
        gates = rng.uniform((size, pictures, GATES), seed, f"{stream} gates", *position)
        draws = torch.cat([draws, gates], 2)
    return trainer.world.share(draws)


def _micro_batches(trainer: Trainer, *shares: Tensor) -> Iterator[tuple[bool, tuple[Tensor, ...]]]:
    """The same samples of each tensor, one micro-batch after the other, on this rank's device.

    Of m micro-batches number k has every m-th sample (or pair, where pairs are compared) from k. So what all
    ranks work on at one time does not depend on their number, nor do statistics over it.

    Yields:
        Whether it is the last, and the micro-batch.
    """
    m = trainer.micro_batches
    unit = 2 if trainer.config.optim.mode_seeking else 1
    there = [trainer.world.to_device(share).unflatten(0, (-1, m, unit)) for share in shares]
    for k in range(m):
        yield k == m - 1, tuple(share[:, k].flatten(0, 1) for share in there)


def _grouped_like(tables: ClassTables, flat: Sequence[Tensor]) -> ClassTables:
    rest = iter(flat)
    return ClassTables(*(tuple(itertools.islice(rest, len(group))) for group in tables))


def _within_generator(trainer: Trainer, y_N: Tensor) -> Tensor:
    """Ids of the trained bank as ids of the generator, whose earlier banks come first."""
    return y_N + trainer.generator.first_of_last_bank
