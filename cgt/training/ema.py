"""The exponential moving average of what is trained, in float32."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from cgt.config import Section


class EMAConfig(Section):
    """The average that is evaluated and saved. Defaults: BigGAN's."""

    decay: float = Field(0.9999, ge=0, lt=1)
    start: int = Field(1000, ge=0)
    """Step until which the average is simply the present weights."""
    standing_batches: int = Field(16, ge=0)
    """Batches over which the batch-norm statistics of the averaged weights are accumulated before they are
    evaluated or saved (BigGAN's standing statistics); 0 keeps the running averages of training, which fit
    averaged weights badly."""


class EMA:
    """An average of `parameters`; buffers are never averaged."""

    def __init__(self, parameters: Sequence[nn.Parameter], config: EMAConfig) -> None:
        self.config = config
        self.parameters = list(parameters)
        self.average = [parameter.detach().to(torch.float32, copy=True) for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after generator update `step` (from 0)."""
        decay = self.config.decay if step >= self.config.start else 0.0
        live: list[Tensor] = [parameter.to(torch.float32) for parameter in self.parameters]
        torch._foreach_lerp_(self.average, live, 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The average in place of the weights for a block, and the weights back after it, to the bit."""
        live = [parameter.data for parameter in self.parameters]
        for parameter, average in zip(self.parameters, self.average, strict=True):
            parameter.data = average.to(parameter.dtype)
        try:
            yield
        finally:
            for parameter, data in zip(self.parameters, live, strict=True):
                parameter.data = data

    def state_dict(self) -> dict[str, list[Tensor]]:
        """The average, in the order of the parameters."""
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Take over a saved average."""
        for average, saved in zip(self.average, state["average"], strict=True):
            average.copy_(saved)
