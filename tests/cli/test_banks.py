"""`cgt banks` as a person meets it: tables, JSON, folders, refusals."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from cgt.cli import main
from cgt.files import sha256
from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.models.folder import load_generator, load_model, save_model
from tests import tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source; `one` and `two`, which extend it; `more`, which extends `one`; and a source of its own."""
    root = tmp_path_factory.mktemp("models")
    pair = tiny.source(tiny.HIERARCHICAL)
    save_model(root / "source", pair.generator, pair.discriminator, provenance={"format": "none"})
    _extend(root / "source", root / "one", ("elk", "fox"))
    _extend(root / "source", root / "two", ("gnu",))
    _extend(root / "one", root / "more", ("hen",))
    other = Generator(tiny.HIERARCHICAL, tiny.RESOLUTION, tiny.OLD).eval()
    save_model(root / "stranger", other, provenance={})
    return root


def _extend(source: Path, out: Path, classes: Sequence[str]) -> None:
    """What a transfer leaves: one more bank, and a discriminator of the new classes."""
    torch.manual_seed(len(classes))
    generator, _ = load_model(source)
    bank = generator.new_class_bank(classes)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.normal_(0, 0.4)
    generator.append(bank)
    discriminator = Discriminator(tiny.DISCRIMINATOR, tiny.RESOLUTION, classes).eval()
    provenance = {"method": "bsa", "source": str(source), "step": 5}
    save_model(out, generator, discriminator, provenance=provenance)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["banks", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def assert_same(folder: Path, origins: dict[str, Path]) -> None:
    """That a folder has these classes, each as it is in the folder that it comes from."""
    generator = load_generator(folder)
    assert generator.classes == list(origins)
    z_NZ = torch.randn(4, generator.dim_z)
    loaded = {place: load_generator(place) for place in set(origins.values())}
    for y, (name, place) in enumerate(origins.items()):
        origin = loaded[place]
        expected = origin(z_NZ, torch.full((4,), origin.classes.index(name)))
        assert torch.equal(generator(z_NZ, torch.full((4,), y)), expected), name


def test_show_has_a_row_for_each_bank_and_the_provenance(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, _ = run(capsys, "show", models / "more")
    assert code == 0
    rows = {row[0]: row[1:] for line in text.splitlines() if (row := line.split())}
    assert rows["0"][:6] == ["embedding", "4", "ant,", "bee,", "cat,", "dog"]
    assert rows["1"][:4] == ["tables", "2", "elk,", "fox"]
    for line in ("discriminator: of hen", "method: bsa", f"source: {models / 'one'}", "step: 5"):
        assert line in text.splitlines()


def test_show_counts_every_number_of_the_file_once(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, shown = run(capsys, "show", models / "more", "--json", "-")
    facts = json.loads(text)
    assert (code, "embedding" in shown) == (0, True)
    stored = sum(tensor.numel() for tensor in load_model(models / "more")[0].state_dict().values())
    assert sum(bank["numbers"] for bank in facts["banks"]) + facts["other_numbers"] == stored
    assert [(bank["bank"], bank["kind"], bank["classes"]) for bank in facts["banks"]] == [
        (0, "embedding", list(tiny.OLD)),
        (1, "tables", ["elk", "fox"]),
        (2, "tables", ["hen"]),
    ]
    assert (facts["discriminator"], facts["provenance"]["step"]) == (["hen"], 5)
    assert run(capsys, "show", models / "stranger", "--json", tmp_path / "facts.json")[0] == 0
    assert json.loads((tmp_path / "facts.json").read_text())["discriminator"] is None
    assert run(capsys, "show", models / "stranger", "--json", tmp_path / "facts.json")[0] == 2


@pytest.mark.parametrize("choice", [("--bank", 1), ("--classes", "fox,elk")])
def test_remove_leaves_the_other_classes_and_a_discriminator_of_them(
    choice: tuple[str, object], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more, out = models / "more", tmp_path / "out"
    code, text, said = run(capsys, "remove", more, out, *choice)
    assert (code, said) == (0, "")
    assert text.startswith(f"{out}: 5 classes in 2 banks, ")
    assert_same(out, dict.fromkeys([*tiny.OLD, "hen"], more))
    assert (out / "discriminator.safetensors").read_bytes() == (
        more / "discriminator.safetensors"
    ).read_bytes()
    provenance = json.loads((out / "config.json").read_text())["provenance"]
    assert provenance["removed"] == ["elk", "fox"]
    assert provenance["sources"] == [
        {"model": str(more), "generator_sha256": sha256(more / "generator.safetensors")}
    ]


def test_remove_leaves_out_a_discriminator_of_the_classes_that_go_and_says_so(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, text, said = run(capsys, "remove", models / "one", out, "--bank", 1)
    assert (code, text.startswith(f"{out}: 4 classes in 1 bank, ")) == (0, True)
    assert f"{out} has no discriminator (that of {models / 'one'} knows the classes removed)" in said
    assert not (out / "discriminator.safetensors").exists()
    assert (out / "generator.safetensors").read_bytes() == (
        models / "source" / "generator.safetensors"
    ).read_bytes()


def test_an_embedding_can_be_removed(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "remove", models / "more", tmp_path / "out", "--bank", 0)[0] == 0
    assert_same(tmp_path / "out", dict.fromkeys(["elk", "fox", "hen"], models / "more"))


def test_merge_makes_one_model_of_several(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more, two, out = models / "more", models / "two", tmp_path / "out"
    code, text, said = run(capsys, "merge", out, more, two)
    assert (code, text.startswith(f"{out}: 8 classes in 4 banks, ")) == (0, True)
    assert "the models don't all have the same), so no transfer can start from it" in said
    assert_same(out, {**dict.fromkeys([*tiny.OLD, "elk", "fox", "hen"], more), "gnu": two})
    assert not (out / "discriminator.safetensors").exists()
    sources = json.loads((out / "config.json").read_text())["provenance"]["sources"]
    assert sources == [
        {"model": str(place), "generator_sha256": sha256(place / "generator.safetensors")}
        for place in (more, two)
    ]


def test_merge_keeps_a_discriminator_that_all_have(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, other, out = models / "source", tmp_path / "other", tmp_path / "out"
    generator, _ = load_model(models / "two")
    discriminator = load_model(source)[1]
    save_model(other, generator, discriminator, provenance={})
    code, _, said = run(capsys, "merge", out, source, other)
    assert (code, said) == (0, "")
    assert load_model(out)[1] is not None


def test_run_folders_are_taken_and_existing_outputs_replaced_only_when_told(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(models / "one", tmp_path / "run" / "latest" / "model")
    shutil.copytree(models / "source", tmp_path / "out")
    for words in (
        ("remove", tmp_path / "run", tmp_path / "out", "--bank", 0),
        ("merge", tmp_path / "out", tmp_path / "run", models / "two"),
    ):
        code, _, said = run(capsys, *words)
        assert (code, "exists already" in said) == (2, True)
        assert run(capsys, *words, "--overwrite")[0] == 0
    assert load_generator(tmp_path / "out").classes == [*tiny.OLD, "elk", "fox", "gnu"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "absent"), "there is no model at absent"),
        (("remove", "more", "OUT"), "with --bank or with --classes"),
        (("remove", "more", "OUT", "--bank", "1", "--classes", "hen"), "not with both"),
        (("remove", "more", "OUT", "--bank", "3"), "no bank 3: the banks are numbered from 0 to 2"),
        (("remove", "source", "OUT", "--bank", "0"), "bank 0, with ant, bee, cat, dog, is the only one"),
        (("remove", "more", "OUT", "--classes", "fox"), "bank 1 has elk, fox: name elk too"),
        (("remove", "more", "OUT", "--classes", "fox,elk,hen"), "one goes at a time: bank 1 has elk, fox"),
        (("remove", "more", "OUT", "--classes", "fax"), "has no class 'fax' (did you mean 'fox'?)"),
        (("remove", "more", "more", "--bank", "1", "--overwrite"), "it is"),
        (("merge", "OUT", "one"), "name two models or more"),
        (("merge", "OUT", "one", "stranger"), "linear.weight differs"),
        (("merge", "one", "one", "two", "--overwrite"), "it is"),
    ],
)
def test_mistakes_exit_with_2_say_what_is_wrong_and_write_nothing(
    words: tuple[str, ...], message: str, models: Path, tmp_path: Path, refusal: Callable[[int], str]
) -> None:
    def content() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in models.rglob("*") if path.is_file()}

    before = content()
    places = {path.name: str(path) for path in models.iterdir()} | {"OUT": str(tmp_path / "out")}
    told = refusal(main(["banks", *(places.get(word, word) for word in words)]))
    assert message in " ".join(told.split())
    assert content() == before
    assert not list(tmp_path.iterdir())
