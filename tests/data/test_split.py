"""Splitting: every picture on one side, as it was, with the number of its class."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cgt.data.hashed import checked_samples
from cgt.data.manifest import Manifest, Shard, ShardFolder, open_shards
from cgt.data.merge import merge_shards
from cgt.data.samples import Sample
from cgt.data.split import split_by_classes, split_by_share
from cgt.data.verify import problems
from cgt.data.write import BuildOptions, build_shards
from cgt.errors import UserError
from tests.data.test_repack import build, stored, unequal


class TestSplitByClasses:
    @pytest.fixture
    def shards(self, tmp_path: Path) -> Path:
        return build(tmp_path, "all", {"ant": 5, "bee": 4, "cat": 6})

    def split(self, shards: Path, *names: str) -> tuple[Manifest, Manifest]:
        return split_by_classes(str(shards), shards.with_name("one"), shards.with_name("two"), names)

    def test_each_side_has_its_classes_and_all_their_pictures(self, shards: Path, tmp_path: Path) -> None:
        one, two = self.split(shards, "cat", "ant")
        assert one.counts() == {"cat": 6, "ant": 5}
        assert two.counts() == {"bee": 4}
        everything = stored(shards)
        assert stored(tmp_path / "one") == [entry for entry in everything if entry[1] != "bee"]
        assert stored(tmp_path / "two") == [entry for entry in everything if entry[1] == "bee"]
        assert one.build["classes"] == ("cat", "ant")
        for name in ("one", "two"):
            assert problems(open_shards(str(tmp_path / name))) == []

    def test_shards_are_no_larger_than_before_and_not_many_more(self, shards: Path) -> None:
        before = open_shards(str(shards)).manifest
        largest = max(shard.bytes for shard in before.shards)
        one, two = self.split(shards, "cat")
        made = (*one.shards, *two.shards)
        assert max(shard.bytes for shard in made) == largest
        assert len(made) <= len(before.shards) + 2

    def test_merged_again_it_is_all_of_it(self, shards: Path, tmp_path: Path) -> None:
        self.split(shards, "cat")
        merged = merge_shards([str(tmp_path / "one"), str(tmp_path / "two")], tmp_path / "out")
        assert sorted(stored(tmp_path / "out")) == sorted(stored(shards))
        assert merged.classes == ("cat", "ant", "bee")

    def test_shards_without_a_class_of_the_side_are_not_even_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parts = [build(tmp_path, name, {name: 4}) for name in ("ant", "bee")]
        merge_shards([*map(str, parts)], tmp_path / "all")
        manifest = open_shards(str(tmp_path / "all")).manifest
        read = []

        def noted(folder: ShardFolder, shard: Shard) -> Iterator[Sample]:
            read.append(shard)
            return checked_samples(folder, shard)

        monkeypatch.setattr("cgt.data.split.checked_samples", noted)
        self.split(tmp_path / "all", "ant")
        assert read == list(manifest.shards)

    @pytest.mark.parametrize(
        ("names", "message"),
        [(("ant", "bee", "cat"), "two would get no pictures"), (("cow",), "has no class 'cow'")],
    )
    def test_refuses(self, names: tuple[str, ...], message: str, shards: Path, tmp_path: Path) -> None:
        before = sorted(tmp_path.iterdir())
        with pytest.raises(UserError, match=message):
            self.split(shards, *names)
        assert sorted(tmp_path.iterdir()) == before


class TestSplitByShare:
    @pytest.fixture
    def shards(self, tmp_path: Path) -> Path:
        source = unequal(tmp_path / "in", {"ant": 40, "bee": 20, "cat": 2}, 0)
        build_shards(BuildOptions("folder", size=8, shard_mb=0.02), str(source), tmp_path / "all")
        return tmp_path / "all"

    def split(self, shards: Path, share: float, seed: int = 0) -> tuple[Manifest, Manifest]:
        one, two = shards.with_name("one"), shards.with_name("two")
        return split_by_share(str(shards), one, two, share, seed=seed, overwrite=True)

    def test_each_class_gives_its_share_and_every_picture_is_on_one_side(
        self, shards: Path, tmp_path: Path
    ) -> None:
        one, two = self.split(shards, 0.2)
        assert one.counts() == {"ant": 8, "bee": 4, "cat": 1}
        assert two.counts() == {"ant": 32, "bee": 16, "cat": 1}
        assert sorted(stored(tmp_path / "one") + stored(tmp_path / "two")) == sorted(stored(shards))
        assert {name: one.build[name] for name in ("split_share", "split_seed", "split_side")} == {
            "split_share": 0.2,
            "split_seed": 0,
            "split_side": "first",
        }
        for name in ("one", "two"):
            assert problems(open_shards(str(tmp_path / name))) == []

    def test_seed_chooses(self, shards: Path, tmp_path: Path) -> None:
        chosen = []
        for seed in (0, 0, 1):
            self.split(shards, 0.5, seed)
            chosen.append(stored(tmp_path / "one"))
        assert chosen[0] == chosen[1] != chosen[2]
        assert len({key for key, *_ in chosen[0]} & {key for key, *_ in chosen[2]}) > 5

    def test_choice_depends_on_content_and_not_on_keys_or_shards(self, shards: Path, tmp_path: Path) -> None:
        self.split(shards, 0.3)
        pictures = {content for _, _, content in stored(tmp_path / "one")}
        for i, path in enumerate(sorted((tmp_path / "in").rglob("*.png"))):
            path.rename(path.with_name(f"{997 * i % 1000}.png"))
        options = BuildOptions("folder", size=8, shard_mb=0.01, seed=4)
        build_shards(options, str(tmp_path / "in"), shards, overwrite=True)
        self.split(shards, 0.3)
        assert {content for _, _, content in stored(tmp_path / "one")} == pictures

    def test_equal_pictures_are_never_on_both_sides(self, tmp_path: Path) -> None:
        root = unequal(tmp_path / "in", {"ant": 12, "bee": 12}, 0)
        for i in range(0, 12, 2):
            content = (root / f"ant/0-{i}.png").read_bytes()
            (root / f"bee/0-{i}.png").write_bytes(content)
            (root / f"ant/again-{i}.png").write_bytes(content)
        build_shards(BuildOptions("folder", size=8), str(root), tmp_path / "all")
        for seed in range(4):
            one, two = self.split(tmp_path / "all", 0.5, seed)
            sides = [{content for _, _, content in stored(tmp_path / name)} for name in ("one", "two")]
            assert not sides[0] & sides[1]
            assert one.samples + two.samples == 30
            assert one.counts()["ant"] in (8, 9)  # of 18, 12 of them in pairs

    def test_class_of_equal_pictures_is_refused_before_anything_is_written(
        self, shards: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "in/cat/0-1.png").write_bytes((tmp_path / "in/cat/0-0.png").read_bytes())
        build_shards(BuildOptions("folder", size=8), str(tmp_path / "in"), shards, overwrite=True)
        before = sorted(tmp_path.iterdir())
        with pytest.raises(UserError, match="2 pictures of the class 'cat' can't be shared out"):
            self.split(shards, 0.5)
        assert sorted(tmp_path.iterdir()) == before

    @pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
    def test_share_out_of_range_is_refused(self, share: float, shards: Path) -> None:
        with pytest.raises(UserError, match="between 0 and 1"):
            self.split(shards, share)


@pytest.mark.parametrize(("first", "second"), [("out", "out"), ("out", "out/rest"), ("out/first", "out")])
def test_sides_in_each_other_are_refused(first: str, second: str, tmp_path: Path) -> None:
    shards = build(tmp_path, "all", {"ant": 3, "bee": 3})
    with pytest.raises(UserError, match="name two folders"):
        split_by_classes(str(shards), tmp_path / first, tmp_path / second, ["ant"])


def test_damage_leaves_neither_side(tmp_path: Path) -> None:
    shards = build(tmp_path, "all", {"ant": 6, "bee": 6})
    damaged = sorted(shards.glob("*.tar"))[-1]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(UserError, match="SHA-256"):
        split_by_classes(str(shards), tmp_path / "one", tmp_path / "two", ["ant"])
    with pytest.raises(UserError, match="SHA-256"):
        split_by_share(str(shards), tmp_path / "one", tmp_path / "two", 0.5)
    assert not (tmp_path / "one").exists()
    assert not (tmp_path / "two").exists()
