"""Trackers: what they are given, when they are closed, and that a resumed run gives nothing twice."""

import gc
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from accelerate import tracking

from cgt.config import load
from cgt.errors import RunError, UserError
from cgt.runs import RunFolder
from cgt.training import loop, trackers
from cgt.training.settings import PretrainConfig
from cgt.training.trackers import TrackerConfig, check_trackers
from tests import tiny
from tests.distributed.ranks import run_ranks
from tests.distributed.runs import run


class Fake(tracking.GeneralTracker):
    """Remembers what it is told, across runs."""

    name = "fake"
    requires_logging_directory = True
    told: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(self, run_name: str, logging_dir: str, fail: str = "") -> None:
        super().__init__()
        self.place = (run_name, logging_dir)
        self.fail = fail

    @property
    def tracker(self) -> None:
        """Nothing is within."""
        return

    def start(self) -> None:
        self._tell("start", *self.place)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._tell("config", values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self._tell("log", step, values)

    def log_images(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self._tell("images", step, values)

    def finish(self) -> None:
        self._tell("finish")

    def _tell(self, what: str, *facts: Any) -> None:
        if what == self.fail:
            raise ConnectionError("no such host")
        self.told.append((what, *facts))


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "fake", Fake)
    Fake.told.clear()
    yield
    Fake.told.clear()


def told(what: str) -> list[tuple[Any, ...]]:
    return [facts for kind, *facts in Fake.told if kind == what]


def points() -> list[tuple[int, str]]:
    return [(step, name) for step, values in told("log") for name in values]


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def end_of(path: Path, **options: Any) -> BaseException | None:
    """How a run ends, which lets go of its folder."""
    end: BaseException | None = None
    try:
        run(path, **options)
    except (KeyboardInterrupt, RunError) as error:
        end = error.with_traceback(None)
        end.__cause__ = end.__context__ = None
    gc.collect()
    return end


def test_a_tracker_gets_the_config_flat_and_what_metrics_jsonl_has_and_the_grids(tmp_path: Path) -> None:
    run(tmp_path / "run", trackers=["fake"])
    assert told("start") == [["fake", str(tmp_path / "run" / "trackers")]]
    ((config,),) = told("config")
    assert (config["batch_size"], config["optim.discriminator_steps"]) == (8, 2)
    assert all(isinstance(value, bool | int | float | str) for value in config.values())
    expected = [
        (record["step"], {name: value for name, value in record.items() if name != "step"})
        for record in records(tmp_path / "run")
    ]
    assert [tuple(facts) for facts in told("log")] == expected
    assert {"loss_generator", "lr_generator", "score"} <= {name for _, name in points()}
    assert [step for step, _ in told("images")] == [2, 4, 6, 7]
    for _, values in told("images"):
        ((picture,),) = values.values()
        assert (picture.dtype, picture.shape[2]) == (np.uint8, 3)
    assert Fake.told[-1] == ("finish",)


def told_on_this_rank(path: Path) -> list[str]:
    run(path, trackers=["fake"])
    return [what for what, *_ in Fake.told]


def test_of_several_ranks_the_first_alone_speaks_to_trackers(tmp_path: Path) -> None:
    first, second = run_ranks(told_on_this_rank, 2, tmp_path / "run")
    assert first[0] == "start"
    assert first[-1] == "finish"
    assert second == []


def test_without_trackers_there_is_no_folder_of_theirs(tmp_path: Path) -> None:
    run(tmp_path / "run")
    assert not (tmp_path / "run" / "trackers").exists()


def test_an_error_in_training_closes_the_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise RunError("a rank is gone.")

    monkeypatch.setattr(loop, "train_step", failing)
    with pytest.raises(RunError, match="a rank is gone"):
        run(tmp_path / "run", trackers=["fake"])
    assert Fake.told[-1] == ("finish",)


def killed_in(step: int, path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """A run that ends in its step `step`, counted from 0."""
    train_step = loop.train_step

    def dying(trainer: Any, batches: Any, now: int) -> Any:
        if now == step:
            raise KeyboardInterrupt
        return train_step(trainer, batches, now)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", dying)
        assert isinstance(end_of(path, **options), KeyboardInterrupt)


def test_a_run_resumed_twice_goes_on_in_its_trackers_without_a_point_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "run"
    options: dict[str, Any] = {"trackers": ["fake"], "save_every": 7, "eval_every": 2}
    monkeypatch.setattr(loop.Best, "beaten_by", lambda *_, **__: False)  # no checkpoint before the last
    killed_in(6, place, monkeypatch, **options)
    assert max(step for step, _ in points()) == 6
    killed_in(3, place, monkeypatch, resume=True, **options)
    assert max(record["step"] for record in records(place)) == 3
    run(place, resume=True, **options)
    assert len(points()) == len(set(points()))
    expected = {(record["step"], name) for record in records(place) for name in record}
    assert set(points()) == {(step, name) for step, name in expected if name != "step"}
    assert [step for step, _ in told("images")] == [2, 4, 6, 7]
    assert len(told("config")) == 1
    assert len({tuple(place) for place in told("start")}) == 1


def test_a_tracker_that_joins_when_a_run_goes_on_gets_what_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_in(5, tmp_path / "run", monkeypatch)
    first = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    run(tmp_path / "run", resume=True, trackers=["fake"])
    assert sorted({step for step, _ in points()}) == list(range(first + 1, 8))
    assert [step for step, _ in told("images")] == [step for step in (2, 4, 6, 7) if step > first]
    assert len(told("config")) == 1


@pytest.mark.parametrize("damage", ["", "[]", '{"fake": "an id"}'])
def test_a_tracker_of_which_nothing_can_be_read_begins_anew(tmp_path: Path, damage: str) -> None:
    run(tmp_path / "run", trackers=["fake"])
    (tmp_path / "run" / "trackers" / "runs.json").write_text(damage, encoding="utf-8")
    run(tmp_path / "run", trackers=["fake"], resume=True)
    assert len(told("config")) == 2


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "run", trackers=[{"name": "fake", "options": {"fail": "images"}}])
    assert records(tmp_path / "run")[-1]["step"] == 7
    assert max(step for step, _ in points()) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert message.count("the tracker fake failed and is left out") == 1


def test_a_tracker_that_does_not_start_ends_the_run_before_its_first_step(tmp_path: Path) -> None:
    error = end_of(tmp_path / "run", trackers=[{"name": "fake", "options": {"fail": "start"}}])
    assert isinstance(error, RunError)
    assert re.search(r"tracker fake could not be started .*no such host.*logged in", str(error))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    run(tmp_path / "run", resume=True)


def test_trackers_may_be_others_when_a_run_goes_on(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", tiny.pretrain_config(), {})
    RunFolder.reopen(tmp_path / "run", tiny.pretrain_config(trackers=["fake"]), {})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("trackers=tensorboard", [("tensorboard", "cgt", {})]),
        ("trackers=[tensorboard, wandb]", [("tensorboard", "cgt", {}), ("wandb", "cgt", {})]),
        (
            "trackers=[{name: wandb, project: growth, options: {entity: me}}]",
            [("wandb", "growth", {"entity": "me"})],
        ),
    ],
)
def test_trackers_are_names_or_sections(given: str, expected: list[tuple[Any, ...]]) -> None:
    config = load(PretrainConfig, "shapes/pretrain", ["data=x", given])
    assert [(tracker.name, tracker.project, tracker.options) for tracker in config.trackers] == expected


def test_an_unknown_tracker_is_a_mistake_in_the_config() -> None:
    with pytest.raises(UserError, match=r"no tracker is called 'tensorbord' \(did you mean 'tensorboard'"):
        load(PretrainConfig, "shapes/pretrain", ["data=x", "trackers=[tensorbord]"])


@pytest.mark.parametrize("name", ["wandb", "mlflow", "aim", "clearml", "trackio", "swanlab"])
def test_a_service_calls_the_run_what_its_folder_is_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://example.org")  # else its package is asked for a store
    config, kind = TrackerConfig(name=name), tracking.LOGGER_TYPE_TO_CLASS[name]
    named = trackers._named(config, tmp_path / "third", None)
    assert "third" in {*named.values(), *trackers._place(kind, config, tmp_path / "third")}


@pytest.mark.parametrize(("name", "remedy"), [("mlflow", "'cgt[mlflow]'"), ("aim", "aim")])
def test_a_missing_package_is_named_with_what_to_install(
    name: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [])
    with pytest.raises(
        UserError, match=rf"{name} needs a package .*: pip install {remedy.replace('[', '.')[:-1]}"
    ):
        check_trackers([TrackerConfig(name=name)])
    check_trackers([TrackerConfig(name="fake")])
    with pytest.raises(UserError, match="fake stands twice"):
        check_trackers([TrackerConfig(name="fake"), TrackerConfig(name="fake")])


def test_tensorboard_reads_back_what_was_logged_over_a_run_resumed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    place = tmp_path / "run"
    monkeypatch.setattr(loop.Best, "beaten_by", lambda *_, **__: False)  # no checkpoint before the third
    killed_in(5, place, monkeypatch, trackers=["tensorboard"])
    killed_in(4, place, monkeypatch, trackers=["tensorboard"], resume=True)
    run(place, trackers=["tensorboard"], resume=True)
    events = accumulator.EventAccumulator(str(place / "trackers" / "tensorboard"))
    events.Reload()
    for name in ("score", "loss_generator"):
        logged = [(record["step"], record[name]) for record in records(place) if name in record]
        points = [(point.step, point.value) for point in events.Scalars(name)]
        assert [step for step, _ in points] == [step for step, _ in logged]
        assert [value for _, value in points] == pytest.approx([value for _, value in logged], rel=1e-6)
    assert [image.step for image in events.Images("samples")] == [2, 4, 6, 7]


def test_mlflow_has_one_run_with_every_point_once_over_a_run_resumed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = tmp_path / "run"
    monkeypatch.setattr(loop.Best, "beaten_by", lambda *_, **__: False)  # no checkpoint before the third
    killed_in(5, place, monkeypatch, trackers=["mlflow"])
    killed_in(4, place, monkeypatch, trackers=["mlflow"], resume=True)
    run(place, trackers=["mlflow"], resume=True)
    client = mlflow.MlflowClient(f"sqlite:///{place / 'trackers' / 'mlflow' / 'runs.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'cgt'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.params["batch_size"] == "8"
    points = [(point.step, point.value) for point in client.get_metric_history(found.info.run_id, "score")]
    logged = [(record["step"], record["score"]) for record in records(place) if "score" in record]
    assert sorted(points) == logged
    pictures = client.list_artifacts(found.info.run_id, "samples")
    assert [Path(picture.path).stem for picture in pictures] == [f"{step:08d}" for step in (2, 4, 6, 7)]
