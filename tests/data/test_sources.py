"""What every source must do, and what is particular to some."""

import importlib.resources
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageStat

from cgt import catalog
from cgt.data import sources
from cgt.data.selection import class_names
from cgt.errors import UserError
from tests.data.miniatures import INPUTS, folder_input

NAMES = catalog.names("cgt.data.sources")


def path_for(name: str, root: Path) -> str:
    if sources.load(name).INPUT is None:
        return "-"
    assert name in INPUTS, f"the source {name} needs a miniature of its input in tests/data/miniatures.py"
    return str(INPUTS[name](root))


def shown(source: sources.Source) -> bytes:
    """The pixels of the first picture."""
    return source.load(source.pictures[0].place).tobytes()


@pytest.mark.parametrize("name", NAMES)
class TestEverySource:
    def test_pictures_have_unique_keys_known_classes_and_load(self, name: str, tmp_path: Path) -> None:
        path = path_for(name, tmp_path)
        for split in sources.load(name).SPLITS:
            source, _ = sources.read(name, path, split=split, per_class=2)
            assert source.pictures
            assert {picture.class_name for picture in source.pictures} <= set(source.classes)
            assert len(set(source.classes)) == len(source.classes)
            keys = [picture.key for picture in source.pictures]
            assert len(set(keys)) == len(keys)
            assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}", key) for key in keys)
            assert source.load(source.pictures[0].place).convert("RGB").getbbox() is not None

    def test_reads_the_same_twice(self, name: str, tmp_path: Path) -> None:
        path = path_for(name, tmp_path)
        first, second = (sources.read(name, path, per_class=2)[0] for _ in range(2))
        assert first.classes == second.classes
        assert first.fingerprint == second.fingerprint
        for one, other in zip(first.pictures, second.pictures, strict=True):
            assert one[:2] == other[:2]
        assert shown(first) == shown(second)

    def test_refuses_an_unknown_split(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=sources.load(name).SPLITS[0]):
            sources.read(name, path_for(name, tmp_path), split="validation-of-2031")

    def test_refuses_an_input_it_has_no_use_for_or_lacks(self, name: str, tmp_path: Path) -> None:
        needs_none = sources.load(name).INPUT is None
        with pytest.raises(UserError, match="write -" if needs_none else "needs an input"):
            sources.read(name, str(tmp_path) if needs_none else "-")


def test_unknown_source_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="did you mean 'shapes'") as caught:
        sources.read("shape", "-")
    assert "cifar100" in str(caught.value)
    assert "cifar-archive" not in str(caught.value)


class TestShapes:
    def test_test_split_and_other_seeds_hold_other_pictures(self) -> None:
        drawn = {
            shown(sources.read("shapes", "-", split=split, seed=seed, per_class=1)[0])
            for split in ("train", "test")
            for seed in (0, 1)
        }
        assert len(drawn) == 4

    def test_pictures_have_the_size_asked_for(self) -> None:
        source, _ = sources.read("shapes", "-", size=48, per_class=1)
        assert {source.load(picture.place).size for picture in source.pictures} == {(48, 48)}

    def test_smaller_number_draws_the_same_first_pictures(self) -> None:
        few, many = (
            {picture.key: source.load(picture.place).tobytes() for picture in source.pictures}
            for source in (sources.read("shapes", "-", per_class=n)[0] for n in (1, 3))
        )
        assert few.items() <= many.items()

    @pytest.mark.parametrize(("style", "channel"), [("red", 0), ("striped", 1), ("dotted", 2)])
    def test_colour_of_the_style_dominates_the_middle(self, style: str, channel: int) -> None:
        source, _ = sources.read("shapes", "-", per_class=3)
        for picture in source.pictures:
            if picture.class_name.startswith(style):
                means = ImageStat.Stat(source.load(picture.place).crop((12, 12, 20, 20))).mean
                assert max(range(3), key=means.__getitem__) == channel

    def test_nothing_is_cut_off_at_the_border(self) -> None:
        source, _ = sources.read("shapes", "-", per_class=20, size=64)
        for picture in source.pictures[::7]:
            pixels = np.asarray(source.load(picture.place)).astype(int)
            rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
            assert (rim.max(0) == rim.min(0)).all(), picture.key

    def test_published_split_covers_all_classes_and_mixes_the_held_out_ones(self) -> None:
        everything = sources.read("shapes", "-", per_class=1)[0].classes
        old, new = (class_names(f"shapes/{part}_classes.txt") for part in ("source", "new"))
        assert sorted(old + new) == sorted(everything)
        assert (len(old), len(new)) == (15, 5)
        styles, shapes = zip(*(name.split("-") for name in new), strict=True)
        assert sorted(shapes) == ["disk", "plus", "square", "star", "triangle"]
        assert len(set(styles)) == 4
        assert importlib.resources.files("cgt.configs").joinpath("shapes/new_classes.txt").is_file()


class TestDigits:
    def test_train_and_test_share_out_all(self) -> None:
        keys = {
            split: {picture.key for picture in sources.read("digits", "-", split=split)[0].pictures}
            for split in ("all", "train", "test")
        }
        assert keys["train"] | keys["test"] == keys["all"]
        assert not keys["train"] & keys["test"]
        assert len(keys["all"]) == 1797

    def test_missing_scikit_learn_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        with pytest.raises(UserError, match=re.escape('pip install "cgt[digits]"')):
            sources.read("digits", "-")


class TestFolder:
    def test_subfolders_and_upper_case_suffixes_count_and_other_files_do_not(self, tmp_path: Path) -> None:
        root = folder_input(tmp_path / "in", {"cat": 1})
        (root / "cat" / "more").mkdir()
        Image.new("RGB", (4, 4)).save(root / "cat" / "more" / "a.b.JPG")
        Image.new("RGB", (4, 4)).save(root / "cat" / "c.webp")
        Image.new("RGB", (4, 4)).save(root / "cat" / ".hidden.png")
        (root / "cat" / "notes.txt").write_text("no picture")
        (root / "readme.md").write_text("no class")
        source, _ = sources.read("folder", str(root))
        assert source.classes == ("cat",)
        assert len(source.pictures) == 3

    def test_pictures_stand_as_their_exif_says(self, tmp_path: Path) -> None:
        (tmp_path / "cat").mkdir()
        image = Image.new("RGB", (8, 4), "black")
        image.paste("white", (0, 0, 4, 4))
        exif = image.getexif()
        exif[0x0112] = 6  # shown after a quarter turn to the right: the left half comes to the top
        image.save(tmp_path / "cat" / "a.jpg", exif=exif, quality=95)
        source = sources.read("folder", str(tmp_path))[0]
        loaded = source.load(source.pictures[0].place)
        assert loaded.size == (4, 8)
        assert loaded.getpixel((2, 1)) > (200, 200, 200)
        assert loaded.getpixel((2, 6)) < (50, 50, 50)

    @pytest.mark.parametrize("content", [b"", b"not a picture", None])
    def test_corrupt_picture_is_named(self, content: bytes | None, tmp_path: Path) -> None:
        root = folder_input(tmp_path / "in", {"cat": 1})
        whole = (root / "cat" / "0.png").read_bytes()
        (root / "cat" / "0.png").write_bytes(whole[: len(whole) // 2] if content is None else content)
        source = sources.read("folder", str(root))[0]
        with pytest.raises(UserError, match=r"cat/0\.png can't be read"):
            source.load(source.pictures[0].place)

    @pytest.mark.parametrize("target", ["secret.png", "secrets"])
    def test_links_that_lead_out_are_not_followed(self, target: str, tmp_path: Path) -> None:
        root = folder_input(tmp_path / "in", {"cat": 1})
        (tmp_path / "secrets").mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
        (root / "cat" / "link.png").symlink_to(tmp_path / target)
        with pytest.raises(UserError, match=r"cat/link\.png is a link to"):
            sources.read("folder", str(root))

    def test_links_to_pictures_inside_are_read(self, tmp_path: Path) -> None:
        root = folder_input(tmp_path / "in", {"cat": 1})
        (root / "cat" / "link.png").symlink_to(root / "cat" / "0.png")
        assert len(sources.read("folder", str(root))[0].pictures) == 2

    def test_folder_without_classes_is_refused(self, tmp_path: Path) -> None:
        Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
        with pytest.raises(UserError, match="no subfolders"):
            sources.read("folder", str(tmp_path))

    def test_missing_input_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="there is no .*absent"):
            sources.read("folder", str(tmp_path / "absent"))

    def test_fingerprint_follows_the_files(self, tmp_path: Path) -> None:
        root = folder_input(tmp_path / "in", {"cat": 1})
        before = sources.read("folder", str(root))[0].fingerprint
        Image.new("RGB", (4, 4)).save(root / "cat" / "0.png")
        assert sources.read("folder", str(root))[0].fingerprint != before
