"""AnimalFace as its archive unpacks, without the landscapes."""

from pathlib import Path

import pytest

from cgt.data import sources
from cgt.errors import UserError
from tests.data.miniatures import animalface_input, folder_input


@pytest.mark.parametrize("given", ["", "Image"])
def test_landscapes_are_left_out(given: str, tmp_path: Path) -> None:
    source, _ = sources.read("animalface", str(animalface_input(tmp_path) / given))
    assert source.classes == ("BearHead", "CatHead", "DogHead")
    assert [picture.class_name for picture in source.pictures] == ["BearHead"] * 2 + ["CatHead"] * 2 + [
        "DogHead"
    ]
    assert source.load(source.pictures[-1].place).size == (12, 8)


@pytest.mark.parametrize("name", ["Natural", "natural"])
def test_landscapes_alone_are_refused(name: str, tmp_path: Path) -> None:
    folder_input(tmp_path, {name: 1})
    with pytest.raises(UserError, match="no animal's subfolder"):
        sources.read("animalface", str(tmp_path))


def test_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "AnimalFace.zip").touch()
    with pytest.raises(UserError, match=r"AnimalFace\.zip is not a folder"):
        sources.read("animalface", str(tmp_path / "AnimalFace.zip"))


def test_links_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    root = animalface_input(tmp_path / "in")
    (root / "Image").rename(tmp_path / "outside")
    (root / "Image").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="Image is a link to .*outside"):
        sources.read("animalface", str(root))
