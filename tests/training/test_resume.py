"""A run that is killed with SIGKILL anywhere and resumed ends in the same bits as one that is left alone."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cgt.distributed import World
from cgt.models.biggan import Generator
from cgt.runs import RunFolder
from cgt.training import checkpoint, loop
from cgt.training.loop import Evaluation, train
from cgt.training.state_files import read_state
from cgt.transfer.base import Method, MethodConfig
from cgt.transfer.cgantransfer import CGANTransfer, CGANTransferConfig
from tests import tiny

STEPS = 7
CHANGES: dict[str, Any] = {
    "steps": STEPS,
    "eval_every": 2,
    "save_every": 3,
    "optim": {"discriminator_steps": 2, "decay_from": 0.5},
}


def mean_brightness(generator: Generator) -> dict[str, float]:
    """A score that moves up and down, so that the best is not simply the last."""
    with torch.no_grad():
        y_N = torch.arange(16) % len(generator.classes)
        return {"score": float(generator(torch.ones(16, generator.dim_z), y_N).mean())}


def run(path: Path, kind: str, *, resume: bool) -> None:
    if kind == "pretrain":
        config: Any = tiny.pretrain_config(**CHANGES)
        method: Method[Any] = Method(
            MethodConfig(name="pretraining"), tiny.task(config.generator, tiny.OLD, transfer=False)
        )
    else:
        options = CGANTransferConfig(name="cgantransfer")
        config = tiny.transfer_config(options, **CHANGES)
        method = CGANTransfer(options, tiny.task(tiny.HIERARCHICAL))
    folder = (RunFolder.reopen if resume else RunFolder.create)(path, config, {})
    train(
        config,
        method,
        tiny.MemoryPictures(method.task.classes),
        folder,
        world=World(cpu=True),
        evaluation=Evaluation(mean_brightness, "score", lower_is_better=False),
        resume=resume,
        provenance={},
    )


def results(path: Path) -> dict[str, Any]:
    """Everything that a run leaves: tensors of the last state, bytes of the models, every record."""
    state = read_state(path / "latest" / "state")
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    models = {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted((path / "checkpoints").glob("*/model/*.safetensors"))
    }
    pointers = {name: str((path / name).readlink()) for name in ("latest", "best")}
    grids = {file.name: file.read_bytes() for file in (path / "samples").iterdir()}
    return {"state": state, "records": records, "models": models, "pointers": pointers, "grids": grids}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def die_in_call(owner: Any, name: str, number: int, *, after: bool = False) -> Callable[[], None]:
    """Replace `owner.name` so that the process kills itself in its call number `number` (from 0), before or
    after its work.
    """

    def arm() -> None:
        original = getattr(owner, name)
        calls = iter(range(1000))

        def lethal(*args: Any, **options: Any) -> Any:
            fatal = next(calls) == number
            if fatal and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **options)
            if fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, lethal)

    return arm


KILLS = {
    "before the first step": die_in_call(loop, "train_step", 0),
    "in a step between checkpoints": die_in_call(loop, "train_step", 4),
    "after a step, before its log": die_in_call(loop, "train_step", 5, after=True),
    "before the state is written": die_in_call(checkpoint, "write_state", 1),
    "between the state and the model": die_in_call(checkpoint, "write_state", 1, after=True),
    "while the model is written": die_in_call(loop, "save_model", 1, after=True),
    "between the checkpoint and its pointer": die_in_call(checkpoint.Checkpoints, "_point", 1),
    "between the two pointers": die_in_call(checkpoint.Checkpoints, "_point", 0, after=True),
    "before old checkpoints go": die_in_call(checkpoint.Checkpoints, "_prune", 1),
    "in the last step": die_in_call(loop, "train_step", STEPS - 1),
}


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; returns its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module", params=["pretrain", "transfer"])
def uninterrupted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any]]:
    path = tmp_path_factory.mktemp("uninterrupted") / "run"
    run(path, request.param, resume=False)
    return request.param, results(path)


@pytest.mark.parametrize("kill", KILLS)
def test_killed_and_resumed_equals_uninterrupted(
    kill: str, uninterrupted: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    kind, expected = uninterrupted
    path = tmp_path / "run"

    def killed() -> None:
        KILLS[kill]()
        run(path, kind, resume=False)

    assert in_child(killed) == -signal.SIGKILL
    run(path, kind, resume=True)
    got = results(path)
    for part, value in expected.items():
        assert same(got[part], value), part
    assert not list((path / "checkpoints").glob(".*"))


def test_the_best_is_not_always_the_last_in_these_runs(uninterrupted: tuple[str, dict[str, Any]]) -> None:
    """Else the tests above could not tell a lost best from a kept one."""
    _, expected = uninterrupted
    assert len({record["score"] for record in expected["records"] if "score" in record}) > 2


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path: Path) -> None:
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = tiny.pretrain_config(**{**CHANGES, "seed": seed})
        task = tiny.task(config.generator, tiny.OLD, transfer=False)
        method = Method(MethodConfig(name="pretraining"), task)
        folder = RunFolder.create(tmp_path / name, config, {})
        options: dict[str, Any] = {
            "world": World(cpu=True),
            "evaluation": None,
            "resume": False,
            "provenance": {},
        }
        train(config, method, tiny.MemoryPictures(tiny.OLD), folder, **options)
        runs.append(read_state(tmp_path / name / "latest" / "state")["generator"])
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])
