"""Training with `compile: true`."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch._inductor.compile_fx as compile_module
from torch._dynamo.utils import counters

from cgt.distributed import World
from cgt.training.step import Losses, fetch, train_step
from cgt.training.trainer import Trainer, build_trainer
from cgt.transfer.base import Method, MethodConfig
from tests import tiny
from tests.transfer.methods import make

STEPS = 50
SMALL = {**tiny.RUN["optim"], "generator_lr": 1e-4, "discriminator_lr": 1e-4, "discriminator_steps": 1}
"""Rates at which the last bits of one step do not decide the next."""


def trainer(kind: str, compiled: bool) -> Trainer:
    changes = {"compile": compiled, "steps": STEPS, "optim": SMALL}
    if kind == "pretraining":
        config = tiny.pretrain_config(**changes)
        task = tiny.task(config.generator, tiny.OLD, transfer=False)
        return build_trainer(config, Method(MethodConfig(name=kind), task), World(cpu=True))
    method = make(kind, tiny.PER_LAYER)
    return build_trainer(tiny.transfer_config(method.config, **changes), method, World(cpu=True))


def watched_for_symbols(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of every graph that is compiled from here on, whether a size in it varies."""
    compile_fx, found = compile_module.compile_fx, []

    def watching(graph: Any, inputs: Sequence[Any], **options: Any) -> Any:
        sizes = (size for value in inputs if isinstance(value, torch.Tensor) for size in value.shape)
        found.append(any(isinstance(size, torch.SymInt) for size in (*inputs, *sizes)))
        return compile_fx(graph, inputs, **options)

    monkeypatch.setattr(compile_module, "compile_fx", watching)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pretraining", "cgantransfer"])
def test_compiled_networks_train_as_plain_ones_do_and_are_compiled_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []
    for compiled in (False, True):
        t = trainer(kind, compiled)
        batches = tiny.MemoryPictures(t.method.task.classes).batches(8, seed=0)
        torch._dynamo.reset()
        symbolic = watched_for_symbols(monkeypatch)
        counters.clear()
        steps: dict[int, Losses] = {0: train_step(t, batches, 0)}
        warm = dict(counters["stats"])
        steps |= {step: train_step(t, batches, step) for step in range(1, STEPS)}
        assert dict(counters["stats"]) == warm
        # Each network for each of its uses.
        assert warm.get("unique_graphs", 0) == (4 if compiled else 0)
        assert not counters["graph_break"]
        assert symbolic == [False] * (4 if compiled else 0)
        losses.append(fetch(steps))
    for plain, other in zip(*losses, strict=True):
        assert other == pytest.approx(plain, rel=1e-3, abs=1e-3)
