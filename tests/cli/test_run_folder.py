"""The run folder: what begins, goes on, is refused, and stays whatever happens."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cgt.cli import main
from cgt.metrics.features.cnn import SmallCnn
from cgt.models.folder import load_generator
from cgt.models.record import read_record
from cgt.runs import RunFolder
from cgt.training.state_files import read_state
from tests.tiny import SHORT_RUN, SMALL_NETWORKS

Refusal = Callable[[int], str]


def pretrain(workspace: Path, run: Path, *words: str) -> int:
    start = ["pretrain", "shapes/pretrain", f"data={workspace / 'old'}", *SHORT_RUN, *SMALL_NETWORKS]
    return main([*start, "--run", str(run), *words])


def transfer(workspace: Path, source: Path, run: Path, *words: str) -> int:
    start = ["transfer", "shapes/bsa", "--source", str(source), f"data={workspace / 'new'}", *SHORT_RUN]
    return main([*start, "--run", str(run), *words])


@pytest.fixture
def run(workspace: Path, tmp_path: Path) -> Path:
    """A copy of the finished source run."""
    return Path(shutil.copytree(workspace / "source", tmp_path / "run", symlinks=True))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_transfer_is_not_resumed_from_another_source(
    workspace: Path, tmp_path: Path, refusal: Refusal
) -> None:
    assert pretrain(workspace, tmp_path / "other", "seed=1") == 0
    assert transfer(workspace, workspace / "source", tmp_path / "new") == 0
    before = content(tmp_path / "new")
    message = refusal(transfer(workspace, tmp_path / "other", tmp_path / "new", "--resume"))
    assert "source_generator_sha256" in message
    assert content(tmp_path / "new") == before


def test_a_run_is_not_resumed_on_other_pictures(workspace: Path, tmp_path: Path, refusal: Refusal) -> None:
    shards = shutil.copytree(workspace / "old", tmp_path / "shards")
    words = [f"data={shards}", "--run", str(tmp_path / "run")]
    start = ["pretrain", "shapes/pretrain", *SHORT_RUN, *SMALL_NETWORKS]
    assert main([*start, *words]) == 0
    build = ["shards", "build", "shapes", "-", str(shards), "--classes", "red-disk,gold-plus", "--size", "16"]
    assert main([*build, "--per-class", "5", "--overwrite"]) == 0
    assert "data_sha256" in refusal(main([*start, *words, "--resume"]))


def test_a_run_goes_on_whatever_way_its_work_is_done(workspace: Path, run: Path) -> None:
    before = content(run)
    assert pretrain(workspace, run, "--resume", "gradient_checkpointing=true", "timeout=60") == 0
    assert content(run) == before


def test_a_run_goes_on_whose_config_is_older_than_some_keys(
    workspace: Path, run: Path, refusal: Refusal
) -> None:
    config = run / "config.yaml"
    lines = [line for line in config.read_text().splitlines() if "lecam" not in line]
    config.write_text("\n".join(lines))
    before = content(run)
    assert pretrain(workspace, run, "--resume") == 0
    assert content(run) == before
    message = refusal(pretrain(workspace, run, "--resume", "optim.lecam=0.5"))
    assert "optim.lecam was 0.0, now 0.5" in message


def test_overwrite_begins_a_run_again(workspace: Path, run: Path) -> None:
    (run / "latest").unlink()
    assert pretrain(workspace, run, "--overwrite") == 0
    first, second = (
        load_file(folder / "latest" / "model" / "generator.safetensors")
        for folder in (workspace / "source", run)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not [path for path in run.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("missing", ["config.yaml", "provenance.json"])
def test_overwrite_never_clears_a_folder_that_is_no_run(
    workspace: Path, run: Path, missing: str, refusal: Refusal
) -> None:
    (run / missing).unlink()
    before = content(run)
    assert "not a run folder" in refusal(pretrain(workspace, run, "--overwrite"))
    assert content(run) == before


def test_overwrite_never_clears_a_run_that_still_trains(workspace: Path, run: Path, refusal: Refusal) -> None:
    before = content(run)
    trains = RunFolder(run)
    assert "another process trains in" in refusal(pretrain(workspace, run, "--overwrite"))
    del trains
    assert content(run) == {**before, ".lock": b""}


def test_overwrite_never_clears_what_no_run_wrote(workspace: Path, run: Path, refusal: Refusal) -> None:
    (run / "thesis.txt").write_text("years of work")
    assert "holds thesis.txt" in refusal(pretrain(workspace, run, "--overwrite"))
    assert (run / "thesis.txt").read_text() == "years of work"


def test_overwrite_never_clears_the_source_of_the_run_or_the_present_folder(
    workspace: Path, run: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(run)
    assert "would clear away" in refusal(transfer(workspace, run, run, "--overwrite"))
    monkeypatch.chdir(run)
    assert "would clear away" in refusal(pretrain(workspace, Path(), "--overwrite"))
    assert content(run) == before


def test_a_file_in_the_place_of_a_run_stays(workspace: Path, tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refusal(pretrain(workspace, tmp_path / "file", "--overwrite"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_is_held_by_one_process(workspace: Path, run: Path, refusal: Refusal) -> None:
    holder = RunFolder(run)
    assert "another process trains in" in refusal(pretrain(workspace, run, "--resume"))
    del holder
    assert pretrain(workspace, run, "--resume") == 0


def test_a_checkpoint_that_is_gone_is_missed(workspace: Path, run: Path, refusal: Refusal) -> None:
    shutil.rmtree((run / "latest").resolve())
    records = (run / "metrics.jsonl").read_bytes()
    assert "points at a checkpoint that is gone" in refusal(pretrain(workspace, run, "--resume"))
    assert (run / "metrics.jsonl").read_bytes() == records


@pytest.mark.parametrize("file", ["config.yaml", "provenance.json"])
def test_a_damaged_record_of_the_run_is_named(
    workspace: Path, run: Path, file: str, refusal: Refusal
) -> None:
    (run / file).write_text("{ [")
    assert "is damaged" in refusal(pretrain(workspace, run, "--resume"))


def test_a_measurement_that_fails_costs_no_training(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = tmp_path / "features"
    assert main(["features", "train", str(workspace / "old"), str(features), "--steps", "1"]) == 0
    measured = [f"eval.features={features}", "eval.metrics=[fid]", "eval.images=3"]

    def failing(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SmallCnn, "forward", failing)
    capsys.readouterr()
    assert pretrain(workspace, tmp_path / "run", *measured) == 1
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert "checkpoints/00000002" in message.replace("\n", "")
    load_generator(tmp_path / "run" / "latest" / "model")


def test_too_few_pictures_to_measure_are_refused_before_training(
    workspace: Path, tmp_path: Path, refusal: Refusal
) -> None:
    features = tmp_path / "features"
    assert main(["features", "train", str(workspace / "old"), str(features), "--steps", "1"]) == 0
    measured = [f"eval.features={features}", "eval.metrics=[fid,prdc]", "eval.images=3"]
    message = refusal(pretrain(workspace, tmp_path / "run", *measured))
    assert "prdc needs 6 generated pictures at least, not 3" in message
    assert not (tmp_path / "run").exists()


def test_a_model_that_was_measured_says_what_came_out(workspace: Path, tmp_path: Path) -> None:
    features, run = tmp_path / "features", tmp_path / "run"
    assert main(["features", "train", str(workspace / "old"), str(features), "--steps", "1"]) == 0
    assert pretrain(workspace, run, f"eval.features={features}", "eval.metrics=[fid]", "eval.images=8") == 0
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (last,) = (record for record in records if record["step"] == 3 and "fid" in record)
    known = read_record(run / "latest" / "model").provenance
    assert known["scores"] == {name: value for name, value in last.items() if name in known["scores"]}
    assert known["measured"]["generated_pictures"] == 8
    card = (run / "latest" / "model" / "README.md").read_text(encoding="utf-8")
    assert f"| fid | {last['fid']:.6g} |" in card


def test_pictures_of_another_size_to_measure_against_are_refused_at_once(
    workspace: Path, tmp_path: Path, refusal: Refusal
) -> None:
    large, features = tmp_path / "large", tmp_path / "features"
    build = ["shards", "build", "shapes", "-", str(large), "--classes", "red-disk,gold-plus", "--size", "32"]
    assert main([*build, "--per-class", "12"]) == 0
    assert main(["features", "train", str(large), str(features), "--steps", "1"]) == 0
    words = [f"eval.data={large}", f"eval.features={features}"]
    assert "--size 16" in refusal(pretrain(workspace, tmp_path / "run", *words))
    assert not (tmp_path / "run").exists()


def test_weights_that_overflow_are_never_saved_as_a_checkpoint(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = pretrain(workspace, tmp_path / "run", "save_every=1", "optim.generator_lr=1e20")
    message = capsys.readouterr().err
    assert code == 1
    assert "diverged" in message
    assert "There is no checkpoint yet" in message.replace("\n", " ")
    assert not (tmp_path / "run" / "latest").exists()


def test_a_machine_without_git_trains_all_the_same(workspace: Path, tmp_path: Path) -> None:
    words = ["shapes/pretrain", f"data={workspace / 'old'}", *SHORT_RUN, *SMALL_NETWORKS, "steps=1"]
    result = subprocess.run(
        [sys.executable, "-m", "cgt", "pretrain", *words, "--run", str(tmp_path / "run")],
        env={**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["commit"] is None


def test_a_full_disk_ends_the_run_with_a_message_and_the_earlier_checkpoint_stays(
    workspace: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A limit on file sizes stands for the end of the disk: set in a child, once a checkpoint is written."""
    run = tmp_path / "run"
    words = ["pretrain", "shapes/pretrain", f"data={workspace / 'old'}", *SHORT_RUN, *SMALL_NETWORKS]
    child = os.fork()
    if child == 0:
        from cgt.training import checkpoint

        save = checkpoint.Checkpoints.save

        def save_then_fill(self: checkpoint.Checkpoints, *args: Any, **options: Any) -> None:
            save(self, *args, **options)
            self.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

        checkpoint.Checkpoints.save = save_then_fill  # type: ignore[method-assign]
        os._exit(main([*words, "--run", str(run)]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    message = capfd.readouterr().err
    assert "Traceback" not in message
    assert "run" in message
    assert "the command again" in message
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["00000002"]
    load_generator(run / "latest" / "model")
    assert read_state(run / "latest" / "state")["step"] == 2
    assert main([*words, "--run", str(run), "--resume"]) == 0
    assert (run / "latest").resolve().name == "00000003"
