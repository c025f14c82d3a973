"""`cgt shards` as a person meets it: exit codes, messages, tables."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from cgt.cli import main
from cgt.data.manifest import MAX_SIZE
from cgt.data.write import BuildOptions
from cgt.errors import UserError
from tests.data.miniatures import cifar100_archive, folder_input


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["shards", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_build_inspect_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    code, text, _ = run(
        capsys, "build", "shapes", "-", out, "--per-class", 2, "--size", 8, "--shard-mb", "0.02"
    )
    assert code == 0
    assert "40 pictures of 20 classes, 8 px" in text
    code, text, _ = run(capsys, "inspect", out)
    assert code == 0
    assert "gold-star" in text
    assert "000000.tar" in text
    assert "source shapes" in text
    code, text, _ = run(capsys, "verify", out)
    assert code == 0
    assert re.search(r": 40 pictures in [2-9] shards, all sound$", text.strip())


def test_build_from_an_archive_with_every_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, out = cifar100_archive(tmp_path), tmp_path / "out"
    (tmp_path / "names.txt").write_text("bear\napple\n")
    options = ["--split", "all", "--classes", tmp_path / "names.txt", "--per-class", 2, "--size", 16]
    code, _, _ = run(capsys, "build", "cifar100", archive, out, *options, "--seed", 3, "--workers", 2)
    assert code == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["classes"] == ["bear", "apple"]
    assert manifest["size"] == 16
    assert sum(shard["samples"] for shard in manifest["shards"]) == 4
    assert manifest["build"]["seed"] == 3


def test_files_that_are_passed_over_are_counted_by_suffix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder_input(tmp_path / "in")
    for name in ("cat/a.tif", "cat/b.TIF", "dog/c.gif", "dog/readme", "dog/.hidden", "list.csv"):
        (root / name).touch()
    words = ("build", "folder", root, tmp_path / "out", "--size", 8)
    code, _, said = run(capsys, *words)
    assert code == 0
    assert "passed over 4 files" in said
    assert said.rstrip().endswith(": 1 .gif, 2 .tif, 1 without a suffix.")
    (root / "owl").mkdir()
    (root / "owl/a.heic").touch()
    code, _, said = run(capsys, *words, "--overwrite")
    assert code == 2
    assert "no pictures of 'owl'" in said
    assert "1 .heic" in said


def test_unreadable_pictures_and_duplicates_are_counted_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder_input(tmp_path / "in")
    (root / "cat/broken.png").write_bytes(b"no picture")
    (root / "dog/again.png").write_bytes((root / "cat/0.png").read_bytes())
    code, _, said = run(capsys, "build", "folder", root, tmp_path / "out", "--size", 8)
    assert code == 0
    (line,) = [line for line in said.splitlines() if "report.json" in line]
    assert "1 unreadable picture left out, 1 duplicate kept" in line
    assert run(capsys, "verify", tmp_path / "out")[0] == 0


@pytest.mark.parametrize("size", [3, MAX_SIZE + 1, 66000])
def test_sizes_that_no_shard_can_have_are_refused(
    size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, _, said = run(capsys, "build", "shapes", "-", out, "--size", size, "--jpeg-quality", 90)
    assert code == 2
    assert "'--size'" in said
    assert str(4 if size < 4 else MAX_SIZE) in said
    with pytest.raises(UserError, match=f"{size} px wide: give a size from 4 to {MAX_SIZE}"):
        BuildOptions("shapes", size=size)


def test_options_of_the_build_stand_in_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = folder_input(tmp_path / "in", {"cat": 20, "dog": 20}), tmp_path / "out"
    options = ("--filter", "box", "--jpeg-quality", 90, "--holdout", 0.5, "--part", "holdout")
    code, _, _ = run(capsys, "build", "folder", root, out, "--size", 8, *options, "--task", "1/2")
    assert code == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["encoding"] == "jpg"
    recorded = {key: manifest["build"][key] for key in ("filter", "jpeg_quality", "holdout", "part", "task")}
    assert list(recorded.values()) == ["box", 90, 0.5, "holdout", "1/2"]


def test_nothing_is_said_where_nothing_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("build", "folder", folder_input(tmp_path / "in"), tmp_path / "out", "--size", 8)
    assert "passed over" not in run(capsys, *words)[2]


def test_existing_output_needs_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("build", "shapes", "-", tmp_path / "out", "--per-class", 1, "--size", 8)
    assert run(capsys, *words)[0] == 0
    code, _, text = run(capsys, *words)
    assert code == 2
    assert "--overwrite" in text
    assert run(capsys, *words, "--overwrite")[0] == 0


def test_verify_lists_damage_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    run(capsys, "build", "shapes", "-", out, "--per-class", 1, "--size", 8)
    (out / "000000.tar").unlink()
    code, text, errors = run(capsys, "verify", out)
    assert code == 1
    assert text == "000000.tar is missing\n"
    assert "damaged in 1 place" in errors


def test_inspect_writes_a_sheet_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, sheet, facts = tmp_path / "out", tmp_path / "sheet.png", tmp_path / "facts.json"
    run(capsys, "build", "shapes", "-", out, "--per-class", 3, "--size", 8)
    words = ("inspect", out, "--sheet", sheet, "--per-class", 2)
    code, text, said = run(capsys, *words, "--json", facts)
    assert (code, "gold-star" in text, "pictures of 20 classes" in said) == (0, True, True)
    with Image.open(sheet) as image:
        assert image.height == 20 * 66 + 2
        assert image.width > 2 * 66
    manifest = json.loads((out / "manifest.json").read_text())
    written = json.loads(facts.read_text())
    assert written["pictures"] == 60
    assert written["classes"] == dict.fromkeys(manifest["classes"], 3)
    assert written["build"] == manifest["build"]
    assert run(capsys, *words)[0] == 2
    code, text, _ = run(capsys, *words, "--json", "-", "--overwrite")
    assert (code, json.loads(text)) == (0, written)


def test_merge_tells_of_tasks_that_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2, 3):
        words = ("build", "shapes", "-", tmp_path / str(number), "--per-class", 2, "--task", f"{number}/3")
        assert run(capsys, *words)[0] == 0
    code, _, said = run(capsys, "merge", tmp_path / "two", tmp_path / "1", tmp_path / "3")
    assert (code, "has the tasks 1/3+3/3 of a build: the pictures of others are missing" in said) == (0, True)
    _, _, said = run(capsys, "merge", tmp_path / "all", *(tmp_path / str(number) for number in (1, 2, 3)))
    assert "missing" not in said


def test_merge_and_split_say_what_they_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [tmp_path / "part-1", tmp_path / "part-2"]
    for number, part in enumerate(parts, 1):
        run(capsys, "build", "shapes", "-", part, "--per-class", 5, "--size", 8, "--task", f"{number}/2")
    out, one, two = (tmp_path / name for name in ("out", "one", "two"))
    code, text, _ = run(capsys, "merge", out, *parts)
    assert (code, text) == (0, f"{out}: 100 pictures of 20 classes, 8 px, 2 shards, 0.2 MB\n")
    code, text, _ = run(capsys, "split", out, one, two, "--share", 0.4, "--seed", 1)
    assert code == 0
    assert [line.partition(" of ")[0] for line in text.splitlines()] == [
        f"{one}: 40 pictures",
        f"{two}: 60 pictures",
    ]
    code, text, _ = run(capsys, "split", out, one, two, "--classes", "gold-star,red-square", "--overwrite")
    assert (code, text.startswith(f"{one}: 10 pictures of 2 classes")) == (0, True)
    assert run(capsys, "verify", two, "--workers", 2)[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("build", "shape", "-", "OUT"), "did you mean 'shapes'"),
        (("build", "shapes", "IN", "OUT"), "write - in place of"),
        (("build", "folder", "-", "OUT"), "needs an input"),
        (("build", "folder", "absent", "OUT"), "there is no absent"),
        (("build", "folder", "IN", "OUT", "--split", "test"), "no split 'test'"),
        (("build", "folder", "IN", "OUT", "--classes", "cat,cat"), "'cat' stands twice"),
        (("build", "folder", "IN", "OUT", "--classes", "cat,cow"), "no class 'cow'"),
        (("build", "folder", "IN", "OUT", "--classes", "absent.txt"), "no file absent.txt"),
        (("build", "folder", "IN", "OUT", "--per-class", "0"), "--per-class"),
        (("build", "folder", "IN", "OUT", "--size", "big"), "--size"),
        (("build", "folder", "BROKEN", "OUT", "--strict"), "cat/broken.png can't be read"),
        (("build", "folder", "IN", "OUT", "--filter", "nearest"), "--filter"),
        (("build", "folder", "IN", "OUT", "--jpeg-quality", "101"), "--jpeg-quality"),
        (("build", "folder", "IN", "OUT", "--holdout", "1.5"), "between 0 and 1"),
        (("build", "folder", "IN", "OUT", "--part", "holdout"), "say which share"),
        (("build", "folder", "IN", "OUT", "--task", "3/2"), "write I/N"),
        (("inspect", "absent"), "no shard folder absent"),
        (("inspect", "IN"), "no manifest.json"),
        (("verify", "IN"), "no manifest.json"),
        (("inspect", "IN", "--sheet", "OUT"), "written as .png"),
        (("merge", "OUT", "IN"), "two shard folders or more"),
        (("merge", "OUT", "IN", "absent"), "no manifest.json"),
        (("split", "IN", "OUT", "OUT2"), "with --classes or with --share"),
        (("split", "IN", "OUT", "OUT2", "--classes", "a", "--share", "0.5"), "not with both"),
        (("split", "IN", "OUT", "OUT2", "--share", "2"), "between 0 and 1"),
        (("split", "IN", "OUT", "OUT", "--share", "0.5"), "name two folders"),
    ],
)
def test_mistakes_exit_with_2_say_what_is_wrong_and_leave_nothing(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_input(tmp_path / "IN")
    folder_input(tmp_path / "BROKEN")
    (tmp_path / "BROKEN/cat/broken.png").write_bytes(b"no picture")
    places = {name: str(tmp_path / name) for name in ("IN", "BROKEN", "OUT", "OUT2")}
    code, _, text = run(capsys, *(places.get(word, word) for word in words))
    assert code == 2
    assert message in text
    assert "Traceback" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["BROKEN", "IN"]
