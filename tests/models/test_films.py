"""Films from class to class."""

import itertools

import pytest
import torch
from torch import Tensor

from cgt.models.biggan import Generator
from cgt.models.films import frames_of, slerp
from cgt.models.mixes import Mix
from tests import tiny


@pytest.fixture(scope="module")
def generator() -> Generator:
    generator = tiny.source(tiny.PER_LAYER).generator
    generator.fold()
    return generator


def film(generator: Generator, stops: list[str], count: int = 1, **options: object) -> list[Tensor]:
    mixes = [Mix.of(name) for name in stops]
    return list(frames_of(generator, mixes, 4, count, seed=3, **options))  # type: ignore[arg-type]


def test_a_film_stops_at_each_class_and_closes_its_loop(generator: Generator) -> None:
    frames = film(generator, ["ant", "cat"])
    assert len(frames) == 8
    still = film(generator, ["cat", "ant"])
    difference = (torch.stack(frames).int() - torch.stack(still[4:] + still[:4]).int()).abs().max()
    assert difference <= 1
    # The way back is the way there, since the latent stays: only its pace is turned round.
    assert (frames[3].int() - frames[5].int()).abs().max() <= 1
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(frames))


def test_the_frames_of_a_film_show_all_latents_in_a_grid(generator: Generator) -> None:
    (one, *_), (four, *_) = film(generator, ["ant", "cat"]), film(generator, ["ant", "cat"], 4)
    zoom = 64
    assert one.shape == (3, zoom + 4, zoom + 4)
    assert four.shape == (3, 2 * zoom + 6, 2 * zoom + 6)
    assert (four[:, 2 : 2 + zoom, 2 : 2 + zoom].int() - one[:, 2:-2, 2:-2].int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(2, 2, 1), (6, 3, 2), (7, 3, 3), (8, 4, 2), (12, 4, 3)]
)
def test_a_grid_has_no_blank_place_where_it_can(
    generator: Generator, count: int, columns: int, rows: int
) -> None:
    frame = film(generator, ["ant", "cat"], count)[0]
    assert frame.shape == (3, rows * 66 + 2, columns * 66 + 2)


def test_moving_latents_change_the_pictures_of_one_class(generator: Generator) -> None:
    frames = film(generator, ["ant", "ant", "ant"], moving=True)
    assert len({frame.numpy().tobytes() for frame in frames}) == len(frames)


def test_a_great_arc_keeps_the_length_and_ends_where_it_should() -> None:
    start, end = torch.randn(2, 50).unbind()
    start, end = start / start.norm(), end / end.norm()
    for share in (0.0, 0.3, 1.0):
        assert slerp(start, end, share).norm() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(slerp(start, end, 0.0), start)
    torch.testing.assert_close(slerp(start, end, 1.0), end)
    torch.testing.assert_close(slerp(start, start, 0.5), start)
    assert slerp(start, -start, 0.5).isfinite().all()
