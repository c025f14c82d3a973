"""Places365 in folders and in tars, with and without its lists, and wrong lists."""

import os
import pickle
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from cgt.data import sources
from cgt.data.selection import class_names
from cgt.data.sources import Source
from cgt.data.write import BuildOptions, build_shards
from cgt.errors import UserError
from tests.data.miniatures import PLACES365_CATEGORIES, deny, places365_input

AIRFIELDS = ["airfield-00000001", "airfield-00000002"]


def read(root: Path, split: str | None = None) -> Source:
    return sources.read("places365", str(root), split=split)[0]


def pack(root: Path, folder: str, archive: str, inner: str) -> None:
    """Put a folder's pictures into a tar, as the official ones are."""
    with tarfile.open(root / archive, "w") as tar:
        tar.add(root / folder, inner)
    for path in sorted((root / folder).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (root / folder).rmdir()


def shown(source: Source) -> dict[str, bytes]:
    return {picture.key: source.load(picture.place).tobytes() for picture in source.pictures}


def categories(source: Source) -> dict[str, str]:
    return {picture.key: picture.class_name for picture in source.pictures}


def add_line(path: Path, line: str | bytes) -> int:
    """The number of the line."""
    content = path.read_bytes() + (line if isinstance(line, bytes) else line.encode()) + b"\n"
    path.write_bytes(content)
    return content.count(b"\n")


def test_lists_tell_classes_order_and_other_names(tmp_path: Path) -> None:
    source = read(places365_input(tmp_path))
    assert source.classes == ("airfield", "alley", "apartment_building/outdoor")
    assert list(categories(source)) == [
        *AIRFIELDS,
        "alley-00000001",
        "apartment_building-outdoor-00000001",
    ]
    assert categories(source)["apartment_building-outdoor-00000001"] == "apartment_building/outdoor"
    assert source.aliases["/a/apartment_building/outdoor"] == "apartment_building/outdoor"
    assert source.remark is None


def test_validation_pictures_take_their_classes_from_the_list(tmp_path: Path) -> None:
    source = read(places365_input(tmp_path), "val")
    assert categories(source) == {"Places365_val_00000001": "alley", "Places365_val_00000002": "airfield"}


@pytest.mark.parametrize(
    ("split", "folder", "archive", "inner"),
    [
        ("standard", "data_large_standard", "train_large_places365standard.tar", "data_large"),
        ("challenge", "data_large_challenge", "train_large_places365challenge.tar", "data_large"),
        ("challenge-small", "data_256_challenge", "train_256_places365challenge.tar", "data_256"),
        ("val-small", "val_256", "val_256.tar", "./val_256"),
    ],
)
def test_tars_and_the_folders_they_unpack_to_give_the_same_pictures(
    split: str, folder: str, archive: str, inner: str, tmp_path: Path
) -> None:
    root = places365_input(tmp_path)
    in_folder = shown(read(root, split))
    pack(root, folder, archive, inner)
    packed = read(root, split)
    assert shown(packed) == in_folder
    assert len(pickle.dumps(packed.pictures[0].place)) < 200
    with tarfile.open(root / archive) as tar:
        tar.extractall(root, filter="data")
    (root / archive).unlink()
    assert shown(read(root, split)) == in_folder


def test_a_splits_own_tar_goes_before_the_folder_that_two_splits_share(tmp_path: Path) -> None:
    root = places365_input(tmp_path)
    pack(root, "data_large_challenge", "train_large_places365challenge.tar", "data_large")
    (root / "data_large_standard").rename(root / "data_large")
    assert shown(read(root, "standard")) != shown(read(root, "challenge"))


def test_lists_may_stand_in_the_folder_that_they_come_in(tmp_path: Path) -> None:
    root = places365_input(tmp_path)
    (root / "filelist_places365-standard").mkdir()
    expected = read(root)
    for path in root.glob("*.txt"):
        path.rename(root / "filelist_places365-standard" / path.name)
    found = read(root)
    assert (found.classes, found.pictures) == (expected.classes, expected.pictures)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("missing", ["places365_train_standard.txt", "categories_places365.txt"])
def test_without_the_lists_the_folders_are_the_categories(missing: str, packed: bool, tmp_path: Path) -> None:
    root = places365_input(tmp_path)
    expected = read(root)
    pixels = shown(expected)
    (root / missing).unlink()
    (root / "data_large_standard" / "a" / "alley" / "notes.txt").write_text("no picture")
    if packed:
        pack(root, "data_large_standard", "train_large_places365standard.tar", "data_large")
    found = read(root)
    assert found.classes == expected.classes
    assert found.aliases == expected.aliases
    assert categories(found) == categories(expected)
    assert shown(found) == pixels
    assert missing in str(found.remark)


def test_validation_pictures_without_their_list_are_refused(tmp_path: Path) -> None:
    root = places365_input(tmp_path)
    (root / "places365_val.txt").unlink()
    with pytest.raises(UserError, match=r"no places365_val\.txt.* filelist_places365-standard\.tar"):
        read(root, "val")


def test_missing_pictures_are_refused_with_the_names_they_may_have(tmp_path: Path) -> None:
    root = places365_input(tmp_path)
    pack(root, "data_256_standard", "renamed.tar", "data_256")
    with pytest.raises(UserError, match=r"data_256_standard/, train_256_places365standard\.tar, data_256/"):
        read(root, "standard-small")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/a/alley/00000009.jpg 3", "no category 3"),
        ("/a/alley/00000009.jpg", "should be a path"),
        ("/a/alley/00000009.jpg -1", "should be a path"),
        ("/a/alley/00000009.jpg one", "should be a path"),
        ("/a/alley/0000 0009.jpg 1", "should be a path"),
        (b"/a/alley/\xff.jpg 1", "should be a path"),
        ("/a/alley/\0.jpg 1", "should be a path"),
        ("/a/../../secret.jpg 1", "leads out"),
        ("../secret.jpg 1", "leads out"),
        ("/a/alley/00000001.jpg 1", "listed twice"),
    ],
)
def test_wrong_lines_are_named_with_their_file(line: str | bytes, message: str, tmp_path: Path) -> None:
    root = places365_input(tmp_path)
    n = add_line(root / "places365_train_standard.txt", line)
    with pytest.raises(UserError, match=rf"places365_train_standard\.txt, line {n}: .*{message}"):
        read(root)


@pytest.mark.parametrize("line", ["/a/alley 3", "/b/alley 3", "/a/arch 1", "/a/arch"])
def test_wrong_categories_are_named(line: str, tmp_path: Path) -> None:
    root = places365_input(tmp_path)
    n = add_line(root / "categories_places365.txt", line)
    with pytest.raises(UserError, match=rf"categories_places365\.txt, line {n}"):
        read(root)


@pytest.mark.parametrize("name", ["places365_train_standard.txt", "categories_places365.txt"])
def test_lists_that_cannot_be_read_are_told(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = places365_input(tmp_path)
    deny(root / name, monkeypatch)
    with pytest.raises(UserError, match=rf"{name} can't be read .*Permission denied"):
        read(root)


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    root = places365_input(tmp_path)
    (root / "places365_train_standard.txt").write_text("\n")
    with pytest.raises(UserError, match="lists no picture"):
        read(root)


@pytest.mark.parametrize("packed", [False, True])
def test_listed_pictures_that_are_not_there_are_noticed_when_loaded(packed: bool, tmp_path: Path) -> None:
    root = places365_input(tmp_path)
    (root / "data_large_standard/a/alley/00000001.jpg").unlink()
    if packed:
        pack(root, "data_large_standard", "train_large_places365standard.tar", "data_large")
    source = read(root)
    places = {picture.key: picture.place for picture in source.pictures}
    with pytest.raises(UserError, match=r"a/alley/00000001\.jpg can't be read"):
        source.load(places["alley-00000001"])
    assert source.load(places["airfield-00000001"]).size == (9, 8)


def test_a_name_that_no_file_could_have_is_noticed_when_loaded(tmp_path: Path) -> None:
    root = places365_input(tmp_path)
    add_line(root / "places365_train_standard.txt", f"/a/{'x' * 300}/00000001.jpg 1")
    source = read(root)
    with pytest.raises(UserError, match="can't be read .*too long"):
        source.load(source.pictures[-1].place)


def test_an_absolute_path_stays_in_the_folder(tmp_path: Path) -> None:
    root = places365_input(tmp_path / "in")
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.jpg")
    add_line(root / "places365_train_standard.txt", f"/{tmp_path}/secret.jpg 1")
    source = read(root)
    with pytest.raises(UserError, match="data_large_standard.*can't be read"):
        source.load(source.pictures[-1].place)


@pytest.mark.parametrize("link", ["a/alley/00000001.jpg", "a/alley", "a"])
def test_links_that_lead_out_are_not_followed(link: str, tmp_path: Path) -> None:
    root = places365_input(tmp_path / "in")
    folder = root / "data_large_standard"
    (folder / link).rename(tmp_path / "outside")
    (folder / link).symlink_to(tmp_path / "outside")
    source = read(root)
    places = {picture.key: picture.place for picture in source.pictures}
    with pytest.raises(UserError, match="is a link to .*outside"):
        source.load(places["alley-00000001"])


@pytest.mark.parametrize(
    "name", ["data_large_standard", "places365_train_standard.txt", "categories_places365.txt"]
)
def test_parts_that_are_links_out_are_not_followed(name: str, tmp_path: Path) -> None:
    root = places365_input(tmp_path / "in")
    (root / name).rename(tmp_path / "outside")
    (root / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="is a link to .*outside"):
        read(root)


def test_fingerprint_follows_lists_and_folders(tmp_path: Path) -> None:
    root = places365_input(tmp_path)
    marks = [read(root).fingerprint]
    add_line(root / "places365_train_standard.txt", "/a/alley/00000002.jpg 1")
    marks.append(read(root).fingerprint)
    Image.new("RGB", (4, 4)).save(root / "data_large_standard/a/alley/00000002.jpg")
    os.utime(root / "data_large_standard/a/alley", ns=(1, 1))  # clocks of file systems may be coarse
    marks.append(read(root).fingerprint)
    pack(root, "data_large_standard", "train_large_places365standard.tar", "data_large")
    marks.append(read(root).fingerprint)
    assert len(set(marks)) == 4


def test_the_five_classes_of_the_literature_are_built_by_their_list(tmp_path: Path) -> None:
    names = ("alley", "arch", "art_gallery", "auditorium", "ballroom")
    assert class_names("places365/five_classes.txt") == names
    root = places365_input(
        tmp_path / "in", [*PLACES365_CATEGORIES, *(f"/{name[0]}/{name}" for name in names[1:])]
    )
    options = BuildOptions(
        "places365", classes=class_names("places365/five_classes.txt"), per_class=1, size=8
    )
    manifest = build_shards(options, str(root), tmp_path / "out")
    assert manifest.counts() == dict.fromkeys(names, 1)


def test_official_names_are_taken_for_classes(tmp_path: Path) -> None:
    root = places365_input(tmp_path / "in")
    options = BuildOptions("places365", classes=("/a/apartment_building/outdoor", "/a/alley"), size=8)
    manifest = build_shards(options, str(root), tmp_path / "out")
    assert manifest.counts() == {"apartment_building/outdoor": 1, "alley": 1}
