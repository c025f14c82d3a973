"""Training by several processes: what one process with the same global batch does."""

import functools
import importlib.util
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cgt.config import load
from cgt.distributed import World
from cgt.errors import RunError, UserError
from cgt.training.optim import OptimConfig, ParameterGroup
from cgt.training.settings import PretrainConfig
from cgt.training.step import fetch, generator_step, train_step
from cgt.training.strategies import replicated, zero
from cgt.training.strategies.choice import check
from cgt.training.trainer import Trainer, build_trainer, snapshot
from tests import tiny
from tests.distributed.ranks import require, run_ranks
from tests.distributed.runs import chosen, task

STEPS = 6
HALF = 3
OPTIM = {"discriminator_steps": 2, "generator_lr": 1e-3, "discriminator_lr": 1e-3, "eps": 1e-3}
CLIPPED = {**OPTIM, "max_grad_norm": 0.05, "class_lr_scale": 3.0, "decay_from": 0.5}
SMOOTH = {"discriminator_steps": 2, "eps": 10.0}
"""Steps in proportion to the gradients, at the default rates.

Batches of other sizes are rounded otherwise in bf16. With a small eps Adam makes full steps of any gradient,
also of what is rounding alone, such as that of a bias before a batch norm, and two runs part.
"""
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("pretraining", {}),
    "frozen generator": ("cgantransfer", {"micro_batch": 2}),
    "accumulation": ("pretraining", {"micro_batch": 2, "generator": tiny.HIERARCHICAL}),
    "clipped": ("pretraining", {"optim": CLIPPED}),
    "bf16": ("pretraining", {"precision": "bf16", "optim": SMOOTH}),
}
STRATEGIES = ["ddp", "zero1", "zero2", "zero3"]


def trainer(kind: str, **changes: Any) -> Trainer:
    config, method = task(kind, **{"optim": OPTIM, "steps": STEPS, **changes})
    return build_trainer(config, method, World(config.precision, cpu=True))


def batches(t: Trainer, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    pictures = tiny.MemoryPictures(t.method.task.classes)
    for x, y in pictures.batches(t.config.batch_size, seed=0, first=first):
        yield t.world.share(x), t.world.share(y)


def steps(t: Trainer, first: int, last: int) -> dict[str, Any]:
    """Train, and look at everything; values that may be pickled."""
    feed = batches(t, first * t.config.optim.discriminator_steps)
    losses = fetch({step: train_step(t, feed, step) for step in range(first, last)})
    state = t.state_dict()
    del state["ema"]
    return {"losses": losses, "state": state, "model": snapshot(t).state_dict()}


def all_cases(strategy: str, half: dict[str, Any]) -> dict[str, Any]:
    """Every case from its beginning, but "clipped", which has two groups of parameters, from half-way."""
    found = {}
    for case, (kind, changes) in CASES.items():
        if "+" in strategy and case != "frozen generator":
            continue
        t = trainer(kind, strategy=chosen(strategy), **changes)
        if case == "clipped":
            t.load_state_dict({**half["state"], "ema": t.ema.state_dict()})
        found[case] = steps(t, HALF if case == "clipped" else 0, STEPS)
    return found


def in_one_process(cases: list[str], last: int) -> dict[str, Any]:
    found = {}
    for case in cases:
        kind, changes = CASES[case]
        micro_batch = changes.get("micro_batch")
        changes = {**changes, "micro_batch": micro_batch and 2 * micro_batch}
        found[case] = steps(trainer(kind, **changes), 0, last)
    return found


@functools.cache
def expected() -> dict[str, Any]:
    return in_one_process(list(CASES), STEPS)


@functools.cache
def found(strategy: str) -> list[dict[str, Any]]:
    """By rank."""
    require(strategy)
    half = in_one_process(["clipped"], HALF)["clipped"]
    return run_ranks(all_cases, 2, strategy, half, seconds=120)


@pytest.fixture(autouse=True)
def _weights_of_any_size_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero, "PERSISTENT", 0)


def assert_close(a: Any, b: Any, tolerance: float, place: str = "") -> None:
    """Equal keys and plain values, and numbers that are as near as `tolerance`."""
    if isinstance(b, dict):
        assert a.keys() == b.keys(), place
        for key in b:
            assert_close(a[key], b[key], tolerance, f"{place}/{key}")
    elif isinstance(b, list | tuple):
        assert len(a) == len(b), place
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_close(x, y, tolerance, f"{place}/{index}")
    elif isinstance(b, Tensor | float):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda text: f"{place}: {text}")
    else:
        assert a == b, place


@pytest.mark.parametrize("case", ["plain", "frozen generator", "accumulation"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_train_as_one_does(strategy: str, case: str) -> None:
    for of_rank in found(strategy):
        assert_close(of_rank[case], expected()[case], 1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_train_as_one_does_in_bf16(strategy: str) -> None:
    """In rounding to 8 bits they differ, which is a hundredth of how far the weights move."""
    t = trainer("pretraining", precision="bf16")
    for network, start in (("generator", t.generator), ("discriminator", t.discriminator)):
        of_both = [of["bf16"]["state"][network] for of in found(strategy)]
        assert_close(of_both[0], of_both[1], 0.0)
        of_one = expected()["bf16"]["state"][network]
        moved = 0.0
        for name, weight in start.named_parameters():
            assert_close(of_both[0][name], of_one[name], 1e-5, name)
            moved = max(moved, float((of_one[name] - weight.detach()).abs().max()))
        assert moved > 1e-4
    for found_in_step, losses in zip(
        found(strategy)[0]["bf16"]["losses"], expected()["bf16"]["losses"], strict=True
    ):
        assert_close(found_in_step, losses, 0.02)


def test_bf16_is_not_float32() -> None:
    losses = steps(trainer("pretraining", optim=SMOOTH), 0, 1)["losses"]
    assert 1e-4 < abs(losses[0]["loss_generator"] - expected()["bf16"]["losses"][0]["loss_generator"]) < 0.1


def test_strategies_may_differ_between_the_networks() -> None:
    for of_rank in found("zero3+ddp"):
        assert_close(of_rank["frozen generator"], expected()["frozen generator"], 1e-5)


def on_twelve(micro_batch: int) -> dict[str, Any]:
    return steps(trainer("pretraining", batch_size=12, micro_batch=micro_batch), 0, 3)


def test_three_processes_train_as_one_does() -> None:
    reference = on_twelve(6)
    for of_rank in run_ranks(on_twelve, 3, 2):
        assert_close(of_rank, reference, 1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_go_on_from_what_one_saved(strategy: str) -> None:
    for of_rank in found(strategy):
        assert_close(of_rank["clipped"]["losses"], expected()["clipped"]["losses"][HALF:], 1e-5)
        assert_close(of_rank["clipped"]["state"], expected()["clipped"]["state"], 1e-5)


def overflowing(strategy: str, optim: dict[str, Any]) -> tuple[Any, Any, list[float], bool]:
    """Losses that are scaled as under fp16: what comes out, and an update whose gradient overflows."""
    World.scaler = lambda _: torch.amp.GradScaler("cpu", init_scale=1024.0)  # type: ignore[method-assign]
    t = trainer("pretraining", strategy=chosen(strategy), optim=optim)
    results = steps(t, 0, 2)
    scales = [t.of_discriminator.scaler.get_scale()]
    with t.of_discriminator.whole():
        before = t.of_discriminator.copy().state_dict()
    x_N3RR = torch.full((2, 3, 8, 8), 1e38 if t.world.rank == 1 else 1.0)
    t.of_discriminator.backward(t.of_discriminator(x_N3RR, torch.zeros(2, dtype=torch.int64)).sum())
    t.of_discriminator.update()
    scales.append(t.of_discriminator.scaler.get_scale())
    with t.of_discriminator.whole():
        after = t.of_discriminator.copy().state_dict()
    unchanged = all(torch.equal(after[name], before[name]) for name in after if not name.endswith(".u"))
    return results["losses"], results["state"]["generator"], scales, unchanged


@pytest.mark.parametrize("optim", [OPTIM, {**OPTIM, "max_grad_norm": 0.05}], ids=["plain", "clipped"])
@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3"])
def test_scaled_losses_change_nothing_and_an_overflow_on_one_rank_is_skipped_by_all(
    strategy: str, optim: dict[str, Any]
) -> None:
    require(strategy)
    reference = steps(trainer("pretraining", optim=optim), 0, 2)
    for losses, weights, scales, unchanged in run_ranks(overflowing, 2, strategy, optim):
        assert_close(losses, reference["losses"], 1e-5)
        assert_close(weights, reference["state"]["generator"], 1e-5)
        assert scales == [1024.0, 512.0]
        assert unchanged


Tensors = dict[str, Tensor]


def normalised_apart() -> tuple[Tensors, Tensors, Tensors]:
    """This rank's running statistics after a step, those of the model and those of the state."""
    t = trainer("pretraining", synchronised_norm=False, ema={"decay": 0.9, "standing_batches": 0})
    train_step(t, batches(t), 0)
    own = {name: running.clone() for name, running in t.generator.named_buffers() if ".statistics." in name}
    model, state = snapshot(t).state_dict(), t.state_dict()["generator"]
    return own, *({name: whole[name] for name in own} for whole in (model, state))


def test_processes_that_normalise_apart_save_and_measure_the_mean_of_their_statistics() -> None:
    (one, *found), (other, *found_there) = run_ranks(normalised_apart, 2)
    means = {name: (one[name] + other[name]) / 2 for name in one}
    assert not any(torch.equal(one[name], other[name]) for name in one)
    for saved in (*found, *found_there):
        assert_close(saved, means, 0.0)


def beginning() -> Tensors:
    """The weights that a rank begins with, whose own differ from the others' in the last bits."""
    config, method = task("pretraining")
    world, made = World(cpu=True), method.networks()
    with torch.no_grad():
        for parameter in (parameter for network in made for parameter in network.parameters()):
            parameter.mul_(1 + 1e-6 * world.rank)
    method.networks = lambda: made  # type: ignore[method-assign]
    t = build_trainer(config, method, world)
    return t.generator.state_dict() | t.discriminator.state_dict()


def test_all_processes_begin_with_the_weights_of_the_first() -> None:
    expected = beginning()
    for weights in run_ranks(beginning, 2):
        assert_close(weights, expected, 0.0)


def diverging() -> str:
    t = trainer("pretraining")
    if t.world.rank == 1:
        with torch.no_grad():
            t.discriminator.linear.bias.fill_(float("nan"))
    try:
        fetch({0: train_step(t, batches(t), 0)})
    except RunError as error:
        return str(error)
    return "went on"


def test_a_loss_that_is_not_finite_on_one_rank_stops_all() -> None:
    message = "the discriminator loss became nan in step 0: the run has diverged; lower the learning rates."
    assert run_ranks(diverging, 2) == [message] * 2


def sent() -> tuple[int, int]:
    """Numbers that a transfer's G sends in one update, and those that it trains."""
    t = trainer("cgantransfer")
    numbers = []
    start_sum_ = t.world.start_sum_
    t.world.start_sum_ = lambda flat: (numbers.append(flat.numel()), start_sum_(flat))[1]  # type: ignore
    generator_step(t, 0)
    return sum(numbers), sum(parameter.numel() for parameter in t.of_generator.parameters)


def test_a_transfer_communicates_what_it_trains() -> None:
    for communicated, trained in run_ranks(sent, 2):
        assert communicated == trained


def partly_used() -> tuple[list[Tensor | None], list[int]]:
    """Gradients that arrive in an order of their own, two micro-batches, and a parameter without any; and how
    many messages have left after each micro-batch, and when all is done.
    """
    world = World(cpu=True)
    network = nn.ParameterList(torch.ones(2) for _ in range(4))
    replicated.BUCKET_BYTES = 8
    t = replicated.Replicated(network, [ParameterGroup(list(network))], 1e-3, OptimConfig(), world)
    means = []
    t.optimiser.register_step_pre_hook(lambda *_: means.extend(p.grad for p in network))
    sent: list[Tensor] = []
    start_sum_ = world.start_sum_
    world.start_sum_ = lambda flat: (sent.append(flat), start_sum_(flat))[1]  # type: ignore
    left = []
    for number in (1.0, 2.0):
        loss = (network[3] * 2 + network[0]).sum() * network[1][0] * number * (world.rank + 1)
        t.backward(loss, last=number == 2.0)
        left.append(len(sent))
    t.update()
    return means, [*left, len(sent)]


def test_gradients_are_means_over_processes_whatever_their_order() -> None:
    for gradients, left in run_ranks(partly_used, 2):
        # The third parameter gets no gradient, so its message waits for the update, and the next with it.
        assert left == [0, 1, 4]
        assert gradients[2] is None
        assert [g.tolist() for g in gradients if g is not None] == [[4.5, 4.5], [27.0, 0.0], [9.0, 9.0]]


def test_zero_is_refused_where_it_can_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(PretrainConfig, "shapes/pretrain", ["data=anything", "strategy=zero3"]).strategy
    assert config.of_discriminator == "zero3"
    two: Any = SimpleNamespace(size=2)
    with pytest.raises(UserError, match=r"strategy.generator=zero3 and strategy.discriminator=zero3: .*one"):
        check(config, World(cpu=True), compiled=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(UserError, match="compile=false"):
        check(config, two, compiled=True)
    for missing in ("deepspeed", "transformers"):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, missing=missing: name != missing)
        with pytest.raises(UserError, match=rf'needs {missing}, which .* pip install "cgt\[deepspeed\]"'):
            check(config, two, compiled=False)


@pytest.mark.parametrize(
    ("processes", "overrides", "message"),
    [
        (3, [], "3 processes can't share batch_size 32 evenly: make it a multiple of 3"),
        (2, ["micro_batch=32"], "in micro-batches of 32: make it a multiple of 64"),
        (2, ["batch_size=6", "optim.mode_seeking=1"], "make batch_size a multiple of 4"),
    ],
)
def test_a_batch_that_can_not_be_shared_is_refused(
    processes: int, overrides: list[str], message: str
) -> None:
    config = load(PretrainConfig, "shapes/pretrain", ["data=anything", "batch_size=32", *overrides])
    config.check_share(1)
    with pytest.raises(UserError, match=message):
        config.check_share(processes)
