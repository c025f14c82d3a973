"""Training of the small classifier: Adam with a rate that rises and falls once, on pictures in memory.

Everything random is a function of the seed, so equal pictures, options and threads give equal weights.

Shapes: N pictures, R resolution.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cgt import rng
from cgt.config import Section
from cgt.errors import UserError
from cgt.metrics.features.base import Features
from cgt.metrics.features.cnn import CnnDescription, SmallCnn
from cgt.models.classifier import widths
from cgt.wording import counted

BATCH = 64
PEAK_RATE = 5e-3
RISE = 0.3
"""Share of the steps in which the rate rises.

No fraction 1/n, for which torch's schedule of n steps divides by zero.
"""


class CnnTraining(Section):
    """How to train it."""

    steps: int = Field(default=300, ge=1)
    """Adam steps of 64 pictures."""
    seed: int = 0
    held_out_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of each class's pictures that is kept from training, to measure accuracy by."""
    flip: bool = False
    """Mirror pictures at random: for classes that keep their meaning in the mirror."""
    shift: int = Field(default=0, ge=0)
    """Move pictures at random by up to this many pixels each way, edges repeated."""


def train(
    x_N3RR: Tensor,
    y_N: Tensor,
    classes: Sequence[str],
    config: CnnTraining,
    on_step: Callable[[float], None],
    device: torch.device | str = "cpu",
) -> tuple[SmallCnn, CnnDescription]:
    """A classifier of the pictures, in eval mode, and what it is.

    Args:
        x_N3RR: uint8 pictures, on the CPU.
        y_N: int64 indices into `classes`, likewise.
        classes: their names.
        config: how long, and with what augmentation.
        on_step: told the loss of every step.
        device: where to train; the weights begin alike on all.

    Raises:
        UserError: a single class, or a class of which no picture is left to train on or to hold out.
    """
    if len(classes) < 2:
        raise UserError(
            f"a classifier needs two classes at least, not {len(classes)}: choose more with --classes."
        )
    training, held_out = split(y_N, classes, config)
    resolution = x_N3RR.shape[-1]
    with rng.seeded_globally(config.seed, "cnn weights"):
        model = SmallCnn(tuple(classes), resolution, widths(resolution)).to(device)
    with _threads(resolution):
        _fit(model, x_N3RR, y_N, training, config, on_step)
        model.frozen(sha256="")
        training_accuracy, held_out_accuracy = (
            measured_accuracy(model, x_N3RR, y_N, chosen) for chosen in (training, held_out)
        )
    return model, CnnDescription(
        classes=tuple(classes),
        resolution=resolution,
        widths=model.widths,
        training_accuracy=training_accuracy,
        held_out_accuracy=held_out_accuracy,
        provenance={
            **config.model_dump(mode="json"),
            "pictures": len(training),
            "held_out": len(held_out),
        },
    )


@contextlib.contextmanager
def _threads(resolution: int) -> Iterator[None]:
    """One thread for 32 px, four for 64 px and so on: on small pictures more threads take longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, max(1, (resolution // 32) ** 2)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit(
    model: SmallCnn,
    x_N3RR: Tensor,
    y_N: Tensor,
    training: Tensor,
    config: CnnTraining,
    on_step: Callable[[float], None],
) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=PEAK_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_RATE, total_steps=max(2, config.steps), pct_start=RISE, cycle_momentum=False
    )
    for step in range(config.steps):
        chosen = training[batch_indices(len(training), step, config.seed)]
        x, y = augmented(x_N3RR[chosen], step, config).to(model.device), y_N[chosen].to(model.device)
        loss = F.cross_entropy(_logits(model, x), y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        on_step(float(loss.detach()))


def split(y_N: Tensor, classes: Sequence[str], config: CnnTraining) -> tuple[Tensor, Tensor]:
    """Indices of the pictures to train on and of those held out: a share of each class, one at least.

    Raises:
        UserError: a class has too few.
    """
    training, held_out = [], []
    for y, name in enumerate(classes):
        of_class = (y_N == y).nonzero().squeeze(1)
        n = max(1, round(config.held_out_share * len(of_class)))
        if len(of_class) <= n:
            raise UserError(
                f"the class {name!r} has {counted(len(of_class), 'picture')}, too few to train on some and "
                "hold out others: give it two at least, or leave it out with --classes."
            )
        order = of_class[rng.permutation(len(of_class), config.seed, "cnn held out", y)]
        held_out.append(order[:n])
        training.append(order[n:])
    return torch.cat(training), torch.cat(held_out)


def batch_indices(n: int, step: int, seed: int) -> Tensor:
    """Which of n pictures step `step` sees: shuffled epochs one after the other."""
    positions = range(step * BATCH, (step + 1) * BATCH)
    epochs = {epoch: rng.permutation(n, seed, "cnn order", epoch) for epoch in {p // n for p in positions}}
    return torch.stack([epochs[p // n][p % n] for p in positions])


def augmented(x_N3RR: Tensor, step: int, config: CnnTraining) -> Tensor:
    """The pictures flipped and shifted at random, as the config asks."""
    n, size = len(x_N3RR), x_N3RR.shape[-1]
    if config.flip:
        flipped_N = rng.integers(n, 2, config.seed, "cnn flips", step).bool()
        x_N3RR = torch.where(flipped_N[:, None, None, None], x_N3RR.flip(3), x_N3RR)
    if config.shift:
        shift_2N1 = rng.integers(2 * n, 2 * config.shift + 1, config.seed, "cnn shifts", step).view(2, n, 1)
        rows_NR, columns_NR = (torch.arange(size) + shift_2N1 - config.shift).clamp(0, size - 1)
        sample = torch.arange(n)[:, None, None]
        x_NRR3 = x_N3RR.permute(0, 2, 3, 1)[sample, rows_NR[:, :, None], columns_NR[:, None, :]]
        x_N3RR = x_NRR3.permute(0, 3, 1, 2)
    return x_N3RR


@torch.inference_mode()
def measured_accuracy(model: SmallCnn, x_N3RR: Tensor, y_N: Tensor, chosen: Tensor) -> float:
    """Share in [0, 1] of the chosen pictures that the model names rightly."""
    right_N = torch.cat(
        [
            _logits(model, x_N3RR[part].to(model.device)).argmax(1).cpu() == y_N[part]
            for part in torch.split(chosen, 256)
        ]
    )
    return float(right_N.double().mean())


def _logits(model: SmallCnn, x_N3RR: Tensor) -> Tensor:
    features: Features = model(x_N3RR)
    assert features.logits_NK is not None, "this extractor has a classifier"
    return features.logits_NK
