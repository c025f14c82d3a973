"""The training step."""

import copy
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import PartialState

from cgt import rng
from cgt.distributed import World
from cgt.errors import RunError
from cgt.training.step import discriminator_step, fetch, generator_step, train_step
from cgt.training.trainer import Trainer, build_trainer, snapshot
from cgt.transfer.base import Method, MethodConfig
from tests import tiny


def trainer(**changes: Any) -> Trainer:
    config = tiny.pretrain_config(**changes)
    method = Method(MethodConfig(name="pretraining"), tiny.task(config.generator, tiny.OLD, transfer=False))
    return build_trainer(config, method, World(cpu=True))


def weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.named_parameters()}


def test_each_discriminator_step_is_an_update_of_its_own() -> None:
    t = trainer()
    batches = tiny.MemoryPictures(tiny.OLD).batches(8, seed=0)
    with torch.no_grad():
        tables = t.bank.tables()
    seen = [weights(t.discriminator)]
    for update in range(3):
        discriminator_step(t, *next(batches), tables, 0, update)
        seen.append(weights(t.discriminator))
    for before, after in itertools.pairwise(seen):
        assert any(not torch.equal(before[key], after[key]) for key in before)
    assert t.discriminator_optimiser.state[t.discriminator.linear.bias]["step"].item() == 3


def test_a_step_of_one_network_leaves_the_other_as_it_is() -> None:
    t = trainer()
    batches = tiny.MemoryPictures(tiny.OLD).batches(8, seed=0)
    generator, discriminator = weights(t.generator), weights(t.discriminator)
    with torch.no_grad():
        tables = t.bank.tables()
    discriminator_step(t, *next(batches), tables, 0, 0)
    assert all(torch.equal(generator[key], value) for key, value in t.generator.named_parameters())
    discriminator = weights(t.discriminator)
    generator_step(t, 0)
    assert all(torch.equal(discriminator[key], value) for key, value in t.discriminator.named_parameters())
    assert all(p.grad is None for p in t.discriminator.parameters())
    assert any(not torch.equal(generator[key], value) for key, value in t.generator.named_parameters())


def recorded_gradients(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A dictionary that the next backward passes fill with the sum of each parameter's gradients."""
    gradients: dict[str, torch.Tensor] = {}

    def record(key: str, gradient: torch.Tensor) -> None:
        gradients[key] = gradients.get(key, torch.zeros(())) + gradient

    for key, parameter in network.named_parameters():
        parameter.register_hook(functools.partial(record, key))
    return gradients


@pytest.mark.parametrize("micro_batch", [8, 4])
@pytest.mark.parametrize("config", [tiny.PER_LAYER, tiny.HIERARCHICAL], ids=["per-layer", "hierarchical"])
def test_gradients_are_those_of_the_plain_loss_averaged_over_the_micro_batches(
    config: Any, micro_batch: int
) -> None:
    """Batch statistics are a micro-batch's own, so that is what the reference averages over."""
    t = trainer(generator=config, micro_batch=micro_batch, optim={"discriminator_steps": 1}, augment={})
    plain, discriminator = copy.deepcopy(t.generator), copy.deepcopy(t.discriminator)
    gradients = recorded_gradients(t.generator)
    z_NZ = rng.normal((8, t.generator.dim_z), 0, "generator latents", 0)
    y_N = rng.integers(8, len(tiny.OLD), 0, "generator labels", 0)
    generator_step(t, 0)
    # The tables, and with them their spectral norms, are made once for all micro-batches.
    tables = plain.banks[-1].tables()
    micro_batches = 8 // micro_batch
    for z, y in ((z_NZ[k::micro_batches], y_N[k::micro_batches]) for k in range(micro_batches)):
        loss = -discriminator(plain(z, y, tables), y).mean() * micro_batch / 8
        loss.backward(retain_graph=True)
    for key, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_a_loss_that_is_not_finite_is_named_with_the_first_step_that_has_one(network: str) -> None:
    t = trainer()
    batches = tiny.MemoryPictures(tiny.OLD).batches(8, seed=0)
    steps = {0: train_step(t, batches, 0)}
    assert fetch(steps) == [{name: float(loss) for name, loss in steps[0].items()}]
    with torch.no_grad():
        t.discriminator.linear.bias.fill_(float("nan"))
    steps |= {1: generator_step(t, 1) if network == "generator" else train_step(t, batches, 1)}
    with pytest.raises(RunError, match=f"{network} loss became nan in step 1: .* lower the learning rates"):
        fetch(steps)


def test_a_step_keeps_less_where_the_config_has_activations_worked_out_again() -> None:
    kept = []
    for recompute in (False, True):
        t, numbers = trainer(gradient_checkpointing=recompute), [0]
        batches = tiny.MemoryPictures(tiny.OLD).batches(8, seed=0)

        def keep(tensor: torch.Tensor, numbers: list[int] = numbers) -> torch.Tensor:
            numbers[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            train_step(t, batches, 0)
        kept += numbers
    assert kept[1] < 0.7 * kept[0]


def test_bf16_trains_and_keeps_float32_weights() -> None:
    t = trainer(precision="bf16")
    losses = train_step(t, tiny.MemoryPictures(tiny.OLD).batches(8, seed=0), 0)
    assert all(value == value for value in losses.values())
    assert {p.dtype for p in (*t.generator.parameters(), *t.discriminator.parameters())} == {torch.float32}


def test_a_snapshot_does_not_disturb_training() -> None:
    runs = []
    for evaluated in (False, True):
        t = trainer()
        batches = tiny.MemoryPictures(tiny.OLD).batches(8, seed=0)
        for step in range(3):
            train_step(t, batches, step)
            if evaluated:
                snapshot(t)
        runs.append(t.generator.state_dict() | t.discriminator.state_dict())
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


def test_standing_statistics_are_the_plain_mean_over_the_batches_and_training_keeps_its_running_ones() -> (
    None
):
    t = trainer(ema={"decay": 0.5, "start": 0, "standing_batches": 3})
    train_step(t, tiny.MemoryPictures(tiny.OLD).batches(8, seed=0), 0)
    running = t.bank.statistics[-1].mean.clone()
    with t.ema.applied():
        averaged = copy.deepcopy(t.generator)
    means = []
    hook = averaged.blocks[0].norm1.register_forward_pre_hook(
        lambda _, args: means.append(args[0].mean((0, 2, 3)))
    )
    with torch.no_grad():
        for i in range(3):
            z_NZ = rng.normal((8, 6), 0, "standing latents", i)
            averaged(z_NZ, rng.integers(8, 4, 0, "standing labels", i))
    hook.remove()
    finished = snapshot(t)
    torch.testing.assert_close(finished.banks[0].statistics[0].mean, torch.stack(means).mean(0))
    assert torch.equal(t.bank.statistics[-1].mean, running)


@pytest.fixture
def on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Worlds that are made in this test are on the GPU; those of others, on the CPU, are forgotten."""
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    PartialState._reset_state()
    yield
    PartialState._reset_state()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_step_waits_for_the_gpu(precision: str, on_the_gpu: None) -> None:
    adaptive = {
        "augment": {**tiny.RUN["augment"], "target": 0.6},
        "optim": {**tiny.RUN["optim"], "lecam": 0.3},
    }
    config = tiny.pretrain_config(precision=precision, **adaptive)
    task = tiny.task(config.generator, tiny.OLD, transfer=False)
    t = build_trainer(config, Method(MethodConfig(name="pretraining"), task), World(config.precision))
    assert t.world.device.type == "cuda"
    batches = tiny.MemoryPictures(tiny.OLD).batches(8, seed=0)
    train_step(t, batches, 0)  # libraries set themselves up
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps = {step: train_step(t, batches, step) for step in range(1, 4)}
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(fetch(steps)) == 3
