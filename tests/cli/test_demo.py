"""`cgt demo`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cgt.cli import main
from cgt.models.folder import find_model, load_generator


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_it_never_clears_what_no_demo_wrote(
    overwrite: list[str], tmp_path: Path, refusal: Callable[[int], str]
) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "thesis.txt").write_text("years of work")
    message = refusal(main(["demo", "--out", str(tmp_path), *overwrite]))
    assert ("holds thesis.txt" if overwrite else "exists already") in message
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_file_in_its_place_stays(tmp_path: Path, refusal: Callable[[int], str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refusal(main(["demo", "--out", str(tmp_path / "file"), "--overwrite"]))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize(("data", "old", "new"), [("shapes", 15, 5), ("digits", 8, 2)])
def test_it_ends_with_recognisable_new_classes_beside_the_old_ones(
    data: str, old: int, new: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--data", data, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"all {old} old classes: identical to the source's, to the bit" in printed
    rows = json.loads((out / "results" / "table.json").read_text())
    assert [row["method"] for row in rows] == ["cgantransfer", "bsa"]
    # Guessing is 1 in 20 or 1 in 10.
    assert all(row["accuracy"] > 0.6 for row in rows)
    assert len(load_generator(find_model(out / "cgantransfer")).classes) == old + new
    assert len(list((out / "results").glob("*.png"))) == 4
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"{old} of {old} classes equal" in page
    assert len(page.encode()) < 5_000_000
