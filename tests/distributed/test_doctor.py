"""The ranks of a launch check their connection: who is missing, wrong or unlike the others is named."""

import functools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cgt.distributed import World
from cgt.doctor import ranks
from cgt.errors import RunError
from cgt.training import watchdog
from tests.distributed.ranks import FailedRanksError, run_ranks
from tests.distributed.runs import in_call, suicide
from tests.launch.hosts import NoHostsError, two_hosts

SECONDS = 20.0
HOST = socket.gethostname()
ROOT = str(Path(__file__).parents[2])


def check(
    arm: Callable[[], None] | None = None, absent: tuple[int, ...] = (), seconds: float = SECONDS
) -> Any:
    """What this rank finds; ranks that are `absent` don't begin, and `arm` is called by the others before."""
    watchdog.SECONDS, watchdog.SILENT = 0.1, 1.0  # the tests wait for these
    rank = int(os.environ["RANK"])
    if rank in absent:
        return None
    if arm:
        arm()
    found = ranks.check(seconds)
    ranks.raise_if_wrong(found, rank)
    return found


def errors_of(world: int, **options: Any) -> list[str]:
    """The last line of what each rank ends with."""
    with pytest.raises(FailedRanksError) as caught:
        run_ranks(functools.partial(check, **options), world)
    return [(error or "").strip().rpartition("\n")[2] for error in caught.value.errors]


def on_rank(rank: int, act: Callable[[], Any]) -> Callable[[], None]:
    """What calls `act` on one rank alone."""

    def arm() -> None:
        if int(os.environ["RANK"]) == rank:
            act()

    return arm


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(ranks.LARGE_MIB, "cpu", 1)
    monkeypatch.chdir(tmp_path)


def test_ranks_that_are_alike_and_reach_each_other_find_nothing_amiss(tmp_path: Path) -> None:
    everywhere = run_ranks(check, 3)
    assert everywhere[0] == everywhere[1] == everywhere[2]
    found = everywhere[0]
    like = [(rank["host"], rank["device"], rank["torch"]) for rank in found["ranks"]]
    assert like == [(HOST, "cpu", torch.__version__)] * 3
    assert all(rank["disk"]["free_gib"] > 0 and rank["temporary"]["free_gib"] > 0 for rank in found["ranks"])
    assert found["warnings"] == []
    assert found["shared_folder"] == {"folder": str(tmp_path), "missing_on": []}
    assert list(tmp_path.iterdir()) == []


def test_bandwidth_is_counted_as_nccl_tests_does() -> None:
    connection = run_ranks(check, 3)[0]["connection"]
    large = connection["large"]
    assert connection["backend"] == "gloo"
    assert connection["wrong_on"] == []
    assert large["bytes"] == 2**20
    assert large["algorithm_gb_per_s"] == pytest.approx(2**20 / large["seconds"] / 1e9)
    assert large["bus_gb_per_s"] == pytest.approx(large["algorithm_gb_per_s"] * 4 / 3)
    assert connection["small"]["seconds"] > 0


def test_ranks_that_do_not_come_are_named_by_the_first_that_does() -> None:
    first, absent, other = errors_of(3, absent=(1,), seconds=1.5)
    assert absent == ""
    assert "RunError: rank 1 of 3 did not come to 127.0.0.1:" in first
    assert f"those that came: rank 0 ({HOST}, cpu), rank 2 ({HOST}, cpu)" in first
    assert "MASTER_ADDR" in first
    assert "SaidElsewhereError" in other


def test_a_rank_that_does_not_get_to_the_first_one_says_so() -> None:
    begin = time.monotonic()
    absent, other = errors_of(2, absent=(0,), seconds=1.5)
    assert absent == ""
    assert f"RunError: rank 1 on {HOST} has not reached 127.0.0.1:" in other
    assert "(Connection refused)" in other
    assert "MASTER_ADDR" in other
    assert time.monotonic() - begin < 10


def test_ranks_that_meet_and_can_not_connect_are_told_of_the_interface() -> None:
    def wrong_interface() -> None:
        os.environ["GLOO_SOCKET_IFNAME"] = "none0"

    for error in errors_of(2, arm=wrong_interface):
        assert "can't connect to them" in error
        assert "GLOO_SOCKET_IFNAME" in error
        assert "there are lo" in error


def test_a_gpu_without_room_for_the_check_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([2**29, 2**31])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (next(free), 2**36))
    with pytest.raises(RunError, match=f"^cuda:3 of {HOST} has 0.5 GiB free"):
        ranks._refuse_a_full_gpu(torch.device("cuda:3"))
    ranks._refuse_a_full_gpu(torch.device("cuda:3"))


SHORT = """
import sys
from cgt.cli import main
from cgt.doctor import ranks
ranks.check.__defaults__ = (6.0,)
sys.exit(main(["doctor"]))
"""
"""The verb with less patience."""


@pytest.mark.slow
def test_hosts_that_can_not_connect_say_so_inside_the_time_out(tmp_path: Path) -> None:
    try:
        with two_hosts(tmp_path) as hosts:
            started = []
            for rank, host in enumerate(hosts):
                place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
                meeting = {"MASTER_ADDR": "host0", "MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": "lo"}
                environment = os.environ | place | meeting | {"PYTHONPATH": ROOT}
                started.append(host.start([sys.executable, "-c", SHORT], environment, tmp_path))
            begin = time.monotonic()
            said = [process.communicate(timeout=60)[1] for process in started]
            assert time.monotonic() - begin < 20
    except NoHostsError as error:
        pytest.skip(f"no two hosts can be made on this machine: {error}")
    assert [process.returncode for process in started] == [1, 1]
    for rank, text in enumerate(said):
        assert f"error: rank {rank} on host{rank} has found the other ranks, and can't connect" in text
        assert "(on host" in text
        assert "eth0" in text


def test_a_wrong_sum_is_an_error_that_names_the_rank() -> None:
    def spoil() -> None:
        sum_ = World.sum_

        def spoilt(tensor: torch.Tensor) -> torch.Tensor:
            sum_(tensor)[-1] += 1
            return tensor

        World.sum_ = staticmethod(spoilt)  # type: ignore[method-assign]

    first, second = errors_of(2, arm=on_rank(1, spoil))
    assert f"RunError: the all-reduce by gloo gave a wrong sum on rank 1 ({HOST})" in first
    assert "SaidElsewhereError" in second


def test_a_rank_that_is_killed_is_named() -> None:
    kill = in_call(ranks, "_finish", 4, suicide, rank=1)
    first, _ = errors_of(2, arm=kill)
    assert f"RunError: rank 1 ({HOST}) has not answered" in first
    assert "firewall" in first


def test_a_rank_that_hangs_ends_the_check_and_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    begin = time.monotonic()
    hang = in_call(ranks, "_finish", 4, lambda: time.sleep(60), rank=1)
    first, _ = errors_of(2, arm=hang, seconds=4)
    said = capfd.readouterr().err.replace("\n", " ") + first
    assert "no step ended for 2 s" in said
    assert "GLOO_SOCKET_IFNAME" in said
    assert time.monotonic() - begin < 20


def test_ranks_of_different_code_are_named_in_a_warning() -> None:
    def older() -> None:
        torch.__version__ = "1.0"  # type: ignore[assignment]

    (warning,) = run_ranks(functools.partial(check, arm=on_rank(1, older)), 3)[0]["warnings"]
    assert warning.startswith(
        f"torch differs: {torch.__version__} on rank 0 ({HOST}), rank 2 ({HOST}); 1.0 on"
    )
    assert f"1.0 on rank 1 ({HOST})" in warning


def test_ranks_in_another_folder_are_named_in_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "VISIBLE_AFTER", 0.2)
    (tmp_path / "other").mkdir()
    found = run_ranks(functools.partial(check, arm=on_rank(1, lambda: os.chdir("other"))), 2)[0]
    assert found["shared_folder"]["missing_on"] == [1]
    (warning,) = found["warnings"]
    assert f"{tmp_path} is not the working folder of rank 1 ({HOST})" in warning


def test_ranks_with_and_without_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RunError, match=r"^rank 1 \(b\) found no GPU"):
        ranks._refuse_a_mixture(["a, cuda", "b, cpu", "a, cuda"])
    ranks._refuse_a_mixture(["a, cpu", "b, cpu"])
    ranks._refuse_a_mixture(["a, cuda", "b, cuda"])


def doctor(
    *words: str, cwd: Path, launcher: tuple[str, ...] = ("-m", "cgt")
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *launcher, "doctor", *words],
        env=os.environ | {"PYTHONPATH": ROOT, "COLUMNS": "200", "ACCELERATE_USE_CPU": "1"},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_verb_prints_a_row_for_each_rank_once(tmp_path: Path) -> None:
    result = doctor("--processes=2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = [line.split()[:3] for line in result.stdout.splitlines()]
    assert [row for row in rows if HOST in row] == [["0", HOST, "cpu"], ["1", HOST, "cpu"]]
    assert rows.count(["sum", "over", "the"]) == 1


@pytest.mark.slow
def test_the_verb_works_under_torchrun(tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "cgt")
    result = doctor("--json=found.json", launcher=launcher, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["launch"]["ranks"]) == 2
    assert found["extras"]
