"""The name that a person types is the name of a file in one folder."""

import sys
from pathlib import Path

import pytest

from cgt import catalog
from cgt.errors import UserError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "cookbook"
    folder.mkdir()
    (folder / "__init__.py").write_text("INFRASTRUCTURE = frozenset({'base'})\n")
    (folder / "base.py").touch()
    (folder / "apple_pie.py").write_text("TASTE = 'sweet'\n")
    (folder / "soup.py").write_text("TASTE = 'salty'\n")
    (folder / "broken.py").write_text("raise RuntimeError('imported without need')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "cookbook"]:
        monkeypatch.delitem(sys.modules, name)
    return "cookbook"


def test_a_new_file_is_a_new_name_and_infrastructure_is_none(package: str) -> None:
    assert catalog.names(package) == ["apple-pie", "broken", "soup"]


@pytest.mark.parametrize("name", ["apple-pie", "apple_pie"])
def test_a_plug_in_is_loaded_by_its_name_with_either_dash(package: str, name: str) -> None:
    assert catalog.load(package, name, kind="recipe").TASTE == "sweet"


@pytest.mark.parametrize("name", ["base", "../soup", "os", ""])
def test_what_is_no_plug_in_is_not_loaded(package: str, name: str) -> None:
    with pytest.raises(UserError, match=r"no recipe is called .* There are: apple-pie, broken, soup\."):
        catalog.load(package, name, kind="recipe")


@pytest.mark.parametrize("name", ["aple-pie", "APPLE-PIE", "apple_pi"])
def test_a_misspelt_name_brings_the_one_that_was_meant(package: str, name: str) -> None:
    with pytest.raises(UserError, match=r"did you mean 'apple-pie'\?"):
        catalog.load(package, name, kind="recipe")


def test_a_word_that_is_near_nothing_brings_no_guess() -> None:
    assert catalog.did_you_mean("zebra", ["apple-pie", "soup"]) == ""
