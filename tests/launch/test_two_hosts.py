"""Ranks on two hosts, which are network namespaces of this machine; skipped where these can't be made."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.hosts import Host, NoHostsError, two_hosts

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
