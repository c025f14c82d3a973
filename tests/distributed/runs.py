"""Tiny runs by several ranks, which may be struck anywhere."""

import fcntl
import functools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cgt.distributed import World
from cgt.errors import UserError
from cgt.models.biggan import Generator
from cgt.runs import RunFolder
from cgt.training import loop, watchdog
from cgt.training.loop import Evaluation, train
from cgt.training.state_files import read_state
from cgt.training.trainer import build_trainer
from cgt.transfer.base import Method, MethodConfig
from cgt.transfer.cgantransfer import CGANTransfer, CGANTransferConfig
from tests import tiny
from tests.distributed.ranks import FailedRanksError, run_ranks

STEPS = 7
CHANGES: dict[str, Any] = {
    "steps": STEPS,
    "eval_every": 2,
    "save_every": 3,
    "optim": {"discriminator_steps": 2, "generator_lr": 1e-3, "discriminator_lr": 1e-3, "eps": 1e-3},
}
TIMEOUT = 20.0


class SharedPictures(tiny.MemoryPictures):
    """Gives each rank its share of a batch."""

    def batches(
        self, batch_size: int, *, seed: int, first: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in super().batches(batch_size, seed=seed, first=first):
            yield x.tensor_split(world)[rank], y.tensor_split(world)[rank]


def mean_brightness(generator: Generator) -> dict[str, float]:
    with torch.no_grad():
        y_N = torch.arange(16) % len(generator.classes)
        return {"score": float(generator(torch.ones(16, generator.dim_z), y_N).mean())}


def chosen(strategy: str) -> dict[str, str]:
    """Of "zero3+ddp", the generator's and the discriminator's."""
    names = strategy.split("+")
    return {"generator": names[0], "discriminator": names[-1]}


def task(kind: str, **changes: Any) -> tuple[Any, Method[Any]]:
    """The config and the method of tiny training: "pretraining", or "cgantransfer", which freezes G."""
    if kind == "pretraining":
        config: Any = tiny.pretrain_config(**changes)
        return config, Method(MethodConfig(name=kind), tiny.task(config.generator, tiny.OLD, transfer=False))
    options = CGANTransferConfig(name=kind, lambda_s=1.0, lambda_r=1.0)
    return tiny.transfer_config(options, **changes), CGANTransfer(options, tiny.task(tiny.HIERARCHICAL))


def run(
    path: Path,
    *,
    kind: str = "pretraining",
    strategy: str = "ddp",
    resume: bool = False,
    arm: Callable[[], None] | None = None,
    **changes: Any,
) -> None:
    """Train on this rank; `arm` is called before, and prepares what shall happen."""
    world = World(cpu=True, timeout=TIMEOUT)
    watchdog.SECONDS, watchdog.SILENT = 0.1, 1.0  # the tests wait for these
    if arm:
        arm()
    config, method = task(kind, strategy=chosen(strategy), **{**CHANGES, **changes})
    with world.together():
        if world.is_main:
            folder = (RunFolder.reopen if resume else RunFolder.create)(path, config, {})
    if not world.is_main:
        folder = RunFolder.join(path)
    train(
        build_trainer(config, method, world),
        SharedPictures(method.task.classes),
        folder,
        evaluation=Evaluation(mean_brightness, "score", lower_is_better=False),
        resume=resume,
        provenance={},
    )


def results(path: Path) -> dict[str, Any]:
    """Everything that a run leaves: tensors of the last state, bytes of the models, every record."""
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    models = {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted((path / "checkpoints").glob("*/model/*.safetensors"))
    }
    return {
        "state": read_state(path / "latest" / "state"),
        "records": records,
        "models": models,
        "pointers": {name: str((path / name).readlink()) for name in ("latest", "best")},
        "grids": {file.name: file.read_bytes() for file in (path / "samples").iterdir()},
    }


def same(a: Any, b: Any, tolerance: float = 0.0) -> bool:
    """Whether two results are equal, numbers within a tolerance; with one, files are not compared."""
    if isinstance(a, Tensor):
        return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=0, atol=tolerance)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key], tolerance) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return a == b or abs(a - b) <= tolerance
    return bool(a == b or (tolerance and isinstance(a, bytes)))


def in_call(
    owner: Any, name: str, number: int, act: Callable[[], Any], *, rank: int, after: bool = False
) -> Any:
    """What replaces `owner.name` on a rank so that `act` happens in its call `number` (from 0)."""

    def arm() -> None:
        if int(os.environ.get("RANK", "0")) != rank:
            return
        original, calls = getattr(owner, name), iter(range(1000))

        def armed(*args: Any, **options: Any) -> Any:
            now = next(calls) == number
            if now and not after:
                act()
            result = original(*args, **options)
            if now and after:
                act()
            return result

        setattr(owner, name, armed)

    return arm


def stopping(owner: Any, name: str, number: int, *, rank: int, lock: Path) -> Callable[[], None]:
    """What stops a rank in call `number` of `owner.name`, which keeps its connections. When all others have
    ended, and so have let go of `lock`, it is killed.
    """

    def stop() -> None:
        stopped = os.getpid()
        if os.fork() == 0:
            fcntl.lockf(os.open(lock, os.O_RDWR), fcntl.LOCK_EX)
            os.kill(stopped, signal.SIGKILL)
            os._exit(0)
        os.kill(stopped, signal.SIGSTOP)

    def arm() -> None:
        if int(os.environ["RANK"]) == rank:
            in_call(owner, name, number, stop, rank=rank)()
        else:
            fcntl.lockf(os.open(lock, os.O_RDWR | os.O_CREAT), fcntl.LOCK_SH)

    return arm


def stop_early() -> None:
    """Have a run end when its checkpoint after step 4 is whole."""
    reach = loop._Milestones.reach

    def stopping(self: Any, done: int, *args: Any, **options: Any) -> Any:
        result = reach(self, done, *args, **options)
        if done == 4:
            raise UserError("far enough")
        return result

    loop._Milestones.reach = stopping  # type: ignore[method-assign]


def suicide() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_and_resume(
    expected: Path, path: Path, rank: int, owner: Any, name: str, number: int, after: bool, **changes: Any
) -> None:
    """Two ranks, of which one is killed in a call of `owner.name`; resumed, they make what was expected."""
    arm = in_call(owner, name, number, suicide, rank=rank, after=after)
    errors: list[str | None] = []

    def killed() -> None:
        with pytest.raises(FailedRanksError) as caught:
            run_ranks(functools.partial(run, arm=arm, **changes), 2, path)
        errors.extend(caught.value.errors)

    assert timed(killed) < TIMEOUT + 10
    assert errors[rank] == f"ended with {-signal.SIGKILL}"
    other = errors[1 - rank] or ""
    assert f"rank {rank} (" in other
    assert "has not answered since step" in other
    assert "checkpoint" in other
    run_ranks(functools.partial(run, resume=True, **changes), 2, path)
    assert_same(path, expected)
    assert not list((path / "checkpoints").glob(".*"))


def signal_and_resume(expected: Path, path: Path, number: signal.Signals, **changes: Any) -> None:
    """Two ranks, of which one is asked to stop in its fourth step; resumed, they make what was expected."""
    arm = in_call(loop, "train_step", 3, lambda: os.kill(os.getpid(), number), rank=1)
    with pytest.raises(FailedRanksError) as caught:
        run_ranks(functools.partial(run, arm=arm, **changes), 2, path)
    first, second = caught.value.errors
    assert "PreemptedError: asked to stop after step 5" in (first or "")
    assert "SaidElsewhereError" in (second or "")
    assert read_state(path / "latest" / "state")["step"] == 5
    run_ranks(functools.partial(run, resume=True, **changes), 2, path)
    assert_same(path, expected)


def assert_same(path: Path, expected: Path, tolerance: float = 0.0) -> None:
    """Equal to the bit without a tolerance, models and pictures too."""
    wanted, got = results(expected), results(path)
    for part in wanted if tolerance == 0 else ("state", "records", "pointers"):
        assert same(got[part], wanted[part], tolerance), part


def timed(function: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    start = time.monotonic()
    function()
    return time.monotonic() - start
