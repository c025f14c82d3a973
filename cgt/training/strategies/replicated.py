"""`ddp`: every process has the whole network, and the processes average their gradients.

This is our own all-reduce and not torch's `DistributedDataParallel`. That wants every parameter used inside
the wrapped network's forward; here the class tables are made once an update, outside of it. Hooks on
parameters do not mind, and only what is trained is communicated.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cgt.training.strategies.base import Trainable

BUCKET_BYTES = 25 * 2**20
"""Gradients are sent in messages of about this size, each as soon as it is complete."""


class Replicated(Trainable):
    """A network that every process has whole; with one process nothing is communicated."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._buckets = []
        if self.world.size > 1:
            self._buckets = [_Bucket(parameters) for parameters in _split(self.parameters)]
        self._last = False
        self._next = 0
        """Buckets leave in the same order on all processes, whatever order they are completed in."""
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(functools.partial(self._arrived, bucket))

    def _backward(self, loss: Tensor, *, last: bool) -> None:
        self._last = last
        loss.backward()

    def update(self) -> None:
        """One step of the optimiser on the means of all processes' gradients."""
        self._send(all_of_them=True)
        for bucket in self._buckets:
            bucket.receive(self.world.size)
        self._next = 0
        if self.max_grad_norm is not None:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad()

    def _arrived(self, bucket: "_Bucket", _: Tensor) -> None:
        """A gradient has its last summand: send its bucket if it was the last one missing there."""
        if self._last:
            bucket.missing -= 1
            self._send(all_of_them=False)

    def _send(self, *, all_of_them: bool) -> None:
        """Send the next buckets that are complete, or all, where some parameters took no part in the loss."""
        while self._next < len(self._buckets):
            bucket = self._buckets[self._next]
            if bucket.missing and not all_of_them:
                break
            bucket.send(self.world.start_sum_)
            self._next += 1


class _Bucket:
    """Parameters whose gradients travel together."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self.missing = len(parameters)
        self._flat = torch.empty(0)
        self._wait: Callable[[], None] = lambda: None

    def send(self, start_sum_: Callable[[Tensor], Callable[[], None]]) -> None:
        """Begin to add up the gradients over all processes; nothing is 0."""
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self.parameters
        ]
        self._flat = torch.cat([gradient.flatten() for gradient in gradients])
        self._wait = start_sum_(self._flat)

    def receive(self, world_size: int) -> None:
        """Put the means in the gradients' place."""
        self._wait()
        self._flat /= world_size
        means = self._flat.split([parameter.numel() for parameter in self.parameters])
        for parameter, mean in zip(self.parameters, means, strict=True):
            if parameter.grad is not None:
                parameter.grad.copy_(mean.view_as(parameter))
        self._flat = torch.empty(0)
        self._wait = lambda: None  # what it was holds the flat gradients
        self.missing = len(self.parameters)


def _split(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Groups of about `BUCKET_BYTES`, the network's end first: there the backward pass begins."""
    group: list[nn.Parameter] = []
    size = 0
    for parameter in reversed(parameters):
        if group and (size + parameter.nbytes > BUCKET_BYTES or parameter.dtype != group[0].dtype):
            yield group
            group, size = [], 0
        group.append(parameter)
        size += parameter.nbytes
    if group:
        yield group
