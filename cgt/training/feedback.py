"""What D's outputs say of how it is to be regularised: how often pictures are augmented (ADA), and where its
outputs are held (LeCam).

It is a few numbers, the same on all processes, for they are made of means over the global batch alone. They
stay on the device: a step that asked what they are would wait for it.

Shapes: N pictures of each kind in a micro-batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cgt.training.augment import AugmentConfig
from cgt.training.losses import lecam

ADJUST_EVERY = 4
"""Updates of D between changes of the augmentation's probability (Karras et al., 2020)."""
DECAY = 0.99
"""Share of the averages of D's outputs that stays in each of its updates (github.com/google/lecam-gan,
stylegan2/lecam_loss.py; the BigGAN there has 0.9)."""


class Feedback:
    """The state of what regularises D by its own outputs; empty where the config wants none of it.

    ADA (Karras et al., "Training Generative Adversarial Networks with Limited Data", 2020): r, the mean sign
    of D(x) over the real pictures of four updates, tells how far D knows them by heart. The probability by
    which pictures are augmented moves by a fixed amount, up where r is above the target and down where it is
    below, within [0, 1].

    LeCam (Tseng et al., 2021; `losses.lecam`): its averages are those of the updates before the present one.
    The first update sets them to its own means and has a penalty of zero. The authors' program takes the
    present update into the averages first, and for its first 1000 iterations has them follow without a
    penalty.

    Args:
        augment: with the target, and the speed of the probability.
        lecam: weight of the penalty; 0 for none.
        batch_size: real pictures that D sees in an update, over all processes.
        device: where D computes.
    """

    def __init__(self, augment: AugmentConfig, lecam: float, batch_size: int, device: torch.device) -> None:
        self._target = augment.target
        self._adjust_pictures = augment.adjust_pictures
        self._lecam = lecam
        self._batch_size = batch_size
        self._device = device
        self.augment_probability = None if augment.target is None else self._number(0.0)
        """By which each transformation is applied to a picture, (); None: always."""
        self._signs = self._number(0.0)
        """Sum over the real pictures since the last change, ()."""
        self._pictures = 0
        """How many these are."""
        self._averages: Tensor | None = None
        """Of D's outputs on real and on generated pictures, (2,); None before the first update."""

    def penalties(self, real_N: Tensor, fake_N: Tensor) -> dict[str, Tensor]:
        """Terms of D's loss beside the adversarial one, by name, each with its weight; of float32 logits."""
        if not self._lecam:
            return {}
        # Zero times something at first, rather than nothing: every update does the same work, so that the
        # memory of one is that of all.
        averages, weight = self._averages, self._lecam
        if averages is None:
            averages, weight = real_N.new_zeros(2), 0.0
        return {"lecam": weight * lecam(real_N, fake_N, *averages)}

    def observed(self, real_N: Tensor, fake_N: Tensor) -> dict[str, Tensor]:
        """The means, by name, that `update` wants over the global batch."""
        means = {}
        if self._target is not None:
            means["real_sign"] = real_N.detach().sign().mean()
        if self._lecam:
            means |= {"real_logit": real_N.detach().mean(), "generated_logit": fake_N.detach().mean()}
        return means

    def update(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Learn from an update of D.

        Args:
            means: what was `observed`, over the global batch, each (); other entries are left alone.

        Returns:
            What is to be logged: the augmentation's probability, where there is one.
        """
        if self._lecam:
            present = torch.stack([means["real_logit"], means["generated_logit"]])
            self._averages = (
                present if self._averages is None else torch.lerp(self._averages, present, 1 - DECAY)
            )
        if self._target is None or self.augment_probability is None:
            return {}
        # A whole number, so that however many processes and micro-batches rounded the mean, p is the same.
        self._signs = self._signs + (means["real_sign"] * self._batch_size).round()
        self._pictures += self._batch_size
        if self._pictures >= ADJUST_EVERY * self._batch_size:
            direction = (self._signs - self._target * self._pictures).sign()
            change = direction * (self._pictures / self._adjust_pictures)
            self.augment_probability = (self.augment_probability + change).clamp(0, 1)
            self._signs, self._pictures = torch.zeros_like(self._signs), 0
        return {"augment_probability": self.augment_probability}

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        probability, averages = self.augment_probability, self._averages
        return {
            "augment_probability": None if probability is None else probability.item(),
            "signs": self._signs.item(),
            "pictures": self._pictures,
            "averages": None if averages is None else averages.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what a run of the same config saved."""
        probability, averages = state["augment_probability"], state["averages"]
        self.augment_probability = None if probability is None else self._number(probability)
        self._signs, self._pictures = self._number(state["signs"]), state["pictures"]
        self._averages = None if averages is None else self._number(averages)

    def _number(self, values: float | Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).to(self._device)
