"""The page: what is on it, and that it is whole, safe and readable without anything else."""

import base64
import io
import itertools
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from cgt.cli import main
from cgt.models.folder import load_generator
from cgt.report import page as page_module
from cgt.report.assemble import SECTIONS, read_groups, sections_of
from cgt.report.blocks import Plot, Plots, Section, Sheet, Sheets, Strip, Table, Words
from cgt.report.models import Shown, drawn, shown
from cgt.report.page import rendered, write_page
from cgt.report.pictures import identity
from cgt.report.propagated import layers

Own = Callable[[str], Path]


class Outline(HTMLParser):
    """The tags of a page, and the text of its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def of_all(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The page of all runs, by the verb, and the folder of its figures."""
    out = tmp_path_factory.mktemp("report")
    words = [str(runs / name) for name in ("source", "ours/0", "ours/1", "bsa")]
    assert main(["report", *words, "--out", str(out / "a.html"), "--figures", str(out / "figures")]) == 0
    return (out / "a.html").read_text(encoding="utf-8"), out / "figures"


def text_of(groups_of: list[Path]) -> str:
    return rendered("title", list(sections_of(read_groups(groups_of))))


def one_shown(run: Path) -> Shown:
    return shown(read_groups([run])[0])


def test_every_section_is_there_and_the_outline_is_in_order(of_all: tuple[str, Path]) -> None:
    tags = Outline(of_all[0]).tags
    ids = [attributes["id"] for tag, attributes in tags if tag == "section"]
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert len(ids) == SECTIONS
    assert links[1:] == [f"#{name}" for name in ids]
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_it_needs_nothing_else(of_all: tuple[str, Path]) -> None:
    for tag, attributes in Outline(of_all[0]).tags:
        assert tag not in ("script", "iframe", "object")
        for name in ("src", "href", "xlink:href", "action", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, value)
    assert not re.search(r"url\((?!#)|@import", of_all[0])


def test_everything_that_is_seen_is_said_and_no_name_stands_twice(of_all: tuple[str, Path]) -> None:
    tags = Outline(of_all[0]).tags
    assert ("html", {"lang": "en"}) in tags
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    drawings = [a for tag, a in tags if tag == "svg" and a.get("aria-hidden") != "true"]
    assert drawings
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in drawings)
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_picture_can_be_decoded(of_all: tuple[str, Path]) -> None:
    sources = [attributes["src"] or "" for tag, attributes in Outline(of_all[0]).tags if tag == "img"]
    assert len(sources) > 20
    for source in sources:
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
            image.load()
            assert image.width % image.height == 0


def test_drawings_have_colours_of_the_theme_alone(of_all: tuple[str, Path]) -> None:
    for name in ("curves", "iterations"):
        [section] = re.findall(rf'<section id="{name}".*?</section>', of_all[0], re.DOTALL)
        assert "var(--series-1)" in section
        assert "var(--ink)" in section
        assert not re.search(r"#[0-9a-f]{6}\b", section)


def test_old_classes_are_told_to_be_identical_only_where_they_are(runs: Path, own: Own) -> None:
    def result(run: Path) -> list[str]:
        table = identity([one_shown(run)]).blocks[0]
        assert isinstance(table, Table)
        return list(table.rows[0][1:])

    tensors, pictures, said = result(runs / "ours/0")
    assert said == "identical to the bit"
    assert pictures == "2 of 2 classes equal"
    run = own("ours/0")
    file = (run / "best").resolve() / "model" / "generator.safetensors"
    changed = load_file(file)
    changed["to_rgb.bias"] += 0.1
    save_file(changed, file)
    after, pictures, said = result(run)
    assert said.startswith("CHANGED")
    assert pictures == "0 of 2 classes equal"
    assert after != tensors


def test_the_scores_of_a_checkpoint_are_those_of_its_model(runs: Path) -> None:
    one = one_shown(runs / "ours/0")
    assert one.bank is not None
    ours, model = one.bank.tables(), one.generator.last_bank.tables()
    for own, stored in zip((*ours.scale, *ours.shift), (*model.scale, *model.shift), strict=True):
        torch.testing.assert_close(own, stored)


def test_the_last_picture_layer_by_layer_is_the_class_itself(runs: Path) -> None:
    one = one_shown(runs / "ours/0")
    sheets = layers([one]).blocks[-1]
    assert isinstance(sheets, Sheets)
    for i, sheet in enumerate(sheets.sheets):
        y = one.generator.first_of_last_bank + i
        for latent, strip in enumerate(sheet.strips):
            itself = drawn(one.generator, one.latents(latent + 1)[-1:], [y])
            assert (strip.x_K3HW[-1].int() - itself[0].int()).abs().max() <= 1
    assert one.bank is not None
    assert len(sheets.sheets[0].strips[0].x_K3HW) == len(one.bank.similarity())


def test_the_pictures_are_those_of_the_model_and_the_shards(runs: Path) -> None:
    sections = {section.id: section for section in sections_of(read_groups([runs / "bsa"]))}
    sheets = sections["new-classes"].blocks[-1]
    assert isinstance(sheets, Sheets)
    assert [sheet.title for sheet in sheets.sheets] == ["red-plus", "gold-disk"]
    real, generated = sheets.sheets[0].strips
    assert real.label == "real"
    assert len(real.x_K3HW) == 4
    generator = load_generator(runs / "bsa" / "best" / "model")
    y = generator.classes.index("red-plus")
    assert torch.equal(generated.x_K3HW, drawn(generator, one_shown(runs / "bsa").latents(6), [y] * 6))


def test_a_run_without_checkpoints_has_what_there_is_and_says_what_is_missing(own: Own) -> None:
    run = own("ours/0")
    for name in ("checkpoints", "best", "latest"):
        shutil.rmtree(run / name) if (run / name).is_dir() and not (run / name).is_symlink() else (
            run / name
        ).unlink()
    text = text_of([run])
    assert "Without a checkpoint" in text
    assert 'id="curves"' in text
    assert "<img" not in text
    assert "<svg" in text


def test_a_run_that_has_only_begun_has_a_page(own: Own) -> None:
    run = own("source")
    (run / "metrics.jsonl").unlink()
    shutil.rmtree(run / "checkpoints")
    assert "there are no curves yet" in text_of([run])


def test_what_is_gone_since_is_named(own: Own) -> None:
    run = own("bsa")
    gone = run.parent / "gone"
    provenance = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps(provenance | {"source": f"{gone}/model"}))
    config = (run / "config.yaml").read_text()
    config = re.sub(r"(shards|data|features): /.*", rf"\1: {gone}", config)
    (run / "config.yaml").write_text(config)
    text = text_of([run])
    assert "the source is not there any more" in text
    assert "No real pictures of red-plus, gold-disk" in text
    assert f"the training pictures, {gone}, are not there any more" in text


def test_a_damaged_state_leaves_out_the_scores_alone(own: Own) -> None:
    run = own("ours/0")
    for file in (run / "best").resolve().glob("state/*.safetensors"):
        file.write_bytes(b"no tensors")
    text = text_of([run])
    assert "can&#39;t be read" in text
    assert "identical to the bit" in text


@pytest.mark.parametrize("file", ["config.json", "generator.safetensors"])
def test_a_damaged_model_leaves_out_the_pictures_alone(own: Own, file: str) -> None:
    run = own("bsa")
    ((run / "best").resolve() / "model" / file).write_bytes(b"{")
    text = text_of([run])
    assert "shapes/bsa is not shown: " in text
    assert "<img" not in text
    assert 'aria-label="Curves of' in text


def test_a_source_that_is_damaged_since_leaves_the_page_whole(runs: Path, own: Own) -> None:
    run = own("ours/0")
    shutil.copytree(runs / "source", run.parent / "source", symlinks=True)
    source = (run.parent / "source" / "best").resolve() / "model"
    provenance = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps(provenance | {"source": str(source)}))
    (source / "config.json").write_text("{")
    text = text_of([run])
    assert "the source can&#39;t be read" in text
    assert "<img" in text


def test_other_training_pictures_than_the_runs_are_not_shown_as_its(own: Own) -> None:
    run = own("bsa")
    provenance = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps(provenance | {"data_sha256": "0" * 64}))
    assert "holds other pictures now than the run was trained on" in text_of([run])


def test_a_config_of_another_version_leaves_out_the_neighbours_alone(own: Own) -> None:
    run = own("bsa")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["reader"] = "other"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    text = text_of([run])
    assert "Not shown: data.reader of the run&#39;s config.yaml is not to be read" in text
    assert "<img" in text


def test_runs_of_other_resolutions_stand_beside_each_other(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = ["shards", "build", "shapes", "-", str(tmp_path / "large"), "--classes", "red-disk"]
    assert main([*build, "--size", "32", "--per-class", "4"]) == 0
    words = ["pretrain", "shapes/pretrain", f"data={tmp_path / 'large'}", "steps=2", "batch_size=4"]
    small = ["generator.channels=[12,8,8,8]", "generator.dim_z=6", "discriminator.channels=[8,12]"]
    assert main([*words, *small, "ema.standing_batches=1", "--run", str(tmp_path / "run")]) == 0
    text = text_of([runs / "source", tmp_path / "run"])
    assert "16 px" in text
    assert "32 px" in text
    assert "Not shown: the run was not measured" in text


def test_names_are_text_wherever_they_stand() -> None:
    nasty = '<script>alert("x")</script> & $\\frac{1}{0'
    pictures = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)

    def draw(axes: object) -> None:
        axes.set_xlabel(nasty)  # type: ignore[attr-defined]

    section = Section(
        "names",
        nasty,
        [
            Words(nasty),
            Table(nasty, [nasty], [[nasty]]),
            Plots([Plot("plot", nasty, nasty, draw)]),
            Sheets([Sheet("sheet", nasty, [Strip(nasty, pictures)], nasty)]),
        ],
    )
    text = rendered(nasty, [section])
    assert "<script" not in text
    assert 'alt="&lt;script&gt;' in text


def test_a_page_that_would_be_too_large_has_smaller_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = torch.randint(0, 256, (4, 3, 128, 128), dtype=torch.uint8)
    section = Section("noise", "noise", [Sheets([Sheet("a", "noise", [Strip("noise", noise)])])])
    large = write_page(tmp_path / "page.html", "noise", [section])
    monkeypatch.setattr(page_module, "LARGEST", large - 1000)
    assert write_page(tmp_path / "page.html", "noise", [section]) < large - 1000


def test_figures_are_files_too(of_all: tuple[str, Path]) -> None:
    folder = of_all[1]
    index = json.loads((folder / "figures.json").read_text())
    assert {path.stem for path in folder.glob("*.png")} == set(index)
    assert {"curve-fid", "iterations", "new-0", "similarity-0-1"} <= set(index)
    assert (folder / "curve-fid.svg").read_text().startswith("<?xml")
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 8
