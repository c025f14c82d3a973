"""Starting processes and finding one's place among them; the processes are short shell scripts."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import ClusterConfig

from cgt import launching
from cgt.cli import main
from cgt.errors import SaidElsewhereError, UserError
from cgt.launch_files import plan_of, shipped
from cgt.launching import COMMAND, find_place, first_host, refuse_taken_port, spread

ROOT = Path(__file__).parents[2]

STEP = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),3",
    "SLURM_STEP_NODELIST": "gpu[03-05]",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "ACCELERATE_USE_CPU": "1",
}
"""What `srun` tells the task 5 of 7, which is one of three on the third node."""


@pytest.fixture(autouse=True)
def _no_launcher() -> Iterator[None]:
    """What a test, or the launcher itself, sets is gone after it."""
    before = dict(os.environ)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS", launching.LAST_WORDS):
        os.environ.pop(name, None)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Runs shell code instead of cgt in two processes; the exit code."""
    shell = tmp_path / "python"
    shell.write_text('#!/usr/bin/env bash\neval "${!#}"\n')  # as python -P -m cgt CODE
    shell.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(shell))
    monkeypatch.setattr(launching, "PATIENCE", 0.3)
    monkeypatch.setattr(launching, "ENDING", 0.3)
    monkeypatch.chdir(tmp_path)

    def call(code: str, processes: int | None = 2, launch: str | None = None) -> int:
        COMMAND.set([code])
        with pytest.raises(SystemExit) as end:
            spread(processes, launch)
        assert isinstance(end.value.code, int)
        return end.value.code

    return call


@pytest.fixture
def handled() -> Iterator[Callable[..., None]]:
    """Sets how this process takes a signal, for a test."""
    before: dict[int, Any] = {}

    def handle(number: int, handler: Any) -> None:
        before[number] = signal.signal(number, handler)

    yield handle
    for number, handler in before.items():
        signal.signal(number, handler)


def test_every_process_is_told_its_place_and_its_share_of_the_cores(run, tmp_path: Path) -> None:
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT OMP_NUM_THREADS"
    assert run(f"for name in {names}; do echo ${{!name}}; done >place$RANK") == 0
    places = [(tmp_path / f"place{rank}").read_text().split() for rank in (0, 1)]
    cores = max(1, len(os.sched_getaffinity(0)) // 2)
    port = places[0][5]
    assert places == [[str(rank), str(rank), "2", "2", "127.0.0.1", port, str(cores)] for rank in (0, 1)]


def test_stdout_is_that_of_rank_0(run, capfd) -> None:
    assert run("echo rank $RANK") == 0
    assert capfd.readouterr().out == "rank 0\n"


@pytest.mark.parametrize("code", [1, 2, 75])
def test_the_exit_code_is_that_of_the_first_rank_to_fail(run, code: int) -> None:
    assert run(f"((RANK)) && exit {code}; trap 'exit 9' TERM; while :; do sleep 0.1; done") == code


def test_when_a_rank_fails_the_others_are_ended_even_if_they_ignore_it(run) -> None:
    start = time.monotonic()
    assert run("((RANK)) || exit 3; trap '' TERM; while :; do sleep 0.1; done") == 3
    assert time.monotonic() - start < 10


def test_what_all_ranks_say_is_said_once(run, capfd) -> None:
    assert run(f'echo "error: no such file" >${launching.LAST_WORDS}; exit 2') == 2
    assert capfd.readouterr().err.split("\n") == ["error: no such file", "", ""]


def test_a_defect_is_said_to_the_process_that_says_it_once(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.excepthook", sys.excepthook)
    monkeypatch.setenv(launching.LAST_WORDS, str(tmp_path / "said"))
    spread(2, None)
    try:
        raise KeyError("gone")
    except KeyError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    said = (tmp_path / "said").read_text()
    assert said.startswith("Traceback")
    assert said.endswith("KeyError: 'gone'")


def test_a_rank_that_is_killed_is_named(run, capfd) -> None:
    assert run("((RANK)) && kill -KILL $$; sleep 30") == 1
    assert "rank 1 was ended by SIGKILL (is the machine out of memory?)" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("number", "answer", "code"),
    [
        (signal.SIGTERM, "trap 'exit 75' TERM", 75),
        (signal.SIGUSR1, "trap 'exit 75' USR1", 75),
        (signal.SIGTERM, ":", 128 + signal.SIGTERM),
        (signal.SIGINT, "trap 'exit 130' INT", 130),
        (signal.SIGINT, "trap '' INT TERM", 130),
    ],
)
def test_signals_reach_all_ranks(run, capfd, handled, number: int, answer: str, code: int) -> None:
    handled(number, signal.default_int_handler)

    def ask() -> None:
        while not (Path("ready0").exists() and Path("ready1").exists()):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=ask, daemon=True).start()
    assert run(f"{answer}; touch ready$RANK; while :; do sleep 0.05; done") == code
    assert capfd.readouterr().err == ""


def test_under_nohup_a_terminal_that_goes_ends_nothing(run, handled) -> None:
    handled(signal.SIGHUP, signal.SIG_IGN)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGHUP))
    timer.start()
    assert run("kill -HUP $$; sleep 0.6; exit 7") == 7


def test_no_module_of_the_working_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    for name in ("cgt", "random"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(7)")
    command = [sys.executable, "-P", "-m", "cgt", "pretrain", "nowhere", "--processes", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "there is no config 'nowhere'" in ended.stderr


def test_launch_files_say_where_a_process_runs_and_on_what(run, tmp_path: Path) -> None:
    two = (
        "num_processes: 4\nnum_machines: 2\nmachine_rank: 1\nmain_process_ip: 10.0.0.1\nmain_process_port: 9"
    )
    Path("two.yaml").write_text(f"{two}\nuse_cpu: true\ngpu_ids: 1,2\n")
    code = "echo $RANK $WORLD_SIZE $MASTER_ADDR:$MASTER_PORT $ACCELERATE_USE_CPU $CUDA_VISIBLE_DEVICES"
    assert run(f"{code} >place$LOCAL_RANK", None, "two.yaml") == 0
    assert (tmp_path / "place1").read_text() == "3 4 10.0.0.1:9 true 1,2\n"


def test_the_shipped_launch_files_are_followed() -> None:
    plans = {name: plan_of(3, name) for name in shipped()}
    assert {name for name, plan in plans.items() if plan.world == 3} == set(shipped()) - {"ddp_multi_node"}
    assert plans["ddp_multi_node"].world == 6
    assert {name: plan.strategy for name, plan in plans.items() if plan.strategy} == {
        f"deepspeed_zero{stage}": f"zero{stage}" for stage in (1, 2, 3)
    }
    assert [name for name, plan in plans.items() if plan.environment] == ["cpu"]
    assert plan_of(None, "single").world == plan_of(None, "cpu").world == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("mixed_precision: bf16", "set precision=bf16 in the run's config"),
        ("distributed_type: FSDP", "distributed_type FSDP is not one of"),
        ("num_proceses: 2", r"num_proceses is not followed \(did you mean 'num_processes'\?\): leave it out"),
        ("fsdp_config: {fsdp_version: 2}", "fsdp_config is not followed"),
        ("num_processes: two", "num_processes is 'two', and must be a whole number"),
        ("{num_machines: 2, num_processes: 3}", "a multiple of it"),
        ("{num_machines: 2, num_processes: 4}", "set main_process_ip, and main_process_port from 1 on"),
        (
            "{num_machines: 2, num_processes: 4, main_process_ip: a, main_process_port: 0}",
            "main_process_port from 1 on",
        ),
        ("main_process_port: 65536", "must be a whole number from 0 to 65535"),
        ("num_processes: true", "num_processes is True"),
        ("gpu_ids: [0, 1]", "numbers with commas such as 0,1"),
        ("{distributed_type: DEEPSPEED, deepspeed_config: ds.json}", "deepspeed_config is 'ds.json'"),
        (
            "{distributed_type: DEEPSPEED, deepspeed_config: {zero_stage: 2, gradient_clipping: 1.0}}",
            "gradient_clipping is not followed",
        ),
        (
            "{distributed_type: DEEPSPEED, deepspeed_config: {zero_stage: 2, offload_param_device: cpu}}",
            "offload",
        ),
        ("{distributed_type: DEEPSPEED}", "zero_stage is None"),
        ("a: [", "is no YAML"),
        ("just words", "must hold keys and values"),
    ],
)
def test_launch_files_that_are_not_followed_are_refused(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "launch.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=said):
        plan_of(None, str(file))


def test_what_accelerate_config_writes_for_deepspeed_is_followed(tmp_path: Path) -> None:
    config = {"zero_stage": 3, "zero3_init_flag": False, "zero3_save_16bit_model": True}
    config |= {"gradient_accumulation_steps": 1, "deepspeed_multinode_launcher": "standard"}
    config |= {"offload_optimizer_device": "none", "offload_param_device": "none"}
    made = ClusterConfig("LOCAL_MACHINE", "DEEPSPEED", "no", False, False, 4, deepspeed_config=config)
    made.to_yaml_file(str(tmp_path / "launch.yaml"))
    plan = plan_of(None, str(tmp_path / "launch.yaml"))
    assert (plan.world, plan.strategy) == (4, "zero3")


def test_a_launch_file_starts_a_process_on_each_gpu_that_it_names(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    file = tmp_path / "launch.yaml"
    for content, processes in (("gpu_ids: 2,3,5", 3), ("gpu_ids: all", 8), ("use_cpu: true", 1)):
        file.write_text(content)
        assert plan_of(None, str(file)).world == processes


def test_a_mistyped_launch_file_is_refused(capsys) -> None:
    assert main(["pretrain", "shapes/pretrain", "--launch", "dpd"]) == 2
    assert "there is no launch file 'dpd' (did you mean 'ddp'?)" in capsys.readouterr().err


def test_a_deepspeed_launch_file_chooses_the_strategy_in_the_processes(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv(launching.LAST_WORDS, str(tmp_path / "said"))
    assert spread(2, "deepspeed_zero2") == ["strategy=zero2"]


def test_accelerates_own_deepspeed_becomes_the_strategy(monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    assert spread(None, None) == ["strategy=zero3"]
    assert "ACCELERATE_USE_DEEPSPEED" not in os.environ


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "mixed_precision bf16.*set precision=bf16"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP.*set strategy=zero3"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed without a zero_stage"),
    ],
)
def test_what_accelerate_launch_is_given_of_the_arithmetic_is_refused_once(
    given: dict[str, str], said: str, monkeypatch
) -> None:
    for name, value in (given | {"RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        spread(None, None)
    for name, value in (given | {"RANK": "1"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SaidElsewhereError):
        spread(None, None)


@pytest.mark.parametrize("started", [{"RANK": "0"}, STEP | {"SLURM_PROCID": "0"}])
def test_processes_of_a_launcher_start_none(started: dict[str, str], monkeypatch, capsys) -> None:
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    assert main(["eval", "model", "--data", "shards", "--processes", "2"]) == 2
    assert "was started by torchrun, accelerate launch or srun already" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    assert main(["eval", "model", "--data", "shards", "--processes", "2"]) == 2
    assert capsys.readouterr().err == ""


def test_a_task_of_slurm_finds_its_place() -> None:
    environ = dict(STEP)
    find_place(environ)
    place = {name: value for name, value in environ.items() if name not in STEP}
    assert place == {
        "RANK": "5",
        "WORLD_SIZE": "7",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "3",
        "MASTER_ADDR": "gpu03",
        "MASTER_PORT": "20113",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }


@pytest.mark.parametrize(
    "environ",
    [
        {name: value for name, value in STEP.items() if "STEP" not in name},
        STEP | {"SLURM_STEP_NUM_TASKS": "1"},
        STEP | {"RANK": "1", "WORLD_SIZE": "1"},
    ],
    ids=["batch script", "one task", "torchrun in a step"],
)
def test_no_place_is_taken_from_slurm_where_it_is_not_one_of_several_tasks(environ: dict[str, str]) -> None:
    found = dict(environ)
    find_place(found)
    assert found == environ


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("login", "login"), ("gpu[03-05,9],login", "gpu03"), ("r[1,4]n[02-03]", "r1n02"), ("a-1,b", "a-1")],
)
def test_the_first_node_is_read_from_slurms_short_lists(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of .* is in use"):
            refuse_taken_port(port)
        with pytest.raises(UserError, match=f"port {port}"):
            find_place(STEP | {"SLURM_PROCID": "0", "MASTER_PORT": str(port)})


@pytest.mark.parametrize("port", ["none", "0", "70000"])
def test_what_can_not_be_a_port_is_refused_once(port: str) -> None:
    with pytest.raises(UserError, match=f"MASTER_PORT is '{port}'"):
        find_place(STEP | {"SLURM_PROCID": "0", "MASTER_PORT": port})
    with pytest.raises(SaidElsewhereError):
        find_place(STEP | {"MASTER_PORT": port})


def test_more_processes_than_gpus_are_refused_once(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    place = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    with pytest.raises(UserError, match="2 processes were started on .* 1 GPU:"):
        find_place(place | {"LOCAL_RANK": "0"})
    with pytest.raises(SaidElsewhereError):
        find_place(place | {"LOCAL_RANK": "1"})
    find_place(place | {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"})


def test_ranks_without_a_gpu_run_on_the_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    environ = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    find_place(environ)
    assert environ["ACCELERATE_USE_CPU"] == "true"
