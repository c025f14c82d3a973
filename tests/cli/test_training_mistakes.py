"""What the training verbs answer to mistakes: value, rule and remedy, with nothing changed on disk."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cgt.cli import main
from tests.tiny import SMALL_NETWORKS

Words = Callable[[Path, Path], list[str]]

MISTAKES: dict[str, tuple[Words, list[str]]] = {
    "an unknown key": (
        lambda w, t: ["pretrain", "shapes/pretrain", f"data={w / 'old'}", "optim.generatr_lr=1"],
        ["optim.generatr_lr", "did you mean 'generator_lr'"],
    ),
    "a wrong type": (
        lambda w, t: ["pretrain", "shapes/pretrain", f"data={w / 'old'}", "steps=many", "batch_size=1"],
        ["2 mistakes", "steps", "'many'", "override steps=many", "batch_size"],
    ),
    "a missing value": (lambda w, t: ["pretrain", "shapes/pretrain"], ["data: must be given"]),
    "no such config": (
        lambda w, t: ["pretrain", "shapes/pretrian"],
        ["shapes/pretrian", "did you mean 'shapes/pretrain'"],
    ),
    "no such shards": (lambda w, t: ["pretrain", "shapes/pretrain", f"data={t / 'nowhere'}"], ["nowhere"]),
    "no such class": (
        lambda w, t: ["pretrain", "shapes/pretrain", f"data={w / 'old'}", "data.classes=[red-dsk]"],
        ["red-dsk", "did you mean 'red-disk'"],
    ),
    "sizes that do not fit": (
        lambda w, t: [
            "pretrain",
            "shapes/pretrain",
            f"data={w / 'old'}",
            "generator.channels=[8,8,8,8,8,8,8]",
        ],
        ["16 px", "channels"],
    ),
    "batches that do not divide": (
        lambda w, t: ["pretrain", "shapes/pretrain", f"data={w / 'old'}", "batch_size=10", "micro_batch=4"],
        ["batch_size 10", "micro_batch 4"],
    ),
    "fp16 without a GPU": (
        lambda w, t: ["pretrain", "shapes/pretrain", f"data={w / 'old'}", "precision=fp16", *SMALL_NETWORKS],
        ["fp16 needs a GPU"],
    ),
    "a run that is there": (
        lambda w, t: [
            "pretrain",
            "shapes/pretrain",
            f"data={w / 'old'}",
            *SMALL_NETWORKS,
            "--run",
            str(w / "source"),
        ],
        ["exists already", "--resume", "--overwrite"],
    ),
    "resuming another config": (
        lambda w, t: [
            "pretrain",
            str(w / "source" / "config.yaml"),
            "steps=9",
            "--run",
            str(w / "source"),
            "--resume",
        ],
        ["steps was 3, now 9"],
    ),
    "resuming nothing": (
        lambda w, t: ["pretrain", str(w / "source" / "config.yaml"), "--run", str(t / "none"), "--resume"],
        ["no run in"],
    ),
    "no such method": (
        lambda w, t: [
            "transfer",
            "shapes/transfer",
            "--source",
            str(w / "source"),
            f"data={w / 'new'}",
            "method=cgantranfer",
        ],
        ["cgantranfer", "did you mean 'cgantransfer'"],
    ),
    "no method": (
        lambda w, t: ["transfer", "shapes/transfer", "--source", str(w / "source"), f"data={w / 'new'}"],
        ["names no method", "bsa"],
    ),
    "an option of another method": (
        lambda w, t: [
            "transfer",
            "shapes/bsa",
            "--source",
            str(w / "source"),
            f"data={w / 'new'}",
            "method.lambda_r=1",
        ],
        ["method.lambda_r", "there are name, start"],
    ),
    "a regulariser of the discriminator for a method without one": (
        lambda w, t: [
            "transfer",
            "shapes/transfer",
            "--source",
            str(w / "source"),
            f"data={w / 'new'}",
            "method=bsa_supervised",
            "augment.target=0.6",
            "optim.lecam=0.1",
        ],
        ["augment.target=0.6 and optim.lecam=0.1", "bsa_supervised trains none"],
    ),
    "fine-tuning what no transfer made": (
        lambda w, t: [
            "transfer",
            "shapes/cgantransfer_finetuned",
            "--source",
            str(w / "source"),
            f"data={w / 'old'}",
        ],
        ["goes on with a finished transfer by cgantransfer", "was made by no transfer"],
    ),
    "options of a start for fine-tuning": (
        lambda w, t: [
            "transfer",
            "shapes/cgantransfer_finetuned",
            "--source",
            str(w / "source"),
            f"data={w / 'new'}",
            "method.start=nearest",
            "method.lambda_s=5",
        ],
        ["lambda_s and start would mean nothing", "leave them out"],
    ),
    "no such source": (
        lambda w, t: ["transfer", "shapes/bsa", "--source", str(t / "gone"), f"data={w / 'new'}"],
        ["no model at", "gone"],
    ),
    "a source that is no model": (
        lambda w, t: ["transfer", "shapes/bsa", "--source", str(w / "old"), f"data={w / 'new'}"],
        ["neither a model folder"],
    ),
    "classes that the source has": (
        lambda w, t: ["transfer", "shapes/bsa", "--source", str(w / "source"), f"data={w / 'old'}"],
        ["'gold-plus', 'red-disk'", "data.exclude"],
    ),
    "an unknown class to sample": (
        lambda w, t: ["sample", str(w / "source"), "--out", str(t / "x.png"), "--classes", "red-dsk"],
        ["red-dsk", "did you mean 'red-disk'"],
    ),
    "old classes of a model that has none": (
        lambda w, t: ["sample", str(w / "source"), "--out", str(t / "x.png"), "--classes", "old"],
        ["that a transfer extended"],
    ),
    "a grid in another format": (
        lambda w, t: ["sample", str(w / "source"), "--out", str(t / "x.jpg")],
        ["x.jpg", "as .png"],
    ),
    "an output that exists": (
        lambda w, t: ["sample", str(w / "source"), "--out", str(w / "source" / "config.yaml")],
        ["exists already", "--overwrite"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_remedy_and_nothing_changes_on_disk(
    mistake: str,
    workspace: Path,
    tmp_path: Path,
    refusal: Callable[[int], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, expected = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("*")}
    message = refusal(main(words(workspace, tmp_path)))
    for text in expected:
        assert text in message.replace("\n", " "), message
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*")} == before
    assert not list(tmp_path.iterdir())


def broken(workspace: Path, tmp_path: Path) -> Path:
    """A copy of the source's model folder, to be broken."""
    return Path(shutil.copytree(workspace / "source" / "latest" / "model", tmp_path / "model"))


def test_a_checkpoint_of_another_architecture_is_refused(
    workspace: Path, tmp_path: Path, refusal: Callable[[int], str]
) -> None:
    model = broken(workspace, tmp_path)
    tensors = load_file(model / "generator.safetensors")
    tensors["linear.weight"] = torch.zeros(7, 6)
    tensors["stranger"] = tensors.pop("to_rgb.bias")
    save_file(tensors, model / "generator.safetensors")
    message = refusal(main(["sample", str(model), "--out", str(tmp_path / "x.png")]))
    for text in (
        "linear.weight is (7, 6), not (192, 6)",
        "stranger is not of this architecture",
        "to_rgb.bias is missing",
    ):
        assert text in message


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda model: (model / "generator.safetensors").write_bytes(b"junk"), "can't be read"),
        (lambda model: (model / "generator.safetensors").unlink(), "is missing"),
        (lambda model: (model / "config.json").write_text("{"), "not valid JSON"),
        (lambda model: (model / "config.json").write_text("{}"), "not the config of a cgt model"),
        (
            lambda model: (model / "config.json").write_text(
                (model / "config.json").read_text().replace('"format_version": 1', '"format_version": 99')
            ),
            "format version 99",
        ),
        (
            lambda model: (model / "config.json").write_text(
                (model / "config.json")
                .read_text()
                .replace('"format_version": 1', '"format_version": 99, "new": 1')
            ),
            "format version 99",
        ),
        (
            lambda model: (model / "config.json").write_text(
                (model / "config.json").read_text().replace('"dim_z"', '"dim_q"')
            ),
            "does not describe a model",
        ),
    ],
    ids=["junk", "missing", "no JSON", "other JSON", "future version", "its other keys", "unknown field"],
)
def test_a_damaged_model_folder_is_refused(
    workspace: Path,
    tmp_path: Path,
    refusal: Callable[[int], str],
    damage: Callable[[Path], None],
    expected: str,
) -> None:
    model = broken(workspace, tmp_path)
    damage(model)
    assert expected in refusal(main(["sample", str(model), "--out", str(tmp_path / "x.png")]))


def test_weights_that_are_not_finite_are_refused(
    workspace: Path, tmp_path: Path, refusal: Callable[[int], str]
) -> None:
    model = broken(workspace, tmp_path)
    tensors = load_file(model / "generator.safetensors")
    tensors["to_rgb.bias"][0] = float("nan")
    save_file(tensors, model / "generator.safetensors")
    assert "to_rgb.bias is not finite" in refusal(
        main(["sample", str(model), "--out", str(tmp_path / "x.png")])
    )


def test_a_source_without_a_discriminator_is_refused(
    workspace: Path, tmp_path: Path, refusal: Callable[[int], str]
) -> None:
    model = broken(workspace, tmp_path)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "discriminator": None}))
    words = [
        "transfer",
        "shapes/bsa",
        "--source",
        str(model),
        f"data={workspace / 'new'}",
        "--run",
        str(tmp_path / "run"),
    ]
    assert "has no discriminator" in refusal(main(words))


def test_pictures_of_another_size_than_the_source_makes_are_refused(
    workspace: Path, tmp_path: Path, refusal: Callable[[int], str]
) -> None:
    shards = tmp_path / "large"
    assert (
        main(
            [
                "shards",
                "build",
                "shapes",
                "-",
                str(shards),
                "--classes",
                "red-star",
                "--per-class",
                "2",
                "--size",
                "32",
            ]
        )
        == 0
    )
    words = [
        "transfer",
        "shapes/bsa",
        "--source",
        str(workspace / "source"),
        f"data={shards}",
        "--run",
        str(tmp_path / "run"),
    ]
    assert "--size 16" in refusal(main(words))
