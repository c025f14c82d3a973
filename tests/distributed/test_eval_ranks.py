"""`cgt eval` on several ranks, one of which is lost on the way."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from cgt import catalog, rng
from cgt.cli import main
from cgt.data.write import BuildOptions, build_shards
from cgt.distributed import World, launched_world
from cgt.errors import RunError
from cgt.metrics.features import FeatureExtractor, cnn
from cgt.metrics.features.cnn_training import widths
from cgt.metrics.settings import PACKAGE, EvalConfig
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.folder import save_model
from cgt.training import watchdog
from cgt.training.state_files import read_state
from tests.distributed import runs
from tests.distributed.ranks import FailedRanksError, run_ranks
from tests.distributed.runs import in_call, stopping, suicide, timed

CLASSES = ("red-disk", "red-square")
SIZE = 8
LIMIT = 3.0
"""Seconds without an answer."""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command that measures a model in four batches a rank."""
    for name in EvalConfig().metrics:
        catalog.load(PACKAGE, name, kind="metric")  # imported here once, and not by each rank
    folder = tmp_path_factory.mktemp("eval")
    options = BuildOptions(source="shapes", size=SIZE, per_class=18, classes=CLASSES, shard_mb=1)
    build_shards(options, "-", folder / "shards")
    with rng.seeded_globally(0, "test networks"):
        generator = Generator(GeneratorConfig(channels=(8, 8), dim_z=4, init="orthogonal"), SIZE, CLASSES)
        model = cnn.SmallCnn(CLASSES, SIZE, widths(SIZE))
    save_model(folder / "model", generator.eval(), provenance={})
    description = cnn.CnnDescription(
        classes=CLASSES,
        resolution=SIZE,
        widths=model.widths,
        training_accuracy=0,
        held_out_accuracy=0,
        provenance={},
    )
    cnn.save(folder / "features", model, description)
    what = [str(folder / "model"), "--data", str(folder / "shards"), "--features", str(folder / "features")]
    what.append("--no-cache")  # the tests count batches
    return ["eval", *what, "--images", "36", "--batch-size", "6"]


def measure(words: list[str], arm: Callable[[], None] = lambda: None) -> int:
    """The exit code of this rank's process."""
    watchdog.SECONDS, watchdog.SILENT = 0.1, 1.0  # the tests wait for these
    launched_world.__kwdefaults__["timeout"] = LIMIT
    arm()
    return main(words)


def said_when(words: list[str], arm: Callable[[], None], capfd: pytest.CaptureFixture[str]) -> str:
    """What three ranks say when `arm` has prepared the loss of one of them, and end with code 1."""
    with pytest.raises(FailedRanksError) as caught:
        run_ranks(functools.partial(measure, arm=arm), 3, words)
    assert {error or "ended with 1" for error in caught.value.errors} <= {"ended with 1", "ended with -9"}
    return capfd.readouterr().err


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_rank_that_is_lost_while_measuring_ends_the_others_which_name_it(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], rank: int, how: str
) -> None:
    if how == "stopped":
        arm = stopping(FeatureExtractor, "take", 2, rank=rank, lock=tmp_path / "lock")
    else:
        arm = in_call(FeatureExtractor, "take", 2, suicide, rank=rank)
    said = ""

    def lose() -> None:
        nonlocal said
        said = said_when(words, arm, capfd)

    assert timed(lose) < 3 * LIMIT + 5
    assert said.count("error:") == 1
    assert "Traceback" not in said
    assert re.search(rf"error: rank {rank} \(.*\) has not answered since batch [0-2]\b", said)


def overflow() -> None:
    raise RunError("the generator makes pictures that are not finite")


def test_error_of_one_rank_while_measuring_ends_all_at_once_and_is_said_once(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    arm = in_call(FeatureExtractor, "take", 2, overflow, rank=1)
    codes: list[int] = []
    assert timed(lambda: codes.extend(run_ranks(functools.partial(measure, arm=arm), 3, words))) < LIMIT
    assert codes == [1, 1, 1]
    said = capfd.readouterr().err
    assert said.count("error:") == 1
    assert "error: rank 1 of 3: the generator makes pictures that are not finite" in said


def test_training_keeps_its_steps_when_one_rank_can_not_measure(tmp_path: Path) -> None:
    """With the evaluation of the second step, before which nothing has been saved."""

    def arm() -> None:
        def measure(_: Generator) -> NoReturn:
            with World().together():
                if World().rank == 1:
                    overflow()
            raise AssertionError

        runs.mean_brightness = measure

    with pytest.raises(FailedRanksError) as caught:
        run_ranks(functools.partial(runs.run, arm=arm), 2, tmp_path / "run")
    first, second = caught.value.errors
    assert first is not None
    assert second is not None
    assert "SaidElsewhereError" in first.splitlines()[-1]
    assert "RunError: rank 1 of 2: the generator makes pictures that are not finite" in second
    assert f"The last good checkpoint is {tmp_path / 'run' / 'checkpoints' / '00000002'}" in second
    assert read_state(tmp_path / "run" / "latest" / "state")["step"] == 2
