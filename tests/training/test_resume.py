"""A run that is killed with SIGKILL anywhere and resumed ends in the same bits as one that is left alone."""

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cgt.distributed import World
from cgt.errors import RunError
from cgt.runs import RunFolder
from cgt.training import checkpoint, loop
from cgt.training.loop import train
from cgt.training.state_files import read_state
from cgt.training.step import train_step
from cgt.training.trainer import Trainer, build_trainer
from cgt.transfer.base import Method, MethodConfig
from tests import tiny
from tests.distributed import runs
from tests.distributed.runs import CHANGES, STEPS, assert_same, results, same

go = functools.partial(runs.run, optim={"discriminator_steps": 2, "decay_from": 0.5})
die_in_call = functools.partial(runs.in_call, act=lambda: os.kill(os.getpid(), signal.SIGKILL), rank=0)


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


@pytest.fixture(scope="module", params=["pretraining", "cgantransfer"])
def uninterrupted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any]]:
    path = tmp_path_factory.mktemp("uninterrupted") / "run"
    go(path, kind=request.param)
    return request.param, results(path)


@pytest.mark.parametrize("kill", KILLS)
def test_killed_and_resumed_equals_uninterrupted(
    kill: str, uninterrupted: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    kind, expected = uninterrupted
    path = tmp_path / "run"

    def killed() -> None:
        KILLS[kill]()
        go(path, kind=kind)

    assert in_child(killed) == -signal.SIGKILL
    go(path, kind=kind, resume=True)
    got = results(path)
    for part, value in expected.items():
        assert same(got[part], value), part
    assert not list((path / "checkpoints").glob(".*"))


def test_a_resumed_run_clears_away_what_a_kill_left_half_written_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run"

    def killed() -> None:
        KILLS["in the last step"]()
        go(path, kind="pretraining")

    assert in_child(killed) == -signal.SIGKILL
    (path / "samples" / ".0123abcd.00000006.png").touch()
    (path / ".0123abcd.metrics.jsonl").touch()
    (path / "samples" / ".notes").touch()
    go(path, kind="pretraining", resume=True)
    assert [file.name for file in (path / "samples").glob(".*")] == [".notes"]
    assert not list(path.glob(".*.metrics.jsonl"))


def test_a_run_that_is_regularised_by_feedback_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """Of four updates of D between changes of p, the checkpoint from which it goes on comes after two."""
    options: dict[str, Any] = {
        "optim": {**CHANGES["optim"], "lecam": 0.3},
        "augment": {**tiny.RUN["augment"], "target": -0.7, "adjust_pictures": 80},
        "eval_every": 3,
    }
    runs.run(tmp_path / "left alone", **options)
    expected = results(tmp_path / "left alone")
    assert len({record["augment_probability"] for record in expected["records"] if "lecam" in record}) > 2

    def killed() -> None:
        die_in_call(checkpoint.Checkpoints, "_prune", 0, after=True)()
        runs.run(tmp_path / "killed", **options)

    assert in_child(killed) == -signal.SIGKILL
    half_way = read_state(tmp_path / "killed" / "latest" / "state")
    assert (half_way["step"], half_way["feedback"]["pictures"]) == (3, 16)
    runs.run(tmp_path / "killed", resume=True, **options)
    assert_same(tmp_path / "killed", tmp_path / "left alone")


def test_the_best_is_not_always_the_last_in_these_runs(uninterrupted: tuple[str, dict[str, Any]]) -> None:
    """Else the tests above could not tell a lost best from a kept one."""
    _, expected = uninterrupted
    assert len({record["score"] for record in expected["records"] if "score" in record}) > 2


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path: Path) -> None:
    states = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = tiny.pretrain_config(**{**CHANGES, "seed": seed})
        task = tiny.task(config.generator, tiny.OLD, transfer=False)
        method = Method(MethodConfig(name="pretraining"), task)
        folder = RunFolder.create(tmp_path / name, config, {})
        trainer = build_trainer(config, method, World(cpu=True))
        pictures = tiny.MemoryPictures(tiny.OLD)
        train(trainer, pictures, folder, evaluation=None, resume=False, provenance={})
        states.append(read_state(tmp_path / name / "latest" / "state")["generator"])
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


def test_no_checkpoint_is_written_of_weights_that_are_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(trainer: Trainer, batches: Any, step: int) -> Any:
        losses = train_step(trainer, batches, step)
        if step == 5:
            torch.nn.init.constant_(trainer.discriminator.linear.bias, float("nan"))
        return losses

    monkeypatch.setattr(loop, "train_step", diverging)
    with pytest.raises(RunError, match=r"after step 6 linear.bias is not finite.* last good checkpoint is"):
        go(tmp_path / "run")
    assert read_state(tmp_path / "run" / "latest" / "state")["step"] < 6
