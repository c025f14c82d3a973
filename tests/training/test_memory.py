"""The memory of a run as it is computed, beside that of the same run for real."""

import gc
from typing import Any

import pytest
import torch

from cgt.distributed import World
from cgt.errors import UserError
from cgt.models.discriminator import DiscriminatorConfig
from cgt.training import memory
from cgt.training.memory import LiveTensors, Need, needs, updates, watch
from cgt.training.settings import PretrainConfig
from cgt.training.strategies import zero
from cgt.training.trainer import Trainer, build_trainer
from cgt.transfer.base import Method, MethodConfig, Task
from tests import tiny
from tests.distributed.ranks import require, run_ranks

GENERATOR = {"channels": (64, 48, 48), "dim_z": 6}
HIERARCHICAL = {**GENERATOR, "dim_z": 9, "shared_dim": 5, "hierarchical": True, "attention": (4,)}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "micro-batches": {"micro_batch": 2},
    "hierarchical": {"generator": HIERARCHICAL},
    "checkpointing": {"gradient_checkpointing": True},
    "clipped": {"optim": {"max_grad_norm": 1.0}},
    "bf16": {"precision": "bf16"},
    "feedback": {"augment": {**tiny.RUN["augment"], "target": 0.6}, "optim": {"lecam": 0.3}},
}


def config_of(strategy: str, case: str) -> PretrainConfig:
    """Weights take about as much as activations."""
    shapes = {"generator": GENERATOR, "discriminator": DiscriminatorConfig(channels=(48, 64))}
    values = {**tiny.RUN, **shapes, "strategy": {"generator": strategy}, **CASES[case]}
    return PretrainConfig.model_validate(values)


def method_of(config: PretrainConfig) -> Method[Any]:
    task = Task(tiny.OLD, tiny.RESOLUTION, config.generator, config.discriminator, seed=0)
    return Method(MethodConfig(name="pretraining"), task)


def computed(case: str, processes: int) -> dict[str, Need]:
    config = config_of("ddp", case)
    found = needs(config, lambda: method_of(config), ["ddp", "zero1", "zero2", "zero3"], processes)
    return {need.strategy: need for need in found}


def step(trainer: Trainer, live: LiveTensors) -> int:
    """The most that is alive in a step."""

    def pictures() -> tuple[torch.Tensor, torch.Tensor]:
        share = trainer.config.batch_size // trainer.world.size
        x = torch.zeros(share, 3, tiny.RESOLUTION, tiny.RESOLUTION, dtype=torch.uint8)
        return x, torch.zeros(share, dtype=torch.int64)

    moments = [m for timeline in updates(trainer, live, pictures) for part in timeline for m in part]
    return max(moment.total for moment in moments)


def measured(strategy: str, case: str) -> tuple[int, dict[str, int], dict[str, int]]:
    """The most that is alive in the second step for real; what is there before, as counted and as held."""
    config = config_of(strategy, case)
    method, world, live = method_of(config), World(config.precision, cpu=True), LiveTensors()
    with live:
        trainer = build_trainer(config, method, world)
        step(trainer, live)
        gc.collect()
        if strategy == "ddp":
            watch(trainer, live)
        counted = dict(live.now)
        return step(trainer, live), counted, held(trainer)


def held(trainer: Trainer) -> dict[str, int]:
    parts = (trainer.of_generator, trainer.of_discriminator)
    networks = (part.network for part in parts)
    return {
        "weights": sum(t.nbytes for network in networks for t in network.state_dict().values()),
        "adam": sum(t.nbytes for part in parts for s in part.optimiser.state.values() for t in s.values()),
        "ema": sum(tensor.nbytes for tensor in trainer.ema.average),
    }


@pytest.mark.parametrize("case", list(CASES))
def test_what_is_computed_is_what_a_process_alone_needs(case: str) -> None:
    need = computed(case, 1)["ddp"]
    peak, counted, really = measured("ddp", case)
    # On a CPU batch norm keeps a few statistics of bf16 in more bits than it says; and the micro-batches that
    # are not run have latents. The feedback's numbers are there before the stand-ins are counted.
    exact = case not in ("bf16", "micro-batches")
    assert need.peak.total == pytest.approx(peak, rel=0 if exact else 1e-3, abs=16)
    for kind, size in really.items():
        assert getattr(need.peak, kind) == counted[kind] == size
    assert need.standing == sum(really.values())


@pytest.mark.parametrize("case", ["plain", "micro-batches"])
def test_what_is_computed_is_what_each_of_two_processes_needs(case: str) -> None:
    need = computed(case, 2)["ddp"]
    for peak, counted, really in run_ranks(measured, 2, "ddp", case):
        assert need.peak.total == pytest.approx(peak, rel=1e-3)
        for kind, size in really.items():
            assert counted[kind] == size
            assert getattr(need.peak, kind) == pytest.approx(size, abs=4)


@pytest.fixture
def _small_networks_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero, "PERSISTENT", 0)
    monkeypatch.setattr(memory, "PERSISTENT", 0)
    monkeypatch.setattr(zero, "BUCKET", 1)


@pytest.mark.parametrize("case", ["plain", "micro-batches"])
@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
@pytest.mark.usefixtures("_small_networks_are_divided")
def test_the_formulas_for_zero_come_near_what_deepspeed_takes(strategy: str, case: str) -> None:
    require(strategy)
    need = computed(case, 2)[strategy]
    for peak, counted, really in run_ranks(measured, 2, strategy, case):
        assert 0.96 < need.peak.total / peak < 1.15
        assert need.peak.adam == pytest.approx(really["adam"], rel=0.01)
        assert need.standing == pytest.approx(sum(counted.values()), rel=0.03)


def test_more_micro_batches_need_no_more_but_for_their_pictures() -> None:
    def total(batch_size: int) -> int:
        config = config_of("ddp", "micro-batches").model_copy(update={"batch_size": batch_size})
        (need,) = needs(config, lambda: method_of(config), ["ddp"], 1)
        return need.discriminator_activations

    pictures = 3 * tiny.RESOLUTION**2
    assert total(4) + 12 * pictures == total(16)


def test_a_batch_that_can_not_be_shared_is_refused() -> None:
    with pytest.raises(UserError, match="3 processes can't share batch_size 8"):
        computed("plain", 3)
