"""The card of a model folder: what the hub reads of it, and that it says what is known and no more."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from cgt.models.biggan import Generator
from cgt.models.card import card
from cgt.models.folder import save_model
from tests import tiny

TRANSFER = {
    "config": "shapes/bsa",
    "method": "bsa",
    "method_options": {"start": "nearest"},
    "source": "runs/source/latest/model",
    "source_generator_sha256": "ab" * 32,
    "old_classes": "as the source makes them, to the bit",
    "data": "shards/new",
    "step": 250,
    "scores": {"fid": 10.0523, "kmmd": 0.153},
    "measured": {"data": "shards/all", "features": "features", "generated_pictures": 5000},
}
CONVERTED = {"format": "biggan-pytorch", "files": {"G_ema.pth": "cd" * 32}, "training": {"itr": 7}}


@pytest.fixture(scope="module")
def generator() -> Generator:
    generator = tiny.source(tiny.PER_LAYER).generator
    generator.append(generator.new_class_bank(tiny.NEW))
    return generator.eval()


def front_matter(text: str) -> dict[str, Any]:
    values = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(values, dict)
    return values


def section(text: str, title: str) -> str:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_hub_is_told_the_library_the_task_and_the_method(generator: Generator) -> None:
    values = front_matter(card(generator, TRANSFER))
    assert values["library_name"] == "cgt"
    assert values["pipeline_tag"] == "unconditional-image-generation"
    assert {"biggan", "transfer-learning", "bsa"} <= set(values["tags"])
    assert "transfer-learning" not in front_matter(card(generator, CONVERTED))["tags"]


@pytest.mark.parametrize("licence", ["cc-by-4.0", "My own: see #1", "yes", '"', "a\nb: c"])
def test_a_licence_that_is_known_is_given_to_hub_and_reader(licence: str, generator: Generator) -> None:
    text = card(generator, {**TRANSFER, "license": licence})
    assert front_matter(text)["license"] == licence
    assert f"- model: {' '.join(licence.split())}\n" in section(text, "Licence")


def test_a_licence_that_nobody_gave_is_to_be_filled_in(generator: Generator) -> None:
    text = card(generator, TRANSFER)
    assert front_matter(text)["license"] == "unknown"
    assert "- model: unknown: fill in" in section(text, "Licence")


def test_what_a_transfer_knows_stands_in_its_places(generator: Generator) -> None:
    text = card(generator, TRANSFER)
    training = section(text, "Training")
    for line in ("- method: bsa", "- data: shards/new", "- steps: 250"):
        assert line in training
    assert "- old classes: as the source makes them, to the bit" in training
    scores = section(text, "Metrics")
    assert "| fid | 10.0523 |" in scores
    assert "- generated pictures: 5000" in scores
    assert f"- source generator sha256: {'ab' * 32}" in section(text, "Provenance")
    assert "- bank 1: 3 classes: elk, fox, gnu" in section(text, "Classes")


def test_what_is_not_known_is_not_made_up(generator: Generator) -> None:
    text = card(generator, {})
    assert "not recorded here: fill in" in section(text, "Training")
    assert "None are recorded here" in section(text, "Metrics")
    assert "## Provenance" not in text
    assert "{'itr'" not in card(generator, CONVERTED)
    assert '- training: {"itr": 7}' in section(card(generator, CONVERTED), "Provenance")


def test_classes_that_were_given_up_are_a_limit(generator: Generator) -> None:
    given_up = {**TRANSFER, "old_classes": "given up: ant, bee"}
    assert "given up by the transfer" in section(card(generator, given_up), "Intended use, and limits")
    assert "given up by the transfer" not in card(generator, TRANSFER)


def test_the_way_to_sample_runs_in_the_folder(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "model", generator, provenance=TRANSFER)
    text = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    assert len(code.group(1).splitlines()) <= 10
    monkeypatch.chdir(tmp_path / "model")
    exec(code.group(1), {})
    assert capsys.readouterr().out == "torch.Size([8, 3, 8, 8])\n"


def test_the_grid_that_the_card_shows_is_there(generator: Generator, tmp_path: Path) -> None:
    save_model(tmp_path / "model", generator, provenance={})
    (shown,) = re.findall(r"!\[.*\]\((.*)\)", (tmp_path / "model" / "README.md").read_text(encoding="utf-8"))
    with Image.open(tmp_path / "model" / shown) as picture:
        assert picture.width > picture.height
