"""Class names as people give them, and which pictures a selection takes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgt.data.manifest import Manifest, Shard
from cgt.data.samples import Sample
from cgt.data.selection import Selection, class_names
from cgt.errors import UserError
from cgt.models.naming import choose

CLASSES = ("ant", "bee", "cat")


def test_names_come_from_a_list_a_text_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("# insects\nbee\n\n  ant \n")
    assert class_names(["bee", "ant"]) == class_names("bee, ant") == class_names(str(file)) == ("bee", "ant")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("bee,bee", "'bee' stands twice"),
        (["bee", "bee"], "'bee' stands twice"),
        ("bee,,ant", "'' won't do"),
        (["a,b"], "'a,b' won't do"),
        (["#bee"], "'#bee' won't do"),
        (["\ud800"], r"'\\ud800' won't do.*UTF-8"),
        ([], "at least one class"),
        ("absent.txt", "no file absent.txt"),
        ("../shapes/new_classes.txt", "no file"),
    ],
)
def test_names_that_can_not_be_meant_are_refused(given: str | list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        class_names(given)


def test_a_list_of_names_may_be_longer_than_a_file_s_name() -> None:
    names = tuple(f"class_{i:03d}" for i in range(1000))
    assert class_names(",".join(names)) == names
    assert class_names("x" * 300) == ("x" * 300,)


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("bee\nant\n", encoding="utf-8-sig")
    assert class_names(str(tmp_path / "names.txt")) == ("bee", "ant")


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("fågel\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"names.txt can't be read as text.*give a UTF-8 file"):
        class_names(str(tmp_path / "names.txt"))


def test_unknown_class_is_refused_with_the_near_one() -> None:
    with pytest.raises(UserError, match=r"no class 'bea' \(did you mean 'bee'\?\). It has: ant, bee, cat"):
        choose(CLASSES, ["ant", "bea"], "the folder")


def manifest_of(shards: list[list[int]]) -> Manifest:
    return Manifest(
        classes=CLASSES,
        size=8,
        encoding="png",
        shards=tuple(
            Shard(
                file=f"{i:06d}.tar",
                samples=len(labels),
                bytes=2048 * len(labels),
                sha256="0" * 64,
                counts={name: labels.count(c) for c, name in enumerate(CLASSES) if c in labels},
            )
            for i, labels in enumerate(shards)
        ),
        build={},
    )


def picked(selection: Selection, shards: list[list[int]]) -> list[tuple[int, str]]:
    result = []
    for i, (shard, labels) in enumerate(zip(selection.manifest.shards, shards, strict=True)):
        samples = [Sample(f"{i}-{j}", label, b"", 0) for j, label in enumerate(labels)]
        result += [(label, sample.key) for label, sample in selection.pick(shard, samples)]
    return result


contents = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=5)
choices = st.permutations(CLASSES).flatmap(lambda names: st.integers(1, 3).map(lambda n: tuple(names[:n])))


@given(contents, choices, st.none() | st.integers(1, 6))
def test_pick_takes_the_first_of_each_selected_class(
    shards: list[list[int]], classes: tuple[str, ...], per_class: int | None
) -> None:
    selection = Selection(manifest_of(shards), classes, per_class)
    expected: list[tuple[int, str]] = []
    counts = dict.fromkeys(classes, 0)
    for i, labels in enumerate(shards):
        for j, label in enumerate(labels):
            name = CLASSES[label]
            if name in counts and (per_class is None or counts[name] < per_class):
                counts[name] += 1
                expected.append((classes.index(name), f"{i}-{j}"))
    assert picked(selection, shards) == expected
    assert selection.counts == tuple(counts.values())


@given(contents, choices, st.integers(1, 4))
def test_smaller_number_takes_a_subset(
    shards: list[list[int]], classes: tuple[str, ...], per_class: int
) -> None:
    manifest = manifest_of(shards)
    few, more = (Selection(manifest, classes, n) for n in (per_class, per_class + 1))
    assert set(picked(few, shards)) <= set(picked(more, shards))


def test_shards_without_selected_pictures_are_not_read() -> None:
    selection = Selection(manifest_of([[0, 1], [2], [1, 1]]), ("bee",), 1)
    assert [shard.file for shard in selection.shards()] == ["000000.tar"]


def test_digest_follows_pictures_and_selection_but_not_how_they_were_built() -> None:
    manifest = manifest_of([[0, 1], [2]])
    base = Selection(manifest, CLASSES).digest
    rebuilt = manifest.model_copy(update={"build": {"cgt": "9.9"}})
    other = manifest.model_copy(update={"shards": manifest.shards[:1]})
    assert Selection(rebuilt, CLASSES).digest == base
    changed = [
        Selection(manifest, CLASSES[::-1]).digest,
        Selection(manifest, CLASSES, 1).digest,
        Selection(other, CLASSES).digest,
    ]
    assert len({base, *changed}) == 4
