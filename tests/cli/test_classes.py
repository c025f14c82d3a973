"""What `--classes` means: mixes, and names that look like them."""

from pathlib import Path

import pytest

from cgt.cli.classes import chosen_mixes
from cgt.errors import UserError
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.mixes import Mix

NAMES = ("tench", "alley", "a:0.5", "c++", "a:0.5+tench", "x+y", "red fox")


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(GeneratorConfig(channels=(8, 8), dim_z=4), 8, NAMES)


def parts(generator: Generator, choice: str) -> list[dict[str, float]]:
    return [dict(mix.parts) for mix in chosen_mixes(generator, choice)]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("tench", [{"tench": 1.0}]),
        ("tench:0.5+alley:0.5", [{"tench": 0.5, "alley": 0.5}]),
        ("tench:.25+alley:.75, c++", [{"tench": 0.25, "alley": 0.75}, {"c++": 1.0}]),
        ("a:0.5", [{"a:0.5": 1.0}]),
        ("a:0.5:0.5+c++:0.5", [{"a:0.5": 0.5, "c++": 0.5}]),
        ("a:0.5+tench", [{"a:0.5+tench": 1.0}]),
        ("x+y:0.2+red fox:0.8", [{"x+y": 0.2, "red fox": 0.8}]),
        ("alley:1", [{"alley": 1.0}]),
    ],
)
def test_names_and_mixes_are_told_apart_by_what_is_a_class(
    generator: Generator, choice: str, expected: list[dict[str, float]]
) -> None:
    assert parts(generator, choice) == expected


def test_three_thirds_may_be_rounded(generator: Generator) -> None:
    (thirds,) = parts(generator, "tench:0.33+alley:0.33+c++:0.33")
    assert list(thirds.values()) == pytest.approx([1 / 3] * 3)
    assert sum(thirds.values()) == pytest.approx(1, abs=1e-12)


def test_a_file_may_have_mixes(generator: Generator, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("tench\n# both\ntench:0.5+alley:0.5\n", encoding="utf-8")
    mixes = chosen_mixes(generator, str(tmp_path / "rows.txt"))
    assert [mix.name for mix in mixes] == ["tench", "tench:0.5+alley:0.5"]


def test_all_is_every_class_by_itself(generator: Generator) -> None:
    assert chosen_mixes(generator, None) == [Mix.of(name) for name in NAMES]


def test_what_can_be_read_in_two_ways_is_refused() -> None:
    names = ("a", "b", "a:0.5+b")
    generator = Generator(GeneratorConfig(channels=(8, 8), dim_z=4), 8, names)
    with pytest.raises(UserError, match="can mean"):
        chosen_mixes(generator, "a:0.5+b:0.5")
    assert parts(generator, "b:0.5+a:0.5") == [{"b": 0.5, "a": 0.5}]


def test_a_mix_without_weights_is_told_its_form(generator: Generator) -> None:
    with pytest.raises(UserError, match=r"has no class 'tench\+alley'.*A mix is written NAME:WEIGHT"):
        chosen_mixes(generator, "tench+alley")
