"""Which source class is nearest to each new class, without any source picture.

The source's own samples stand for its classes, and the source's discriminator gives the features: a warm
start that the paper does not have.

Shapes: n pictures, C features, N source classes, M new classes.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from cgt import rng
from cgt.images import to_float
from cgt.transfer.base import Task

SAMPLES_PER_CLASS = 32


def nearest_classes(task: Task) -> Tensor:
    """The nearest source class of every new class: its id, int64 (M,). See `class_distances`."""
    return class_distances(task).argmin(1)


@torch.no_grad()
def class_distances(task: Task) -> Tensor:
    """How far every new class is from every source class, (M, N) float64, on the CPU.

    The distance is between class means of D's pooled features, each feature scaled to unit variance over the
    source's samples. It is worked out on the task's device.
    """
    source = task.given_source
    generator = copy.deepcopy(source.generator).eval().to(task.device)
    generator.fold()
    discriminator = copy.deepcopy(source.discriminator).eval().to(task.device)

    def samples() -> Iterator[tuple[Tensor, Tensor]]:
        for y in range(len(generator.classes)):
            z_nZ = rng.normal((SAMPLES_PER_CLASS, generator.dim_z), task.seed, "nearest", y)
            y_n = torch.full((SAMPLES_PER_CLASS,), y)
            yield generator(z_nZ.to(task.device), y_n.to(task.device)), y_n

    def real() -> Iterator[tuple[Tensor, Tensor]]:
        assert task.pictures is not None
        for x_n3RR, y_n in task.pictures():
            yield to_float(x_n3RR.to(task.device)), y_n

    def class_means(batches: Iterator[tuple[Tensor, Tensor]], classes: int) -> tuple[Tensor, Tensor]:
        features, labels = zip(*((discriminator.features(x).cpu(), y) for x, y in batches), strict=True)
        features_nC, y_n = torch.cat(features).double(), torch.cat(labels)
        means = torch.zeros(classes, features_nC.shape[1], dtype=torch.float64).index_add_(
            0, y_n, features_nC
        )
        return means / y_n.bincount(minlength=classes)[:, None], features_nC.std(0)

    source_NC, spread_C = class_means(samples(), len(generator.classes))
    new_MC, _ = class_means(real(), len(task.classes))
    scale_C = spread_C.clamp_min(1e-12)
    return torch.cdist(new_MC / scale_C, source_NC / scale_C)
