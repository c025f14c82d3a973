"""Reproducing tables: what is run, what is not run again, and what is written of it."""

import csv
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import reproduce
import table_runs
import torch

from cgt.config import load, shipped
from cgt.report.paper import Scale, Table
from tests.tools.quick_cgt import QuickCgt

TABLES = sorted(reproduce.TABLES.glob("*.yaml"))
TWO_ROWS = """
title: Two rows
columns:
  - {name: few, score: fid, configs: {paper: "cifar100/{}_20x100", shapes: "shapes/{}_5x10"}}
  - {name: how soon, score: iterations, configs: {paper: "cifar100/{}_20x100", shapes: "shapes/{}_5x10"}}
rows:
  - {name: Early, config: bsa, at_best_of: cgantransfer, paper: [50.88, null]}
  - {name: Ours, config: cgantransfer, paper: [40.04, 1200]}
"""
AFTER = """
title: Two stages
configs: {shapes: "shapes/{}"}
columns: [{name: FID, score: fid}]
rows:
  - {name: Fine-tuned, config: minegan_finetuned, after: minegan}
  - {name: BSA, config: bsa}
"""


class Quick:
    """Runs reproduce.py with a cgt that learns nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.cgt = QuickCgt()

    def __call__(self, table: str, *options: str) -> int:
        file = self.folder / "table.yaml"
        file.write_text(table)
        self.cgt.calls.clear()
        return reproduce.main([str(file), "--out", str(self.out), "--seeds", "2", "--jobs", "2", *options])

    def calls(self, verb: str) -> list[list[str]]:
        """What the last command asked of a verb."""
        return [words for words in self.cgt.calls if words[0] == verb]

    def lines(self, name: str = "table.csv") -> list[dict[str, str]]:
        with (self.out / name).open() as file:
            return list(csv.DictReader(file))


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Quick:
    quick = Quick(tmp_path)
    monkeypatch.setattr(table_runs.subprocess, "Popen", quick.cgt)
    return quick


@pytest.mark.parametrize("file", TABLES, ids=lambda file: file.stem)
def test_the_rows_of_every_table_name_shipped_configs(file: Path) -> None:
    table = load(Table, str(file))
    for scale in get_args(Scale):
        named = {run.config for run in table.runs(scale, 1)}
        assert named or not table.of_the_paper
        assert not named - set(shipped())
    assert table.runs("shapes", 1)


def test_the_paper_s_means_are_those_of_its_numbers() -> None:
    table = load(Table, str(reproduce.TABLES / "table1-left.yaml"))
    for row in table.rows:
        *numbers, mean = row.paper
        assert statistics.fmean(map(float, numbers)) == pytest.approx(mean, abs=0.011), row.name


def test_ours_stand_beside_the_paper_s(quick: Quick) -> None:
    assert quick(TWO_ROWS) == 0
    text = (quick.out / "table.md").read_text()
    assert "|  | few | how soon |" in text
    assert "| Ours | 21.00 ± 0.71 (40.04) | 20 ± 0 (1,200) |" in text  # 20.5 and 21.5
    # BSA's own best is at step 30.
    assert "| Early | 40.00 ± 0.00 (50.88) | 20 ± 0 (-) |" in text
    ours = [line for line in quick.lines() if line["row"] == "Ours"]
    assert [(line["config"], line["seed"], line["fid"], line["iterations"]) for line in ours] == [
        ("shapes/cgantransfer_5x10", "0", "20.5", "20"),
        ("shapes/cgantransfer_5x10", "1", "21.5", "20"),
    ]
    curves = [line for line in quick.lines("table_curves.csv") if line["config"].startswith("shapes/bsa")]
    assert [(line["seed"], line["step"], line["fid"]) for line in curves[:3]] == [
        ("0", "10", "50.0"),
        ("0", "20", "40.0"),
        ("0", "30", "30.0"),
    ]


def test_a_table_that_the_paper_does_not_have_shows_ours_alone(quick: Quick) -> None:
    assert quick(AFTER) == 0
    text = (quick.out / "table.md").read_text()
    assert "| BSA | 31.00 ± 0.71 |" in text
    assert "in brackets" not in text
    assert "photographs" not in text


def test_what_chooses_a_model_is_not_what_it_is_reported_by(quick: Quick) -> None:
    assert quick(TWO_ROWS) == 0
    shards = {words[4].rpartition("/")[2]: set(words[5:]) for words in quick.calls("shards")}
    assert {"--split=test", "--seed=1"} <= shards["choice"]
    assert "--split=test" in shards["reference"]
    assert not any("--seed" in word for word in shards["reference"])
    for words in quick.calls("transfer"):
        assert f"eval.data={quick.out / 'shards' / 'choice'}" in words
    for words in quick.calls("eval"):
        assert words[words.index("--data") + 1] == str(quick.out / "shards" / "reference")


def test_nothing_is_done_twice_and_a_row_that_failed_goes_on(quick: Quick) -> None:
    quick.cgt.failing = "shapes/bsa_5x10"
    assert quick(TWO_ROWS) == 1
    text = (quick.out / "table.md").read_text()
    assert "| Early | failed (50.88) |" in text
    assert "| Ours | 21.00" in text
    assert "shapes/bsa_5x10/1 ended with 1: error: it diverged (all of it: " in text
    quick.cgt.failing = ""
    assert quick(TWO_ROWS) == 0
    assert len(quick.calls("transfer")) == 2
    assert all(words[1] == "shapes/bsa_5x10" and "--resume" in words for words in quick.calls("transfer"))
    assert not quick.calls("pretrain") + quick.calls("shards") + quick.calls("features")
    assert "failed" not in (quick.out / "table.md").read_text()
    assert quick(TWO_ROWS) == 0
    assert not quick.cgt.calls


def test_configs_that_say_the_same_share_a_run(quick: Quick) -> None:
    assert quick(AFTER) == 0
    other = AFTER.replace("config: bsa", "config: bsa_5x25")  # what shapes/bsa says, too
    assert quick(other) == 0
    assert not quick.cgt.calls
    bsa = next(line for line in quick.lines() if line["row"] == "BSA")
    assert bsa["config"] == "shapes/bsa_5x25"
    assert quick(AFTER.replace("config: bsa", "config: bsa_5x10")) == 0
    assert len(quick.calls("transfer")) == 2


def test_a_row_begins_at_the_finished_run_that_it_comes_after(quick: Quick) -> None:
    assert quick(AFTER) == 0
    sources = {
        (words[1], words[words.index("--run") + 1].rpartition("/")[2]): words[words.index("--source") + 1]
        for words in quick.calls("transfer")
    }
    runs = quick.out / "runs" / "shapes"
    for seed in ("0", "1"):
        assert sources["shapes/minegan_finetuned", seed] == str(runs / "minegan" / seed)
        assert sources["shapes/minegan", seed] == sources["shapes/bsa", seed] == str(runs / "pretrain")


def test_a_row_whose_source_failed_is_not_begun(quick: Quick) -> None:
    quick.cgt.failing = "shapes/minegan"
    assert quick(AFTER) == 1
    text = (quick.out / "table.md").read_text()
    assert "shapes/minegan_finetuned/0 has no source, for shapes/minegan failed" in text
    assert "| BSA | 31.00" in text
    assert not any(words[1] == "shapes/minegan_finetuned" for words in quick.calls("transfer"))


def test_results_of_other_settings_are_not_taken_for_these(
    quick: Quick, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quick(TWO_ROWS) == 0
    assert quick(TWO_ROWS, "--set", "steps=3") == 2
    assert "has results of other settings (set was [], now ['steps=3'])" in capsys.readouterr().err
    assert not quick.cgt.calls


def test_what_is_set_is_set_in_every_run(quick: Quick) -> None:
    assert quick(TWO_ROWS, "--set", "steps=3") == 0
    assert all("steps=3" in words for words in quick.calls("transfer") + quick.calls("pretrain"))


def test_runs_take_the_gpus_in_turn(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for visible, expected in ((None, ["0", "1", "0"]), ("4,7", ["4", "7", "4"])):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        free = table_runs.devices(3)
        assert [free.get() for _ in range(3)] == expected
        assert table_runs.devices(None).qsize() == 2
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert quick(TWO_ROWS) == 0
    assert quick.cgt.gpus == {"0", "1"}


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    def message_of(*words: str) -> str:
        assert reproduce.main([*words, "--out", str(tmp_path / "never")]) == 2
        assert not (tmp_path / "never").exists()
        return capsys.readouterr().err

    return message_of


def test_the_paper_s_scale_asks_for_all_that_is_missing_at_once(refused: Callable[..., str]) -> None:
    message = refused("table3", "--scale", "paper", "--data", "places365=here", "--source", "anywhere")
    for missing in (
        "--data animalface=...",
        "--reference animalface=...",
        "--reference places365=...",
        "--features inception-tf",
    ):
        assert missing in message
    assert "--data places365=..." not in message
    assert "--source" not in message.replace("--source anywhere", "")


def test_a_scale_that_a_table_does_not_have_is_refused(refused: Callable[..., str]) -> None:
    message = refused("beyond", "--scale", "paper")
    assert "no column of beyond has configs for --scale paper" in message


def test_a_mistyped_table_is_answered_by_the_tables_that_there_are(refused: Callable[..., str]) -> None:
    message = refused("table-2")
    assert "no table 'table-2' (did you mean 'table2'?)" in message
    assert "table1-left" in message
    assert "cifar100" not in message


def test_a_source_that_is_not_there_ends_the_command_before_any_work(refused: Callable[..., str]) -> None:
    assert "there is no model at nowhere" in refused("table2", "--source", "nowhere")


@pytest.mark.parametrize("config", ["digits/bsa", "{folder}/mine.yaml"])
def test_a_row_of_other_pictures_or_of_ones_own_config_is_refused(
    refused: Callable[..., str], tmp_path: Path, config: str
) -> None:
    config = config.format(folder=tmp_path)
    (tmp_path / "mine.yaml").write_text("base: shapes/bsa\nsteps: 3\n", encoding="utf-8")
    row = f"{{name: mine, config: {config}}}"
    column = "{name: FID, score: fid}"
    table = f"title: t\nconfigs: {{shapes: '{{}}'}}\ncolumns: [{column}]\nrows: [{row}]\n"
    (tmp_path / "table.yaml").write_text(table, encoding="utf-8")
    message = refused(str(tmp_path / "table.yaml"))
    assert (
        f"{config}: at --scale shapes the rows of a table name configs that `cgt` ships in shapes/" in message
    )


def test_a_mistake_in_a_setting_ends_the_command_before_any_work(refused: Callable[..., str]) -> None:
    assert "did you mean 'steps'" in refused("table2", "--set", "stesp=3")


@pytest.mark.parametrize("setting", ["seed=7", "data=mine", "eval.metrics=[fid]", "eval.best=kmmd"])
def test_what_a_table_sets_itself_can_not_be_set(refused: Callable[..., str], setting: str) -> None:
    assert f"--set {setting.partition('=')[0]}: the table sets this itself" in refused(
        "table2", "--set", setting
    )


def test_options_that_pretraining_lacks_do_where_nothing_is_pretrained(quick: Quick) -> None:
    ours = TWO_ROWS.replace("config: bsa,", "config: cgantransfer,")
    assert quick(ours, "--set", "method.lambda_r=0.1") == 2
    (source := quick.folder / "source").mkdir()
    (source / "config.json").touch()  # what tells a model's folder
    assert quick(ours, "--set", "method.lambda_r=0.1", "--source", str(source)) == 0


def test_shards_and_a_source_that_are_not_there_are_told_before_any_work(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    inputs = ["--data", str(tmp_path / "none"), "--reference", str(tmp_path / "none"), "--source", "nowhere"]
    message = refused("table2", "--scale", "paper", *inputs, "--features", "inception-tf")
    assert str(tmp_path / "none") in message


def test_drawn_shapes_take_no_pictures(refused: Callable[..., str]) -> None:
    message = refused("table2", "--data", "mine", "--weights", "w")
    assert "--data, --weights: shapes are drawn" in message


def test_a_path_without_a_data_set_is_for_all_others() -> None:
    sets = ["animalface", "places365"]
    assert reproduce.by_dataset(["a=b", "places365=p"], sets) == {"animalface": "a=b", "places365": "p"}
    assert reproduce.by_dataset(["places365=p"], sets) == {"places365": "p"}


@pytest.mark.slow
def test_two_rows_from_drawn_shapes_to_the_written_table(tmp_path: Path) -> None:
    file, out = tmp_path / "bars.yaml", tmp_path / "out"
    file.write_text(TWO_ROWS + "bars: true\n")
    small = [f"--set={value}" for value in ("steps=3", "eval_every=1", "eval.images=40", "batch_size=8")]
    words = [str(file), "--out", str(out), "--seeds", "1", "--images", "40", *small]
    assert reproduce.main(words) == 0
    with (out / "bars.csv").open() as lines:
        rows = {line["row"]: line for line in csv.DictReader(lines)}
    assert set(rows) == {"Early", "Ours"}
    assert rows["Early"]["iterations"] == rows["Ours"]["iterations"]
    assert all(float(row["fid"]) > 0 for row in rows.values())
    assert (out / "bars.png").read_bytes().startswith(b"\x89PNG")
