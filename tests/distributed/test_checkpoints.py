"""Runs over several ranks end in what one process makes, and go on after a kill anywhere to the same bits."""

import functools
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from cgt.distributed import World
from cgt.training import checkpoint, loop
from cgt.training.state_files import read_state, taken_apart
from tests.distributed.ranks import FailedRanksError, run_ranks
from tests.distributed.runs import (
    STEPS,
    assert_same,
    kill_and_resume,
    results,
    run,
    same,
    stop_early,
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("uninterrupted") / "run"
    run_ranks(run, 2, path)
    return path


def test_two_ranks_make_what_one_process_makes(uninterrupted: Path, tmp_path: Path) -> None:
    run(tmp_path / "run")
    expected, got = results(tmp_path / "run"), results(uninterrupted)
    for part in ("state", "records", "pointers"):
        assert same(got[part], expected[part], 1e-5), part
    assert expected["models"].keys() == got["models"].keys()


def test_each_rank_writes_a_part(uninterrupted: Path) -> None:
    files = sorted((uninterrupted / "latest" / "state").glob("*.safetensors"))
    sizes = [file.stat().st_size for file in files]
    assert len(sizes) == 2
    assert max(sizes) < 0.7 * sum(sizes)


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_run_goes_on_with_another_number_of_ranks(
    uninterrupted: Path, tmp_path: Path, first: int, then: int
) -> None:
    path = tmp_path / "run"
    with pytest.raises(FailedRanksError, match="far enough"):
        run_ranks(functools.partial(run, arm=stop_early), first, path)
    assert read_state(path / "latest" / "state")["step"] == 4
    run_ranks(functools.partial(run, resume=True), then, path)
    assert_same(path, uninterrupted, 1e-5)


def parts_taken_apart() -> tuple[str, str]:
    """Where the second of two GPUs has its part of a vector, and where the copy is that is to be written."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
    mesh = DeviceMesh("cuda", [0, 1])
    with FakeTensorMode():
        part = torch.empty(4, device="cuda:1")
        shape = torch.Size([8])
        whole = DTensor.from_local(part, mesh, [Shard(0)], run_check=False, shape=shape, stride=(1,))
        _, copies = taken_apart({"average": whole})
        copy: Any = copies["average"]
        return str(whole.to_local().device), str(copy.to_local().device)


def test_parts_on_gpus_are_copied_before_training_goes_on() -> None:
    assert run_ranks(parts_taken_apart, 1) == [("cuda:1", "cpu")]


def written_beside_gpus(folder: Path) -> None:
    """Asking torch for a stream of one fails here, where there is none."""
    torch.cuda.is_available = lambda: True
    tree, tensors = taken_apart({"weight": torch.ones(3)})
    checkpoint.write_state(folder, tree, tensors, World(cpu=True))


def test_thread_that_writes_leaves_gpus_alone(tmp_path: Path) -> None:
    run_ranks(written_beside_gpus, 1, tmp_path)
    assert torch.equal(read_state(tmp_path)["weight"], torch.ones(3))


KILLS = {
    "rank 0 in a step": (0, loop, "train_step", 4, True),
    "while the state is written": (1, checkpoint, "write_state", 1, False),
    "rank 0 between the state and the model": (0, checkpoint, "write_state", 1, True),
    "rank 0 between the pointers": (0, checkpoint.Checkpoints, "_point", 1, True),
}


@pytest.mark.parametrize("kill", KILLS)
def test_kill_of_a_rank_ends_the_run_and_costs_no_checkpoint(
    kill: str, uninterrupted: Path, tmp_path: Path
) -> None:
    kill_and_resume(uninterrupted, tmp_path / "run", *KILLS[kill])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_kill_of_a_rank_at_random(number: int, uninterrupted: Path, tmp_path: Path) -> None:
    chance = random.Random(number)
    rank, after = chance.randrange(2), chance.random() < 0.5
    names = [(loop, "train_step", STEPS - 1), (checkpoint, "write_state", 3), (loop, "snapshot", 3)]
    owner, name, calls = chance.choice(names)
    kill_and_resume(uninterrupted, tmp_path / "run", rank, owner, name, chance.randrange(calls), after)


def damage_and_load(path: Path) -> None:
    run(path, resume=True)


@pytest.mark.parametrize("rank", [0, 1])
def test_damage_that_one_rank_finds_ends_all(uninterrupted: Path, tmp_path: Path, rank: int) -> None:
    path = Path(shutil.copytree(uninterrupted, tmp_path / "run", symlinks=True))
    file = sorted((path / "latest" / "state").glob("*.safetensors"))[rank]
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(FailedRanksError) as caught:
        run_ranks(damage_and_load, 2, path)
    assert sorted("can't be read" in (error or "") for error in caught.value.errors) == [False, True]
    assert sorted("SaidElsewhereError" in (error or "") for error in caught.value.errors) == [False, True]
