"""Checkpoints on disk."""

from pathlib import Path

import pytest
import torch

from cgt.errors import UserError
from cgt.training.checkpoint import CheckpointConfig, Checkpoints


def write_model(folder: Path) -> None:
    folder.mkdir()


def saved(run: Path, steps: list[int], best: int, **options: int) -> Checkpoints:
    checkpoints = Checkpoints(run, CheckpointConfig(**options))
    for step in steps:
        checkpoints.save(step, {"step": step}, write_model, best=step == best)
    return checkpoints


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_the_latest_the_best_and_every_kth_stay(tmp_path: Path) -> None:
    saved(tmp_path, [10, 20, 30, 40, 50], best=20, keep_latest=2, keep_every=30)
    assert names(tmp_path) == ["00000020", "00000030", "00000040", "00000050"]
    assert (tmp_path / "latest").resolve().name == "00000050"
    assert (tmp_path / "best").resolve().name == "00000020"


def test_the_run_folder_can_be_moved(tmp_path: Path) -> None:
    saved(tmp_path / "a", [10], best=10)
    (tmp_path / "a").rename(tmp_path / "b")
    checkpoints = Checkpoints(tmp_path / "b", CheckpointConfig())
    assert checkpoints.load() == {"step": 10}
    assert (tmp_path / "b" / "best" / "model").is_dir()


def test_a_failing_write_leaves_the_earlier_checkpoint_and_the_pointers(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, [10], best=10)

    def fails(folder: Path) -> None:
        folder.mkdir()
        raise KeyError

    with pytest.raises(KeyError):
        checkpoints.save(20, {"step": 20}, fails, best=True)
    assert names(tmp_path) == ["00000010"]
    assert checkpoints.load() == {"step": 10}


def test_what_a_kill_left_behind_is_cleared_on_resume(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, [10], best=10)
    (tmp_path / "checkpoints" / ".00000020.abc").mkdir()
    checkpoints.load()
    assert names(tmp_path) == ["00000010"]


def test_a_run_without_a_checkpoint_has_no_state(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, CheckpointConfig()).load() is None


@pytest.mark.parametrize("damage", ["truncated", "pickle", "missing"])
def test_a_damaged_checkpoint_is_named_and_never_executed(tmp_path: Path, damage: str) -> None:
    checkpoints = saved(tmp_path, [10, 20], best=10)
    state = tmp_path / "checkpoints" / "00000020" / "state.pt"
    if damage == "truncated":
        state.write_bytes(state.read_bytes()[:200])
    elif damage == "pickle":
        torch.save({"step": Path}, state)
    else:
        state.unlink()
    with pytest.raises(UserError, match="00000020 can't be read") as error:
        checkpoints.load()
    assert "00000010" in str(error.value)
