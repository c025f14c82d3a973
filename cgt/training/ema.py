"""The exponential moving average of what is trained, in float32, of which every rank keeps a part.

The average is one flat vector of the parameters in their order, and rank r owns the r-th of its equal parts.
All ranks have the same weights, so each moves its part by itself; the parts meet only to be looked at.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from cgt.config import Section
from cgt.distributed import World
from cgt.errors import UserError


class EMAConfig(Section):
    """The average that is evaluated and saved. Defaults: BigGAN's."""

    half_life: float | None = Field(None, gt=0)
    """Steps after which a weight counts half as much, in place of `decay`. EDM2 and StyleGAN2 count pictures:
    divide theirs by batch_size."""
    decay: float | None = Field(
        default_factory=lambda others: None if others.get("half_life") else 0.9999, ge=0, lt=1
    )
    """Share of the average that stays in each step; 0.9999, a half-life of 6931 steps, if neither is set."""
    ramp_up: float | None = Field(None, gt=0)
    """The half-life is at most this share of the steps done so far, so that early weights are soon forgotten
    (StyleGAN2: 0.05); None for the same half-life from the start."""
    start: int = Field(1000, ge=0)
    """Step until which the average is simply the present weights."""
    standing_batches: int = Field(16, ge=0)
    """Batches over which the batch-norm statistics of the averaged weights are accumulated before they are
    evaluated or saved (BigGAN's standing statistics); 0 keeps the running averages of training, which fit
    averaged weights badly."""

    @model_validator(mode="after")
    def _one_length(self) -> "EMAConfig":
        if (self.decay is None) == (self.half_life is None):
            raise ValueError("give one of decay and half_life, and set the other to null")
        return self

    def decay_after(self, step: int) -> float:
        """Share of the average that stays in generator update `step` (from 0)."""
        if step < self.start:
            return 0.0
        decay = 0.5 ** (1 / self.half_life) if self.half_life is not None else self.decay
        assert decay is not None
        if self.ramp_up is None:
            return decay
        # Karras et al., stylegan2-ada-pytorch, training_loop.py: `ema_rampup`.
        return min(decay, 0.5 ** (1 / (self.ramp_up * step)) if step else 0.0)


class EMA:
    """An average of `parameters`; buffers are never averaged.

    Args:
        parameters: the same on all ranks, and whole: a strategy that divides weights must give them back for
            every call.
        config: its length.
        world: this process's place.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], config: EMAConfig, world: World) -> None:
        self.config = config
        self.parameters = list(parameters)
        self._world = world
        self._sizes = [parameter.numel() for parameter in self.parameters]
        begin, end = self._world.bounds(sum(self._sizes))
        self._part = torch.empty(end - begin, dtype=torch.float32, device=self.parameters[0].device)
        self._places: list[tuple[nn.Parameter, int, int]] = []
        self.average: list[Tensor] = []
        """Views of this rank's part: whole parameters in their shapes, and flat what a cut left of one."""
        for parameter, stop in zip(self.parameters, itertools.accumulate(self._sizes), strict=True):
            first = stop - parameter.numel()
            low, high = max(first, begin), min(stop, end)
            if low < high:
                view = self._part[low - begin : high - begin]
                whole = high - low == parameter.numel()
                self.average.append(_shaped(view, parameter) if whole else view)
                self._places.append((parameter, low - first, high - first))
        for average, live in zip(self.average, self._live(), strict=True):
            average.copy_(live)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after generator update `step` (from 0); no rank waits."""
        if self.average:  # a rank may have no part of very few weights
            torch._foreach_lerp_(self.average, self._live(), 1 - self.config.decay_after(step))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The average in place of the weights for a block, and the weights back after it, to the bit.

        All ranks enter it together, for one collective; leaving it takes none. On one process nothing is
        copied, on several each of them holds the whole average for the length of the block.
        """
        live = [parameter.data for parameter in self.parameters]
        vector = self._world.whole(self._part, sum(self._sizes))
        for parameter, average in zip(self.parameters, vector.split(self._sizes), strict=True):
            parameter.data = _shaped(average, parameter).to(parameter.dtype)
        try:
            yield
        finally:
            for parameter, data in zip(self.parameters, live, strict=True):
                parameter.data = data

    def state_dict(self) -> dict[str, Tensor]:
        """`average`: the flat vector, float32, in this object's own memory.

        Over several ranks it is a DTensor, which torch.distributed.checkpoint saves and loads in parts, for
        any number of ranks.
        """
        return {"average": self._world.sharded(self._part, sum(self._sizes))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved average: a `state_dict` of these ranks, or the whole vector as a plain tensor.

        Raises:
            UserError: it is the average of other networks.
        """
        saved = state["average"]
        if saved.shape != (sum(self._sizes),):
            raise UserError(
                f"the checkpoint has an average of shape {tuple(saved.shape)}, and what is trained here has "
                f"{sum(self._sizes)} numbers: resume with the config that the run began with."
            )
        self._part.copy_(self._world.part(saved))

    def _live(self) -> list[Tensor]:
        """The weights in float32, each as its place in `average`: views wherever that is possible."""
        live = []
        for parameter, first, stop in self._places:
            data = parameter.detach()
            assert data.numel() >= stop, "the average needs whole weights"
            whole = stop - first == data.numel()
            live.append((data if whole else _flat(data)[first:stop]).to(torch.float32))
        return live


def _flat(parameter: Tensor) -> Tensor:
    """A parameter's numbers in the order of the vector: that of memory where convolutions are channels_last.

    It does not depend on how they lie in fact, which strategies change.
    """
    return (parameter.movedim(1, -1) if parameter.dim() == 4 else parameter).flatten()


def _shaped(flat: Tensor, parameter: Tensor) -> Tensor:
    """A view of `flat`, which has a parameter's numbers in the order of `_flat`, in its shape."""
    if parameter.dim() != 4:
        return flat.view(parameter.shape)
    outputs, inputs, rows, columns = parameter.shape
    return flat.view(outputs, rows, columns, inputs).movedim(-1, 1)
