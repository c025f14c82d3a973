"""Ranks on two hosts, which are network namespaces of this machine; skipped where these can't be made."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cgt.cli import main
from tests.launch.hosts import Host, NoHostsError, two_hosts
from tests.tiny import SHORT_RUN, SMALL_NETWORKS

ROOT = Path(__file__).parents[2]
PORT = "29500"
TIMEOUT = 6

SUM = f"""
import sys, torch
from cgt.distributed import World
from cgt.launching import find_place
find_place()
world = World(timeout={TIMEOUT})
print(world.rank, int(world.sum_(torch.tensor(world.rank + 1))), flush=True)
while "for ever" in sys.argv:
    world.sum_(torch.ones(()))
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Host]]:
    try:
        with two_hosts(tmp_path) as made:
            yield made
    except NoHostsError as error:
        pytest.skip(f"no two hosts can be made on this machine: {error}")


def start(hosts: list[Host], *words: str, cwd: Path) -> list["subprocess.Popen[str]"]:
    """A process on each host, as torchrun starts them."""
    ranks = []
    for rank, host in enumerate(hosts):
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        meeting = {"MASTER_ADDR": hosts[0].name, "MASTER_PORT": PORT, "PYTHONPATH": str(ROOT)}
        ranks.append(host.start([sys.executable, *words], os.environ | place | meeting, cwd))
    return ranks


def test_ranks_on_two_hosts_reach_each_other(hosts: list[Host], tmp_path: Path) -> None:
    said = [rank.communicate(timeout=60)[0] for rank in start(hosts, "-c", SUM, cwd=tmp_path)]
    assert said == ["0 3\n", "1 3\n"]


def test_when_the_cable_is_cut_the_ranks_end_inside_the_time_out(hosts: list[Host], tmp_path: Path) -> None:
    ranks = start(hosts, "-c", SUM, "for ever", cwd=tmp_path)
    for rank in ranks:
        assert rank.stdout is not None
        assert rank.stdout.readline()
    hosts[1].unplug()
    cut = time.monotonic()
    errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert time.monotonic() - cut < 3 * TIMEOUT
    assert all(rank.returncode for rank in ranks)
    assert all("imed out" in error or "losed" in error for error in errors), errors


@pytest.fixture
def transfer(tmp_path: Path) -> list[str]:
    """A transfer, without its length."""
    sizes = ["--size=16", "--per-class=4"]
    for name, classes in (("old", "red-disk,gold-plus"), ("new", "red-plus,gold-disk")):
        build = ["shards", "build", "shapes", "-", str(tmp_path / name), f"--classes={classes}"]
        assert main([*build, *sizes]) == 0
    pretrain = ["pretrain", "shapes/pretrain", f"data={tmp_path / 'old'}", *SHORT_RUN, *SMALL_NETWORKS]
    assert main([*pretrain, "--run", str(tmp_path / "source")]) == 0
    words = ["shapes/cgantransfer", "--source", str(tmp_path / "source"), f"data={tmp_path / 'new'}"]
    return ["transfer", *words, *SHORT_RUN, "--run", str(tmp_path / "run")]


def start_by_file(
    hosts: list[Host], words: list[str], root: Path, processes: int = 2
) -> list["subprocess.Popen[str]"]:
    """The same command on each host, which has a launch file of its own and its share of the processes."""
    command = [sys.executable, "-m", "cgt", *words, "--launch", "two.yaml"]
    ranks = []
    for rank, host in enumerate(hosts):
        (root / host.name).mkdir()
        meeting = f"main_process_ip: {hosts[0].name}\nmain_process_port: {PORT}"
        here = f"num_machines: 2\nnum_processes: {processes}\nuse_cpu: true\nmachine_rank: {rank}"
        (root / host.name / "two.yaml").write_text(f"{here}\n{meeting}\n")
        ranks.append(host.start(command, os.environ | {"PYTHONPATH": str(ROOT)}, root / host.name))
    return ranks


@pytest.mark.slow
def test_a_transfer_runs_on_two_hosts(hosts: list[Host], transfer: list[str], tmp_path: Path) -> None:
    ranks = start_by_file(hosts, transfer, tmp_path)
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    assert (tmp_path / "run" / "latest" / "model" / "generator.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_a_transfer_whose_cable_is_cut_ends_and_says_so_once_on_each_side(
    hosts: list[Host], transfer: list[str], tmp_path: Path, processes: int
) -> None:
    endless = ["steps=100000", "eval_every=100000", "save_every=100000", f"timeout={TIMEOUT}"]
    ranks = start_by_file(hosts, [*transfer, *endless], tmp_path, processes)
    metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text()):
        assert time.monotonic() < deadline, "no step was made"
        assert all(rank.poll() is None for rank in ranks), [rank.communicate()[1] for rank in ranks]
        time.sleep(0.1)
    hosts[1].unplug()
    cut = time.monotonic()
    errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert time.monotonic() - cut < TIMEOUT + 10
    assert [rank.returncode for rank in ranks] == [1, 1], errors
    assert all("Traceback" not in error for error in errors), errors
    assert [error.count("error:") for error in errors] == [1, 1], errors
    for error, lost in zip(errors, [f"rank {processes // 2} (host1)", "rank 0 (host0)"], strict=True):
        assert re.search(rf"error: .*{re.escape(lost)} has not answered since step \d+", error), errors
