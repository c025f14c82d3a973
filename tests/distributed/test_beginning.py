"""Processes that can't form one run find out before any work, and one of them says why."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cgt.cli import main
from cgt.launch_files import free_port
from tests.tiny import SHORT_RUN, SMALL_NETWORKS

ROOT = Path(__file__).parents[2]


def start(words: list[str], folders: list[Path], *, absent: int = 0) -> list[tuple[int, str]]:
    """`cgt WORDS` on ranks in folders of their own, as two machines; exit code and stderr of each.

    So many further ranks never come.
    """
    port = free_port()
    ranks = []
    for rank, folder in enumerate(folders):
        place = {"RANK": rank, "WORLD_SIZE": len(folders) + absent, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
        more = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": 1, "PYTHONPATH": ROOT}
        environment = os.environ | {name: str(value) for name, value in (place | meeting | more).items()}
        command = [sys.executable, "-m", "cgt", *words]
        ranks.append(
            subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
        )
    errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    return [(rank.returncode, error) for rank, error in zip(ranks, errors, strict=True)]


@pytest.fixture
def machines(tmp_path: Path) -> list[Path]:
    """Two folders with shards of the same name; those of the second have other pictures."""
    for number in range(2):
        words = ["shards", "build", "shapes", "-", str(tmp_path / str(number) / "shards"), "--size=16"]
        assert main([*words, "--per-class=4", "--classes=red-disk,gold-plus", f"--seed={number}"]) == 0
    return [tmp_path / "0", tmp_path / "1"]


PRETRAIN = ["pretrain", "shapes/pretrain", "data=shards", *SHORT_RUN, *SMALL_NETWORKS]


def test_ranks_with_other_pictures_refuse_to_train_together(machines: list[Path]) -> None:
    (first, silent), (second, said) = start(PRETRAIN, machines)
    assert (first, second) == (2, 2)
    assert not silent
    assert said.startswith("error: rank 1 of 2: the data_sha256 is")
    assert socket.gethostname() in said
    assert not (machines[0] / "runs").exists()


def test_a_machine_that_lacks_the_pictures_is_named(machines: list[Path]) -> None:
    (machines[1] / "shards").rename(machines[1] / "elsewhere")
    (first, silent), (second, said) = start(PRETRAIN, machines)
    assert (first, second) == (2, 2), silent + said
    assert not silent
    assert said.startswith("error: rank 1 of 2: there is no")
    assert not (machines[0] / "runs").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size=6", "each of 2 processes has 3 of them"),
        ("strategy=zero3", "strategy.generator=zero3 and strategy.discriminator=zero3: ZeRO divides"),
    ],
)
def test_what_can_not_train_together_is_refused_before_the_pictures_are_opened(
    tmp_path: Path, override: str, message: str
) -> None:
    folders = [tmp_path] * (1 if "zero" in override else 2)
    found = start([*PRETRAIN, override], folders)
    assert [code for code, _ in found] == [2] * len(folders)
    assert message in " ".join(found[0][1].split())


def test_a_rank_that_never_comes_is_named(tmp_path: Path) -> None:
    ((first, said), (second, silent)) = start([*PRETRAIN, "timeout=12"], [tmp_path] * 2, absent=1)
    assert (first, second) == (1, 1)
    assert said.startswith("error: rank 2 of 3 did not come to")
    assert not silent
