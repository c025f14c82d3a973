"""What is trained: a network, its optimiser, and how the processes of a run work on it together.

A training step knows nothing else of other processes. Losses are means over the pictures of a micro-batch on
one process, and the gradients of an update are means over micro-batches and processes: those of the global
batch.
"""

import abc
import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from cgt.distributed import World
from cgt.training.optim import OptimConfig, ParameterGroup, adam


class Trainable(abc.ABC):
    """One network under training.

    Args:
        network: on this process's device, in training mode; the same weights on every process.
        groups: the parameters that are trained.
        lr: learning rate of the network.
        config: how it is optimised.
        world: this process's place.
    """

    def __init__(
        self,
        network: nn.Module,
        groups: Sequence[ParameterGroup],
        lr: float,
        config: OptimConfig,
        world: World,
    ) -> None:
        self.network = network
        self.parameters = [parameter for group in groups for parameter in group.parameters]
        self.optimiser = adam(groups, lr, config)
        self.max_grad_norm = config.max_grad_norm
        self.world = world
        self.scaler = world.scaler()

    def __call__(self, *inputs: Any) -> Tensor:
        """The network's forward pass for a loss that trains it; for any other, call `network` itself."""
        return cast(Tensor, self.network(*inputs))

    def backward(
        self, loss: Tensor, carried: Sequence[tuple[Tensor, Tensor]] = (), *, last: bool = True
    ) -> None:
        """Add the gradients of one micro-batch's loss.

        Args:
            loss: a scalar.
            carried: tensors that earlier micro-batches saw as leaves, each with the gradient that these
                backward passes left there; it goes on to what the tensor is made of.
            last: whether the update comes next.
        """
        total = self.scaler.scale(loss)
        for tensor, gradient in carried:
            # Its derivative by the tensor is the gradient, which is scaled already.
            total = total + (tensor * gradient).sum()
        self._backward(total, last=last)

    @abc.abstractmethod
    def update(self) -> None:
        """One step of the optimiser on the gradients that were added since the last one.

        Under fp16 all processes leave it out where a gradient of any of them overflowed.
        """

    @abc.abstractmethod
    def _backward(self, loss: Tensor, *, last: bool) -> None: ...

    def hold(self, module: nn.Module) -> None:  # noqa: B027
        """Have a part of the network at hand outside of its forward pass, until the next update."""

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """A block in which the network's parameters are all here; all processes enter it together."""
        yield

    def copy(self) -> nn.Module:
        """A plain copy of the network, its parameters being here as in `whole`."""
        return copy.deepcopy(self.network)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Whole tensors, in one format for any strategy and any number of processes, which call it together.

        The network's, those of torch's Adam by number of the parameter, and the loss scale.
        """
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        """Take over what any strategy saved; all processes give the same."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])


def found_overflow(scaler: torch.amp.GradScaler, device: torch.device, *, overflow: bool) -> None:
    """Tell a loss scaler what became of an update whose gradients it has not seen."""
    stand_in = nn.Parameter(torch.zeros(1, device=device))
    stand_in.grad = torch.full_like(stand_in, float("inf") if overflow else 0.0)
    scaler.step(torch.optim.SGD([stand_in], lr=0.0))
    scaler.update()
