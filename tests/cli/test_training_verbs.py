"""`cgt pretrain`, `transfer` and `sample` as a person types them, and what they answer to mistakes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cgt.cli import main, training_run
from cgt.models.folder import load_generator
from tests.tiny import SHORT_RUN, SMALL_NETWORKS


def transfer(workspace: Path, run: Path, *words: str, config: str = "shapes/cgantransfer") -> int:
    start = [
        "transfer",
        config,
        "--source",
        str(workspace / "source"),
        f"data={workspace / 'new'}",
        *SHORT_RUN,
    ]
    return main([*start, "--run", str(run), *words])


@pytest.mark.parametrize("config", ["shapes/cgantransfer", "shapes/bsa", "shapes/scratch"])
def test_a_transfer_gives_a_model_that_samples_old_and_new(
    workspace: Path, tmp_path: Path, config: str
) -> None:
    assert transfer(workspace, tmp_path / "run", config=config) == 0
    source, model = (
        load_generator(workspace / "source" / "latest" / "model"),
        load_generator(tmp_path / "run" / "latest" / "model"),
    )
    assert (
        main(["sample", str(tmp_path / "run"), "--out", str(tmp_path / "grid.png"), "--per-class", "3"]) == 0
    )
    rows = len(model.classes)
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.height == 2 + rows * (64 + 2)
    if config == "shapes/scratch":
        assert model.classes == ["red-plus", "gold-disk", "gold-star"]
        return
    assert model.classes == ["red-disk", "gold-plus", "red-plus", "gold-disk", "gold-star"]
    z_NZ, y_N = torch.randn(8, 6), torch.arange(8) % 2
    assert torch.equal(source(z_NZ, y_N), model(z_NZ, y_N))


def test_a_source_that_a_method_refuses_costs_no_run(workspace: Path, tmp_path: Path, capsys) -> None:
    """Whether the run's place is free or has another run, which was to be begun anew."""
    other = ["--source", str(tmp_path / "mined")]
    assert transfer(workspace, tmp_path / "mined", "data.classes=[red-plus]", config="shapes/minegan") == 0
    more = [*other, "data.classes=[gold-disk]"]
    assert transfer(workspace, tmp_path / "new", *more) == 2
    assert "have no tables for new classes to start from" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    shutil.copytree(workspace / "source", tmp_path / "there")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "there").rglob("*.*")}
    assert transfer(workspace, tmp_path / "there", *more, "--overwrite") == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "there").rglob("*.*")} == before


def test_a_run_that_another_began_meanwhile_is_not_cleared(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    build = training_run.build_trainer

    def slowly(*arguments: Any) -> Any:
        shutil.copytree(workspace / "source", tmp_path / "run")
        return build(*arguments)

    monkeypatch.setattr(training_run, "build_trainer", slowly)
    assert transfer(workspace, tmp_path / "run") == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "run" / "latest" / "model" / "config.json").is_file()


def test_fine_tuning_goes_on_from_a_transfer_alone(workspace: Path, tmp_path: Path, capsys) -> None:
    tuned = "shapes/cgantransfer_finetuned"
    for name, config in (("bsa", "shapes/bsa"), ("ours", "shapes/cgantransfer")):
        assert transfer(workspace, tmp_path / name, config=config) == 0
    said = capsys.readouterr().err
    assert "old classes: as the source makes them, to the bit" in said
    assert transfer(workspace, tmp_path / "t1", "--source", str(tmp_path / "bsa"), config=tuned) == 2
    assert "was made by bsa" in capsys.readouterr().err
    assert transfer(workspace, tmp_path / "t1", "--source", str(tmp_path / "ours"), config=tuned) == 0
    assert "gives up 2 classes of its source (red-disk, gold-plus)" in capsys.readouterr().err
    record = json.loads((tmp_path / "t1" / "latest" / "model" / "config.json").read_text())
    assert record["provenance"]["method_options"]["stage"] == "finetune"
    assert transfer(workspace, tmp_path / "t2", "--source", str(tmp_path / "t1"), config=tuned) == 2
    assert "was made by cgantransfer, fine-tuned" in capsys.readouterr().err


def test_every_tensor_of_the_source_is_in_the_extended_file_byte_for_byte(
    workspace: Path, tmp_path: Path
) -> None:
    assert transfer(workspace, tmp_path / "run") == 0
    source, extended = (
        load_file(folder / "latest" / "model" / "generator.safetensors")
        for folder in (workspace / "source", tmp_path / "run")
    )
    assert all(torch.equal(tensor, extended[name]) for name, tensor in source.items())
    assert {name.split(".")[1] for name in extended.keys() - source.keys()} == {"1"}


def test_the_run_folder_tells_what_was_done(workspace: Path) -> None:
    run = workspace / "source"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3]
    assert all("loss_discriminator" in record for record in records)
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["packages"]["torch"] == torch.__version__
    assert provenance["data"] == str(workspace / "old")
    assert (run / "samples" / "00000002.png").is_file()
    card = (run / "latest" / "model" / "README.md").read_text()
    assert "red-disk, gold-plus" in card
    assert (run / "latest" / "model" / "samples.png").is_file()


def test_a_finished_run_reads_its_own_config_again(workspace: Path, tmp_path: Path) -> None:
    assert (
        main(["pretrain", str(workspace / "source" / "config.yaml"), "--run", str(tmp_path / "again")]) == 0
    )
    first, second = (
        load_file(run / "latest" / "model" / "generator.safetensors")
        for run in (workspace / "source", tmp_path / "again")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_resuming_a_finished_run_changes_nothing(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace / "source", tmp_path / "run", symlinks=True)
    before = (tmp_path / "run" / "latest" / "hashes.json").read_bytes()
    words = ["pretrain", str(tmp_path / "run" / "config.yaml"), "--run", str(tmp_path / "run")]
    assert main([*words, "--resume"]) == 0
    assert (tmp_path / "run" / "latest" / "hashes.json").read_bytes() == before


def test_new_classes_of_a_model_that_kept_none_are_all_of_its_classes(
    workspace: Path, tmp_path: Path
) -> None:
    assert transfer(workspace, tmp_path / "run", config="shapes/scratch") == 0
    words = ["sample", str(tmp_path / "run"), "--per-class", "1"]
    assert main([*words, "--classes", "new", "--out", str(tmp_path / "new.png")]) == 0
    assert main([*words, "--out", str(tmp_path / "all.png")]) == 0
    assert (tmp_path / "new.png").read_bytes() == (tmp_path / "all.png").read_bytes()


def test_a_loaded_generator_asks_for_no_gradient(workspace: Path) -> None:
    generator = load_generator(workspace / "source" / "latest" / "model")
    assert not generator(torch.randn(1, 6), torch.zeros(1, dtype=torch.long)).requires_grad


def test_truncation_and_seed_change_the_samples_and_a_folder_holds_single_pictures(
    workspace: Path, tmp_path: Path
) -> None:
    def pictures(name: str, *words: str) -> dict[str, bytes]:
        folder = tmp_path / name
        assert (
            main(["sample", str(workspace / "source"), "--out", str(folder), "--per-class", "2", *words]) == 0
        )
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}

    plain = pictures("plain")
    names = ("000-red-disk", "001-gold-plus")
    assert sorted(plain) == [f"{name}/{i:05d}.png" for name in names for i in range(2)]
    assert pictures("again") == plain
    assert pictures("seed", "--seed", "1") != plain
    assert pictures("truncated", "--truncation", "0.3") != plain
    one = pictures("one", "--classes", "gold-plus")
    assert sorted(one) == ["001-gold-plus/00000.png", "001-gold-plus/00001.png"]


def test_a_diverged_run_stops_and_names_the_last_good_checkpoint(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cgt.training import step

    losses = iter([0.5] * 2)
    monkeypatch.setattr(step, "mode_seeking", lambda x, z, mean: x.mean() * 0 + next(losses, float("inf")))
    words = [
        "pretrain",
        "shapes/pretrain",
        f"data={workspace / 'old'}",
        *SHORT_RUN,
        *SMALL_NETWORKS,
        "steps=9",
        "save_every=1",
    ]
    code = main([*words, "--run", str(tmp_path / "run")])
    message = capsys.readouterr().err.replace("\n", " ")
    assert code == 1
    assert "loss became inf in step 2" in message
    assert str(tmp_path / "run" / "checkpoints" / "00000002") in message
    load_generator(tmp_path / "run" / "latest" / "model")


@pytest.mark.parametrize("reader", ["stream", "resident"])
def test_pictures_that_can_not_be_read_are_skipped_and_told_where_asked(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], reader: str
) -> None:
    damaged = shutil.copytree(workspace / "new", tmp_path / "damaged")
    shard = damaged / "000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"IHDR", b"XXXX", 1))
    words = [f"data={damaged}", f"data.reader={reader}", "data.workers=1", "data.on_error=skip"]
    assert transfer(workspace, tmp_path / "run", *words) == 0
    message = capsys.readouterr().err.replace("\n", "")
    assert "skipped 1 of the pictures, which could not be read. The first:" in message
    assert "is no picture" in message
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert records[-1].get("skipped", records[-2].get("skipped")) == 1
    assert transfer(workspace, tmp_path / "other", *words[:-1], "data.workers=0") == 2
    assert "000000.tar is damaged" in capsys.readouterr().err.replace("\n", "")
