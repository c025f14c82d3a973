"""Run folders as a report reads them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cgt.cli import main
from cgt.config import dump, load
from cgt.errors import UserError
from cgt.report.assemble import read_groups
from cgt.report.blocks import Table, Words
from cgt.report.changes import changes
from cgt.report.curves import POINTS, averaged, scores
from cgt.report.paper import cells_of
from cgt.report.runs import ReadRun, read_run
from cgt.training.settings import TransferConfig
from cgt.transfer.bsa import METHOD as BSA

Own = Callable[[str], Path]


def test_runs_that_differ_by_the_seed_alone_go_together(runs: Path) -> None:
    groups = read_groups([runs / name for name in ("ours/1", "bsa", "ours/0")])
    assert [group.name for group in groups] == ["shapes/cgantransfer", "shapes/bsa"]
    assert [run.seed for run in groups[0].runs] == [0, 1]


def test_a_second_run_by_one_seed_is_no_further_seed(runs: Path, own: Own) -> None:
    groups = read_groups([runs / "ours/0", runs / "ours/1", own("ours/0")])
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 1], [0]]
    assert groups[1].name == "ours-0"


def test_runs_of_one_config_with_another_option_are_called_by_their_folders(own: Own) -> None:
    first, second = own("ours/0"), own("ours/1")
    config = (second / "config.yaml").read_text()
    (second / "config.yaml").write_text(config.replace("lambda_s: 0.01", "lambda_s: 0.5"))
    assert [group.name for group in read_groups([first, second])] == ["ours-0", "ours-1"]


def test_a_half_written_last_line_is_as_if_it_were_not_there(own: Own) -> None:
    run = own("bsa")
    whole = read_run(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss_gen')
    assert read_run(run).records == whole.records
    assert read_run(run).damaged_lines == 0


def test_a_damaged_line_within_is_left_out_and_counted(own: Own) -> None:
    run = own("bsa")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([lines[0], "[1]", "\0\0", *lines[1:]]))
    read = read_run(run)
    assert read.damaged_lines == 2
    assert len(read.records) == len(lines)


def test_the_best_step_is_that_of_the_score_which_the_run_was_chosen_by() -> None:
    scores = [(2, 9.0, 0.5), (4, 3.0, 0.7), (6, float("nan"), 0.1), (8, 5.0, 0.2)]
    records = [{"step": float(step), "fid": fid, "kmmd": kmmd} for step, fid, kmmd in scores]
    for best, step in (("fid", 4), ("kmmd", 6)):
        config = {"eval": {"best": best, "metrics": ["fid", "kmmd"]}}
        found = ReadRun(Path(), config, {}, records).best()
        assert found is not None
        assert found["step"] == step


def test_a_line_over_seeds_has_their_mean_and_range_and_is_thinned() -> None:
    def run(values: list[float]) -> ReadRun:
        return ReadRun(Path(), {}, {}, [{"step": float(i), "x": value} for i, value in enumerate(values)])

    assert averaged([run([1.0, 2.0]), run([3.0])], "x") == [(0, 2.0, 1.0, 3.0), (1, 2.0, 2.0, 2.0)]
    assert len(averaged([run([0.0] * 1000)], "x")) <= POINTS


def test_places_are_found_from_the_folders_that_a_run_lies_in(own: Own) -> None:
    run = own("bsa")
    (run.parent / "shards" / "new").mkdir(parents=True)
    read = read_run(run)
    assert read.located("shards/new") == run.parent / "shards" / "new"
    assert read.located("shards/old") is None
    assert read.located("https://example.org/shards") is None


@pytest.mark.parametrize(
    ("config", "score", "paper"),
    [
        ("places365/ablation_no_l1", "fid", 84.7),
        ("animalface/bsa", "iterations", 4800),
        ("cifar100/cgantransfer_20x100", "fid", 40.04),
    ],
)
def test_a_config_is_found_in_the_papers_tables(config: str, score: str, paper: float) -> None:
    assert paper in [cell.paper for cell in cells_of(config) if cell.score == score and cell.scale == "paper"]
    assert list(cells_of("no/config")) == []


def test_a_run_says_which_shipped_config_it_was_started_with(runs: Path, own: Own) -> None:
    assert read_run(runs / "bsa").config_name == "shapes/bsa"
    run = own("bsa")
    provenance = json.loads((run / "provenance.json").read_text())
    del provenance["config"]  # as earlier ones are, which have the command alone
    provenance["command"] = ["cgt", "transfer", "places365/bsa", "--source", "x"]
    (run / "provenance.json").write_text(json.dumps(provenance))
    assert read_run(run).config_name == "places365/bsa"
    (run / "provenance.json").write_text(json.dumps(provenance | {"config": "my/own.yaml"}))
    assert read_run(run).config_name is None


def test_a_run_that_departs_from_its_config_says_where(runs: Path, own: Own) -> None:
    told = changes(read_run(runs / "ours" / "1"))
    assert {"steps=3", "batch_size=8", "eval_every=2"} <= set(told)
    assert not {key.partition("=")[0] for key in told} & {"seed", "data.shards", "eval.data", "save_every"}
    assert "generator.channels=[12, 8, 8]" in changes(read_run(runs / "source"))
    run = own("bsa")
    whole = yaml.safe_load((run / "config.yaml").read_text())
    shipped = load(TransferConfig.of(BSA), "shapes/bsa", [f"data={whole['data']['shards']}", "seed=7"])
    (run / "config.yaml").write_text(dump(shipped))
    assert changes(read_run(run)) == []
    (run / "config.yaml").write_text(dump(shipped).replace("beta2: 0.99", "beta2: 0.5"))
    assert changes(read_run(run)) == ["optim.beta2=0.5"]


def test_numbers_beside_the_papers_are_marked_where_the_run_is_changed(runs: Path) -> None:
    section = scores(read_groups([runs / "bsa"]))
    (table,) = [block for block in section.blocks if isinstance(block, Table) and "paper" in block.head]
    assert {row[0] for row in table.rows} == {"shapes/bsa (changed)"}
    said = section.blocks[-1]
    assert isinstance(said, Words)
    assert said.text.startswith("shapes/bsa is not shapes/bsa as it is shipped: steps=3, batch_size=8, ")
    assert "eval.features" not in said.text


def test_what_is_no_run_is_refused_by_what_it_is(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UserError, match="does not exist"):
        read_run(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"pictures is not a run folder: it has no config\.yaml"):
        read_run(tmp_path / "pictures")
    with pytest.raises(UserError, match="It is a model folder; name the run that wrote it"):
        read_run(runs / "bsa" / "latest" / "model")
    with pytest.raises(UserError, match="name each run once"):
        read_groups([runs / "bsa", runs / "ours" / ".." / "bsa"])


@pytest.mark.parametrize("content", ["a: [", "just text", "\0"])
def test_a_damaged_config_is_refused_with_the_runs_name(own: Own, content: str) -> None:
    run = own("bsa")
    (run / "config.yaml").write_text(content)
    with pytest.raises(UserError, match="bsa can't be read"):
        read_run(run)


def test_outputs_are_checked_before_any_work(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def message(*words: object) -> str:
        assert main(["report", str(runs / "bsa"), *map(str, words)]) == 2
        return capsys.readouterr().err

    page = tmp_path / "page.html"
    page.write_text("mine")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "thesis.txt").write_text("mine")
    assert "suffix .html" in message("--out", tmp_path / "page.pdf")
    assert "exists already" in message("--out", page)
    assert "no figures.json" in message("--out", page, "--overwrite", "--figures", tmp_path / "figures")
    assert "which the command reads" in message(
        "--out", tmp_path / "new.html", "--overwrite", "--figures", runs / "bsa" / "samples"
    )
    assert page.read_text() == "mine"
    assert (tmp_path / "figures" / "thesis.txt").read_text() == "mine"
    shutil.rmtree(tmp_path / "figures")
