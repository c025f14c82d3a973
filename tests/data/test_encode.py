"""Worker processes: what they make of a picture, and how they end."""

import io
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgt.data.encode import Encoders, Recipe, Sample, Unreadable, encode
from cgt.data.sources import Picture
from cgt.errors import RunError, UserError

RECIPE = Recipe(labels={"cat": 7}, size=8)


def load(place: object) -> Image.Image:
    """A picture of the number `place`; words make it fail in their own way."""
    if place == "missing":
        raise UserError("it is not there.")
    if place == "damaged":
        raise OSError("image file is truncated")
    if place == "fatal":
        os.kill(os.getpid(), signal.SIGKILL)
    if place == "huge":
        raise MemoryError
    assert isinstance(place, int)
    pixels = np.random.default_rng(place).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def picture(place: object) -> Picture:
    return Picture(f"key-{place}", "cat", place)


def members(sample: Sample) -> dict[str, bytes]:
    result = {}
    with tarfile.open(fileobj=io.BytesIO(sample.tar + bytes(1024))) as tar:
        for info in tar:
            stream = tar.extractfile(info)
            assert stream is not None
            result[info.name] = stream.read()
    return result


def sample(recipe: Recipe, place: int = 3) -> Sample:
    outcome = encode(load, recipe, picture(place))
    assert isinstance(outcome, Sample)
    return outcome


def test_a_sample_is_the_label_and_the_picture_and_no_end_mark() -> None:
    made = sample(RECIPE)
    assert len(made.tar) % 512 == 0
    assert made.tar[-512:] != bytes(512)
    found = members(made)
    assert list(found) == ["key-3.cls", "key-3.png"]
    assert found["key-3.cls"] == b"7"
    assert Image.open(io.BytesIO(found["key-3.png"])).size == (8, 8)


def test_jpeg_keeps_colours_at_full_resolution_and_follows_the_quality() -> None:
    sizes = []
    for quality in (30, 95):
        content = members(sample(Recipe(labels={"cat": 7}, size=8, jpeg_quality=quality)))["key-3.jpg"]
        image = Image.open(io.BytesIO(content))
        assert image.format == "JPEG"
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]
        sizes.append(len(content))
    assert sizes[0] < sizes[1]


def test_digest_tells_pictures_apart_by_pixels_and_shape_and_not_by_mode_or_recipe() -> None:
    def digest(image: Image.Image, recipe: Recipe = RECIPE) -> bytes:
        made = encode(lambda place: image, recipe, picture(0))
        assert isinstance(made, Sample)
        return made.digest

    grey = Image.new("L", (4, 6), 9)
    assert digest(grey) == digest(grey.convert("RGB")) == digest(grey.convert("RGBA"))
    assert digest(grey) == digest(grey, Recipe(labels={"cat": 0}, size=4, jpeg_quality=50))
    assert len({digest(grey), digest(Image.new("L", (6, 4), 9)), digest(Image.new("L", (4, 6), 8))}) == 3


@pytest.mark.parametrize(
    ("place", "reason"), [("missing", "it is not there."), ("damaged", "OSError: image file is truncated")]
)
def test_a_picture_that_cannot_be_read_gives_the_reason(place: str, reason: str) -> None:
    assert encode(load, RECIPE, picture(place)) == Unreadable(reason)


@pytest.mark.parametrize("kind", [UserError, OSError])
def test_reasons_can_be_written_whatever_the_file_is_called(kind: type[Exception]) -> None:
    def fail(place: object) -> Image.Image:
        raise kind(os.fsdecode(b"caf\xe9.png can't be read"))

    outcome = encode(fail, RECIPE, picture(0))
    assert isinstance(outcome, Unreadable)
    assert outcome.reason.endswith(r"caf\udce9.png can't be read")
    assert outcome.reason.isprintable()


def test_the_parts_share_out_all_pictures() -> None:
    def taken(part: str) -> set[int]:
        recipe = Recipe(labels={"cat": 0}, size=8, holdout=0.25, part=part)  # type: ignore[arg-type]
        return {place for place in range(200) if encode(load, recipe, picture(place)) is not None}

    train, held_out = taken("train"), taken("holdout")
    assert not train & held_out
    assert len(train | held_out) == 200
    assert 25 < len(held_out) < 80


def test_outcomes_come_in_order_from_any_number_of_workers() -> None:
    places = [*range(70), "missing", *range(70, 150)]
    expected = [encode(load, RECIPE, picture(place)) for place in places]
    for workers in (1, 3):
        with Encoders(load, RECIPE, workers) as encoders:
            assert list(encoders.outcomes([picture(place) for place in places])) == expected


@pytest.mark.parametrize("place", ["fatal", "huge"])
def test_a_worker_that_dies_is_a_run_error_that_names_the_remedy(place: str) -> None:
    with pytest.raises(RunError, match="fewer --workers"), Encoders(load, RECIPE, 2) as encoders:
        list(encoders.outcomes([picture(0), picture(place)]))


STOPPED = """
import os, signal, sys
from pathlib import Path
from cgt.data.encode import Encoders, Recipe
from cgt.data.sources import Picture
from tests.data.test_encode import load

os.setpgrp()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
with Encoders(load, Recipe(labels={"cat": 0}, size=8), 2) as encoders:
    for number, _ in enumerate(encoders.outcomes([Picture(str(i), "cat", i) for i in range(2000)])):
        if number == 40:
            os.killpg(0, signal.SIGINT) if sys.argv[1] == "group" else os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("way", ["group", "killed"])
def test_no_worker_outlives_the_process_that_started_it(way: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", STOPPED, way], stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    _, said = child.communicate(timeout=240)  # not before the last process has closed its stderr
    assert child.returncode == -(signal.SIGINT if way == "group" else signal.SIGKILL)
    assert said.count("Traceback") == (way == "group")
