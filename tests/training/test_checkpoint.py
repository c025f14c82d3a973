"""Checkpoints on disk."""

import errno
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

from cgt.distributed import World
from cgt.errors import UserError
from cgt.files import sha256, write_json
from cgt.training.checkpoint import CheckpointConfig, Checkpoints


def write_model(folder: Path) -> None:
    folder.mkdir()


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weight": torch.full((3,), float(step))}


def saved(run: Path, steps: list[int], best: int, **options: int) -> Checkpoints:
    with Checkpoints(run, CheckpointConfig(**options), World(cpu=True)) as checkpoints:
        for step in steps:
            checkpoints.save(step, state(step), write_model, best=step == best)
    return checkpoints


def step_of(checkpoints: Checkpoints) -> int:
    """The step of the state that is loaded."""
    loaded = checkpoints.load()
    assert loaded is not None
    assert torch.equal(loaded["weight"], state(loaded["step"])["weight"])
    return int(loaded["step"])


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_the_latest_the_best_and_every_kth_stay(tmp_path: Path) -> None:
    saved(tmp_path, [10, 20, 30, 40, 50], best=20, keep_latest=2, keep_every=30)
    assert names(tmp_path) == ["00000020", "00000030", "00000040", "00000050"]
    assert (tmp_path / "latest").resolve().name == "00000050"
    assert (tmp_path / "best").resolve().name == "00000020"


def test_a_kill_while_an_old_checkpoint_goes_leaves_none_that_lacks_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(folder: Path, **_: Any) -> None:
        (folder / "hashes.json").unlink(missing_ok=True)

    with monkeypatch.context() as stopped:
        stopped.setattr(shutil, "rmtree", half)
        checkpoints = saved(tmp_path, [10, 20], best=20)
    assert [name for name in names(tmp_path) if name.isdigit()] == ["00000020"]
    assert step_of(checkpoints) == 20
    assert names(tmp_path) == ["00000020"]


def test_the_run_folder_can_be_moved(tmp_path: Path) -> None:
    saved(tmp_path / "a", [10], best=10)
    (tmp_path / "a").rename(tmp_path / "b")
    checkpoints = Checkpoints(tmp_path / "b", CheckpointConfig(), World(cpu=True))
    assert step_of(checkpoints) == 10
    assert (tmp_path / "b" / "best" / "model").is_dir()


def test_a_failing_write_leaves_the_earlier_checkpoint_and_the_pointers(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, [10], best=10)

    def fails(folder: Path) -> None:
        folder.mkdir()
        raise KeyError

    # The error waits for the next checkpoint, as this one is written while training goes on.
    checkpoints.save(20, state(20), fails, best=True)
    with pytest.raises(KeyError):
        checkpoints.save(30, state(30), write_model, best=True)
    assert names(tmp_path) == ["00000010"]
    assert step_of(checkpoints) == 10


def test_what_is_saved_is_the_state_when_save_was_called(tmp_path: Path) -> None:
    slow = threading.Event()

    def waits(folder: Path) -> None:
        slow.wait(10)
        folder.mkdir()

    values = state(10)
    with Checkpoints(tmp_path, CheckpointConfig(), World(cpu=True)) as checkpoints:
        checkpoints.save(10, values, waits, best=True)
        assert checkpoints.latest is None
        values["weight"] += 1
        slow.set()
    assert step_of(checkpoints) == 10


def test_what_a_kill_left_behind_is_cleared_on_resume(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, [10], best=10)
    (tmp_path / "checkpoints" / ".00000020.abc").mkdir()
    (tmp_path / "checkpoints" / ".DS_Store").touch()  # as a file browser makes it
    checkpoints.load()
    assert names(tmp_path) == [".DS_Store", "00000010"]


def test_a_run_without_a_checkpoint_has_no_state(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, CheckpointConfig(), World(cpu=True)).load() is None


@pytest.mark.parametrize("file", ["state.json", "shard-00001-model-00001-of-00001.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "other"])
def test_a_damaged_checkpoint_is_named_and_never_executed(tmp_path: Path, file: str, damage: str) -> None:
    checkpoints = saved(tmp_path, [10, 20], best=10)
    damaged = tmp_path / "checkpoints" / "00000020" / "state" / file
    content = damaged.read_bytes()
    if damage == "truncated":
        damaged.write_bytes(content[:-3])
    elif damage == "changed":
        damaged.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    elif damage == "other":
        attack = tmp_path / "attack"
        torch.save({"step": Touch(attack)}, damaged)
        hashes = damaged.parents[1] / "hashes.json"
        write_json(hashes, {**json.loads(hashes.read_text()), f"state/{file}": sha256(damaged)})
    else:
        damaged.unlink()
    with pytest.raises(UserError, match="00000020 can't be read") as error:
        checkpoints.load()
    assert "00000010" in str(error.value)
    assert not (tmp_path / "attack").exists()


def test_a_disk_that_fails_while_a_checkpoint_is_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    checkpoints = saved(tmp_path, [10, 20], best=10)
    monkeypatch.setattr(HuggingFaceStorageReader, "read_data", fails)
    with pytest.raises(UserError, match=r"00000020 can't be read \(.*Input/output error\)"):
        checkpoints.load()


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)
