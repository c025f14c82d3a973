"""Opening a shard folder: what is refused, and with which words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgt.data.manifest import MAX_SIZE, Manifest, open_shards
from cgt.errors import UserError
from tests.data.miniatures import build_folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return Path(build_folder(tmp_path).location)


def edit(shards: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((shards / "manifest.json").read_text())
    change(values)
    (shards / "manifest.json").write_text(json.dumps(values))


def test_manifest_says_what_was_built(shards: Path) -> None:
    manifest = open_shards(str(shards)).manifest
    assert manifest.counts() == {"cat": 7, "dog": 5, "owl": 4}
    assert manifest.samples == 16
    assert manifest.size == 8
    assert len(manifest.shards) > 2
    assert manifest.bytes == sum(path.stat().st_size for path in shards.glob("*.tar"))


def test_manifest_written_and_read_is_equal(shards: Path) -> None:
    manifest = open_shards(str(shards)).manifest
    assert Manifest.model_validate_json(json.dumps(manifest.to_json())) == manifest


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no shard folder .*cgt shards build"):
        open_shards(str(tmp_path / "absent"))


def test_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        open_shards(str(tmp_path))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "coco"}', "\x00", "[" * 200_000, '{"format":' * 200_000]
)
def test_file_that_is_no_manifest_is_refused(text: str, shards: Path) -> None:
    (shards / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json is (damaged|not the manifest)"):
        open_shards(str(shards))


def test_later_format_version_is_refused_with_the_remedy(shards: Path) -> None:
    edit(shards, lambda values: values.update(version=2, new_idea=True))
    with pytest.raises(UserError, match=r"format version 2.*update cgt"):
        open_shards(str(shards))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["classes"].append("cat"), "'cat' stands twice"),
        (lambda m: m["classes"].remove("owl"), "not in the list of classes: owl"),
        (lambda m: m.update(classes=[]), "classes: "),
        (lambda m: m.update(shards=[]), "shards: "),
        (lambda m: m.pop("size"), "size: Field required"),
        (lambda m: m.update(size="8"), "size: Input should be a valid integer"),
        (lambda m: m.update(size=MAX_SIZE + 1), "size: Input should be less than or equal to"),
        (lambda m: m.update(colour="blue"), "colour: Extra inputs"),
        (lambda m: m["shards"][0].update(samples=99), "add up to"),
        (lambda m: m["shards"][0].update(samples=10**13, counts={"cat": 10**13}), "too few for"),
        (
            lambda m: m["shards"][0]["counts"].update(cat=-5),
            r"shards\.0\.counts\.cat: .* greater than or equal to 1",
        ),
        (lambda m: m["shards"][0].update(sha256="f00"), r"shards\.0\.sha256"),
        (lambda m: m["shards"][0].update(file="../../etc/passwd"), r"shards\.0\.file"),
        (lambda m: m["shards"][1].update(file=m["shards"][0]["file"]), "listed twice"),
    ],
)
def test_hand_broken_manifest_is_refused(
    change: Callable[[dict[str, Any]], object], words: str, shards: Path
) -> None:
    edit(shards, change)
    with pytest.raises(UserError, match=rf"(?s)manifest\.json is damaged.*{words}"):
        open_shards(str(shards))


def test_missing_and_shortened_shards_are_all_named(shards: Path) -> None:
    (shards / "000000.tar").unlink()
    (shards / "000001.tar").write_bytes(b"short")
    with pytest.raises(UserError, match=r"(?s)000000\.tar is missing.*000001\.tar has 5 bytes") as caught:
        open_shards(str(shards)).check_files()
    assert "000002.tar" not in str(caught.value)
