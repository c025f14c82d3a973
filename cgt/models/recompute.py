"""Gradient checkpointing (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016).

A block keeps its inputs alone, and the backward pass works out the rest again. What else a forward pass does
(power iterations, running statistics, sums over ranks) must not happen twice: there the second pass takes
over what the first one found.
"""

from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


class _Pass:
    """A block's first forward pass, which notes what `once` finds, or a later one, which takes it over."""

    def __init__(self, found: list[Any], *, first: bool) -> None:
        self._found = found
        self.first = first

    def __enter__(self) -> None:
        self._next = 0
        self._token: Token[_Pass | None] = _PASS.set(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _PASS.reset(self._token)

    def once(self, work: Callable[[], T]) -> T:
        if self.first:
            self._found.append(work())
        self._next += 1
        return cast(T, self._found[self._next - 1])


_PASS: ContextVar[_Pass | None] = ContextVar("_PASS", default=None)


def once(work: Callable[[], T]) -> T:
    """`work()`, or where a block is worked out again what that gave the first time.

    It must build no graph: what autograd keeps of it would be missed the second time.
    """
    # torch.compile recomputes by its own rules, and can't look into context variables.
    if torch.compiler.is_compiling() or (present := _PASS.get()) is None:
        return work()
    return present.once(work)


def again() -> bool:
    """Whether a block is being worked out again."""
    return not torch.compiler.is_compiling() and (present := _PASS.get()) is not None and not present.first


def recomputed(block: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """`block(*inputs)`, of which nothing but the inputs is kept for the backward pass.

    The block draws no random numbers, and changes nothing but through `once`.
    """

    def passes() -> tuple[_Pass, _Pass]:
        found: list[Any] = []
        return _Pass(found, first=True), _Pass(found, first=False)

    return cast(
        Tensor,
        checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=passes),
    )


def called(block: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """`block(*inputs)`, of which all that the backward pass needs is kept."""
    return block(*inputs)
