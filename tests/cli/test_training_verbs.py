"""`cgt pretrain`, `transfer` and `sample` as a person types them, and what they answer to mistakes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cgt.cli import main
from cgt.models.folder import load_generator

TINY = [
    "steps=3",
    "batch_size=8",
    "log_every=1",
    "eval_every=2",
    "save_every=2",
    "ema.standing_batches=2",
]
TINY_NETWORKS = [
    "generator.channels=[12,8,8]",
    "generator.dim_z=6",
    "discriminator.channels=[8,12]",
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of old and new classes at 16 px, and a pretrained run."""
    root = tmp_path_factory.mktemp("workspace")
    build = ["shards", "build", "shapes", "-"]
    sizes = ["--size", "16", "--per-class", "4"]
    assert main([*build, str(root / "old"), "--classes", "red-disk,gold-plus", *sizes]) == 0
    assert main([*build, str(root / "new"), "--classes", "red-plus,gold-disk,gold-star", *sizes]) == 0
    assert (
        main(
            [
                "pretrain",
                "shapes/pretrain",
                f"data={root / 'old'}",
                *TINY,
                *TINY_NETWORKS,
                "--run",
                str(root / "source"),
            ]
        )
        == 0
    )
    return root


def transfer(workspace: Path, run: Path, *words: str, config: str = "shapes/cgantransfer") -> int:
    start = ["transfer", config, "--source", str(workspace / "source"), f"data={workspace / 'new'}", *TINY]
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
    before = (tmp_path / "run" / "latest" / "state.pt").read_bytes()
    words = ["pretrain", str(tmp_path / "run" / "config.yaml"), "--run", str(tmp_path / "run")]
    assert main([*words, "--resume"]) == 0
    assert (tmp_path / "run" / "latest" / "state.pt").read_bytes() == before


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
    assert sorted(plain) == [f"{name}/{i:05d}.png" for name in ("gold-plus", "red-disk") for i in range(2)]
    assert pictures("again") == plain
    assert pictures("seed", "--seed", "1") != plain
    assert pictures("truncated", "--truncation", "0.3") != plain
    assert sorted(pictures("one", "--classes", "gold-plus")) == ["gold-plus/00000.png", "gold-plus/00001.png"]


def refusal(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The message of a command that was refused as the user's mistake."""
    message = capsys.readouterr().err
    assert code == 2, message
    assert "Traceback" not in message
    return message


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
        lambda w, t: ["pretrain", "shapes/pretrain", f"data={w / 'old'}", "precision=fp16", *TINY_NETWORKS],
        ["fp16 needs a GPU"],
    ),
    "a run that is there": (
        lambda w, t: [
            "pretrain",
            "shapes/pretrain",
            f"data={w / 'old'}",
            *TINY_NETWORKS,
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
    "new classes of a model that has none": (
        lambda w, t: ["sample", str(w / "source"), "--out", str(t / "x.png"), "--classes", "new"],
        ["single bank"],
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
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words, expected = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("*")}
    message = refusal(capsys, main(words(workspace, tmp_path)))
    for text in expected:
        assert text in message.replace("\n", " "), message
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*")} == before
    assert not list(tmp_path.iterdir())


def broken(workspace: Path, tmp_path: Path) -> Path:
    """A copy of the source's model folder, to be broken."""
    return Path(shutil.copytree(workspace / "source" / "latest" / "model", tmp_path / "model"))


def test_a_checkpoint_of_another_architecture_is_refused(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = broken(workspace, tmp_path)
    tensors = load_file(model / "generator.safetensors")
    tensors["linear.weight"] = torch.zeros(7, 6)
    tensors["stranger"] = tensors.pop("to_rgb.bias")
    save_file(tensors, model / "generator.safetensors")
    message = refusal(capsys, main(["sample", str(model), "--out", str(tmp_path / "x.png")]))
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
                (model / "config.json").read_text().replace('"dim_z"', '"dim_q"')
            ),
            "does not describe a model",
        ),
    ],
    ids=["junk", "missing", "no JSON", "other JSON", "future version", "unknown field"],
)
def test_a_damaged_model_folder_is_refused(
    workspace: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    expected: str,
) -> None:
    model = broken(workspace, tmp_path)
    damage(model)
    assert expected in refusal(capsys, main(["sample", str(model), "--out", str(tmp_path / "x.png")]))


def test_weights_that_are_not_finite_are_refused(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = broken(workspace, tmp_path)
    tensors = load_file(model / "generator.safetensors")
    tensors["to_rgb.bias"][0] = float("nan")
    save_file(tensors, model / "generator.safetensors")
    assert "to_rgb.bias is not finite" in refusal(
        capsys, main(["sample", str(model), "--out", str(tmp_path / "x.png")])
    )


def test_a_source_without_a_discriminator_is_refused(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    assert "has no discriminator" in refusal(capsys, main(words))


def test_pictures_of_another_size_than_the_source_makes_are_refused(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    capsys.readouterr()
    words = [
        "transfer",
        "shapes/bsa",
        "--source",
        str(workspace / "source"),
        f"data={shards}",
        "--run",
        str(tmp_path / "run"),
    ]
    assert "--size 16" in refusal(capsys, main(words))


def test_overwrite_never_clears_a_folder_that_is_no_run(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    words = [
        "pretrain",
        "shapes/pretrain",
        f"data={workspace / 'old'}",
        *TINY,
        *TINY_NETWORKS,
        "--run",
        str(tmp_path / "precious"),
    ]
    assert "not a run folder" in refusal(capsys, main([*words, "--overwrite"]))
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"


def test_a_diverged_run_stops_and_names_the_last_good_checkpoint(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cgt.training import step

    losses = iter([0.5] * 2)
    monkeypatch.setattr(step, "mode_seeking", lambda x, z: x.mean() * 0 + next(losses, float("inf")))
    words = [
        "pretrain",
        "shapes/pretrain",
        f"data={workspace / 'old'}",
        *TINY,
        *TINY_NETWORKS,
        "steps=9",
        "save_every=1",
    ]
    code = main([*words, "--run", str(tmp_path / "run")])
    message = capsys.readouterr().err.replace("\n", " ")
    assert code == 1
    assert "loss became inf in step 2" in message
    assert str(tmp_path / "run" / "checkpoints" / "00000002") in message
    load_generator(tmp_path / "run" / "latest" / "model")
