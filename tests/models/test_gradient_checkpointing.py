"""Gradient checkpointing gives what keeping everything gives, to the bit, and does nothing twice."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.models.norm import synchronise
from tests import tiny


def generator() -> Generator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Generator(tiny.HIERARCHICAL, tiny.RESOLUTION, tiny.OLD)
        nn.init.constant_(network.attention["0"].gain, 0.5)
    return network.train()


def discriminator() -> Discriminator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Discriminator(tiny.DISCRIMINATOR, tiny.RESOLUTION, tiny.OLD).train()


def forward(network: nn.Module) -> Tensor:
    draws = torch.Generator().manual_seed(1)
    y_N = torch.arange(6) % len(tiny.OLD)
    if isinstance(network, Generator):
        return network(torch.randn(6, network.dim_z, generator=draws), y_N).square().sum()
    return network(torch.randn(6, 3, 8, 8, generator=draws), y_N).square().sum()


def everything(network: nn.Module) -> dict[str, Tensor]:
    """All that a training step leaves in the network."""
    forward(network).backward()
    gradients = {
        f"gradient of {name}": p.grad for name, p in network.named_parameters() if p.grad is not None
    }
    return {**gradients, **network.state_dict()}


@pytest.mark.parametrize("make", [generator, discriminator])
@pytest.mark.parametrize("across_ranks", [False, True])
def test_gradients_and_all_that_a_forward_pass_changes_are_the_same(
    make: Callable[[], Generator | Discriminator], across_ranks: bool
) -> None:
    kept = make()
    synchronise(kept, (lambda sums: sums) if across_ranks else None)
    again = copy.deepcopy(kept)
    again.gradient_checkpointing = True
    before = copy.deepcopy(kept.state_dict())
    expected, found = everything(kept), everything(again)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert any(not torch.equal(expected[name], before[name]) for name in before)  # a vector u, at least


def test_ranks_add_up_their_statistics_once_a_pass() -> None:
    counts = []
    for recompute in (False, True):
        network = generator()
        network.gradient_checkpointing = recompute
        sums: list[Tensor] = []
        synchronise(network, lambda tensor, sums=sums: (sums.append(tensor), tensor)[1])
        forward(network).backward()
        counts.append(len(sums))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("make", [generator, discriminator])
def test_only_the_inputs_of_blocks_are_kept(make: Callable[[], Generator | Discriminator]) -> None:
    """Numbers that autograd keeps of a forward pass, parameters aside."""
    numbers = []
    for recompute in (False, True):
        network = make()
        network.gradient_checkpointing = recompute
        kept: dict[int, Tensor] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: kept.setdefault(id(t), t), lambda t: t
        ):
            loss = forward(network)
        numbers.append(
            sum(tensor.numel() for tensor in kept.values() if not isinstance(tensor, nn.Parameter))
        )
        del loss
    assert numbers[1] < numbers[0] / 2


def test_gradients_can_be_had_twice_of_one_forward_pass() -> None:
    network = generator()
    network.gradient_checkpointing = True
    loss = forward(network)
    first = torch.autograd.grad(loss, network.linear.weight, retain_graph=True)[0]
    vectors = network.linear.u.clone()
    assert torch.equal(torch.autograd.grad(loss, network.linear.weight)[0], first)
    assert torch.equal(network.linear.u, vectors)
