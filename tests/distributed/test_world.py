"""What ranks do together."""

import pytest
import torch

from cgt.distributed import World
from cgt.errors import RunError, SaidElsewhereError, UserError
from tests.distributed.ranks import FailedRanksError, run_ranks


def _places() -> tuple[int, int, bool, list[int], float]:
    world = World()
    total = world.sum_(torch.tensor(float(world.rank + 1)))
    return world.rank, world.size, world.is_main, world.gather(world.rank * 10), float(total)


def _shares(size: int) -> torch.Tensor:
    return World().share(torch.arange(size))


def _failing_on(failing: list[int], error: type[Exception]) -> str:
    world = World()
    try:
        with world.together():
            if world.rank in failing:
                raise error("the file is gone")
    except Exception as raised:
        return f"{type(raised).__name__}: {raised}"
    return "went on"


def _agreeing(values: list[str]) -> str:
    world = World()
    try:
        world.agree({"config": "same", "version of cgt": values[world.rank]})
    except (UserError, SaidElsewhereError) as raised:
        return f"{type(raised).__name__}: {raised}"
    return "went on"


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_know_their_places_and_reach_each_other(size: int) -> None:
    assert run_ranks(_places, size) == [
        (rank, size, rank == 0, [10 * other for other in range(size)], size * (size + 1) / 2)
        for rank in range(size)
    ]


def test_shares_tile_the_batch() -> None:
    assert torch.cat(run_ranks(_shares, 3, 12)).tolist() == list(range(12))


@pytest.mark.parametrize("error", [UserError, RunError, KeyError])
def test_failure_of_one_rank_ends_the_block_on_all_and_is_said_once(error: type[Exception]) -> None:
    found = run_ranks(_failing_on, 3, [1], error)
    assert found[0] == found[2] == "SaidElsewhereError: rank 1 failed"
    assert found[1].startswith(error.__name__)
    assert "the file is gone" in found[1]
    assert ("rank 1 of 3" in found[1]) is (error is not KeyError)


def test_failure_of_all_is_said_by_the_first_as_it_is() -> None:
    assert run_ranks(_failing_on, 2, [0, 1], UserError) == [
        "UserError: the file is gone",
        "SaidElsewhereError: rank 0 failed",
    ]
    assert run_ranks(_failing_on, 2, [], UserError) == ["went on"] * 2


def test_rank_with_another_version_is_named() -> None:
    assert run_ranks(_agreeing, 2, ["1", "1"]) == ["went on"] * 2
    found = run_ranks(_agreeing, 3, ["1", "1", "2"])
    assert found[:2] == ["SaidElsewhereError: rank 2 failed"] * 2
    assert "UserError: rank 2 of 3: the version of cgt is '2' here on" in found[2]


def test_world_of_one_that_was_launched_as_two_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="started 2 processes, and each would train alone"):
        World()


def test_harness_tells_a_rank_that_fails() -> None:
    with pytest.raises(FailedRanksError, match="rank 1: .*"):
        run_ranks(_shares, 2, torch.tensor)
