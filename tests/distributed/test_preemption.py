"""Signals that ask a run to save and stop."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cgt.cli import main
from cgt.training import loop
from cgt.training.state_files import read_state
from tests.distributed import runs
from tests.distributed.ranks import FailedRanksError, run_ranks
from tests.distributed.runs import STEPS, assert_same, in_call, run, signal_and_resume, suicide
from tests.tiny import SHORT_RUN, SMALL_NETWORKS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("uninterrupted") / "run"
    run_ranks(run, 2, path)
    return path


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_signal_on_one_rank_stops_all_after_the_same_step_with_a_checkpoint(
    number: signal.Signals, uninterrupted: Path, tmp_path: Path
) -> None:
    signal_and_resume(uninterrupted, tmp_path / "run", number)


@pytest.mark.parametrize("step", [6, STEPS])
def test_run_that_is_stopped_where_it_would_be_measured_saves_first_and_is_measured_when_it_goes_on(
    step: int, uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"

    def stop_and_never_measure() -> None:
        # Ranks hear of a signal one step late.
        in_call(loop, "train_step", step - 2, lambda: os.kill(os.getpid(), signal.SIGUSR1), rank=0)()
        in_call(runs, "mean_brightness", (step - 1) // 2, suicide, rank=0)()

    with pytest.raises(FailedRanksError) as caught:
        run_ranks(functools.partial(run, arm=stop_and_never_measure), 2, path)
    assert f"PreemptedError: asked to stop after step {step}" in (caught.value.errors[0] or "")
    run_ranks(functools.partial(run, resume=True), 2, path)
    assert_same(path, uninterrupted)


def test_second_signal_ends_a_rank_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        from cgt.training import preemption

        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)  # as one with the first: a launcher passes it on
        preemption.ONE_REQUEST = 0.0
        os.kill(os.getpid(), signal.SIGTERM)

    arm = in_call(loop, "train_step", 1, twice, rank=0)
    with pytest.raises(FailedRanksError) as caught:
        run_ranks(functools.partial(run, arm=arm), 1, tmp_path / "run")
    assert caught.value.errors == [f"ended with {-signal.SIGTERM}"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "shards"
    build = ["shards", "build", "shapes", "-", str(folder), "--classes", "red-disk,gold-plus"]
    assert main([*build, "--size", "16", "--per-class", "8"]) == 0
    return folder


@pytest.mark.parametrize("processes", [1, 2])
def test_command_that_is_preempted_ends_with_75_and_goes_on(
    shards: Path, tmp_path: Path, processes: int
) -> None:
    run_folder = tmp_path / "run"
    words = ["pretrain", "shapes/pretrain", f"data.shards={shards}", *SHORT_RUN, *SMALL_NETWORKS]
    words += [
        "data.reader=stream",
        "data.workers=1",
        "steps=100000",
        "eval_every=100000",
        "save_every=100000",
    ]
    command = [sys.executable, "-m", "cgt", *words, "--run", str(run_folder)]
    if processes > 1:
        command += ["--processes", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 60
        records = run_folder / "metrics.jsonl"
        while time.monotonic() < deadline and not (records.is_file() and records.stat().st_size):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)  # to all processes, as SLURM does it
        _, message = process.communicate(timeout=60)
    assert process.returncode == 75, message
    assert message.count("asked to stop after step") == 1
    assert "Traceback" not in message
    step = read_state(run_folder / "latest" / "state")["step"]
    assert f"{step:08d}" in message.replace("\n", "")
