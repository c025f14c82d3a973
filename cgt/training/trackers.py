"""Trackers: TensorBoard, Weights & Biases, MLflow and whatever else accelerate knows.

RUN/metrics.jsonl is written whatever there is here; trackers are given the same records, and the sample
grids.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import accelerate.tracking as tracking
import numpy as np
from PIL import Image
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from cgt.catalog import did_you_mean
from cgt.config import Section
from cgt.errors import RunError, UserError
from cgt.files import write_json
from cgt.progress import stderr_console

FOLDER = "trackers"
"""In the run folder: for trackers that keep files."""
RUNS = "runs.json"
"""There: a `TrackerState` for each tracker, so that a resumed run goes on with it."""
PICTURES = "samples"
"""What trackers call the grids."""
EXTRAS = ("tensorboard", "wandb", "mlflow")
"""Trackers that cgt has an extra of the same name for; of others, the package has the tracker's name."""
FORGETFUL = ("trackio", "clearml", "comet_ml")
"""Trackers that drop the config when a run goes on, or begin another one then."""


class TrackerConfig(Section):
    """A tracker, and how it is set up."""

    name: str
    """As accelerate calls it: tensorboard, wandb, mlflow, aim, clearml, comet_ml, dvclive, swanlab or
    trackio."""
    project: str = Field("cgt", min_length=1)
    """What runs are gathered under: a wandb project, an MLflow experiment. (tensorboard, aim and dvclive keep
    files in the run's folder, and have no projects.) The run has its folder's name, but for comet_ml."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What accelerate's class of this tracker takes beside: `entity: me` for wandb, for example."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        known = sorted(tracking.LOGGER_TYPE_TO_CLASS)
        if name not in known:
            raise ValueError(
                f"no tracker is called {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}"
            )
        return name


def spelled_out(value: Any) -> Any:
    """A list of trackers in which a name stands for the tracker with no options; one name is a list, too."""
    values = [value] if isinstance(value, str | dict) else value
    if not isinstance(values, list | tuple):
        return values
    return [{"name": one} if isinstance(one, str) else one for one in values]


def check_trackers(configs: Sequence[TrackerConfig]) -> None:
    """Refuse trackers whose packages are missing, and one that is named twice.

    Raises:
        UserError: naming what to install.
    """
    names = [config.name for config in configs]
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"trackers: {doubles[0]} stands twice: name each tracker once.")
    for name in names:
        builtin = name in {str(kind) for kind in tracking.LoggerType}
        if builtin and name not in {str(kind) for kind in tracking.get_available_trackers()}:
            package = f"'cgt[{name}]'" if name in EXTRAS else name
            raise UserError(
                f"trackers: {name} needs a package that is not installed: pip install {package}, or leave "
                "the tracker out. metrics.jsonl is written in any case."
            )


@dataclass
class TrackerState:
    """What is known of a tracker when its run is resumed."""

    id: str | None = None
    """What the service calls the run, where that is what brings it back."""
    last: dict[str, int] = field(default_factory=dict)
    """The last step that it was given, by what it was given: steps up to that are not logged again."""


STATES = TypeAdapter(dict[str, TrackerState])


class Trackers:
    """The trackers of a run, on rank 0; the other ranks have none.

    A tracker that fails later than at its start is left out from then on, and the run goes on.
    """

    def __init__(self, run: Path, trackers: Sequence[Any], states: Mapping[str, TrackerState]) -> None:
        """Hold trackers that are started.

        Args:
            run: its folder.
            trackers: accelerate's.
            states: of these trackers and of those that the run had before, by name.
        """
        self._run = run
        self._trackers = list(trackers)
        self._states = dict(states)

    def log(self, record: Mapping[str, Any]) -> None:
        """Give the numbers of a record of metrics.jsonl to all trackers."""
        values = {
            name: value
            for name, value in record.items()
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        }
        self._give(values, record["step"], lambda tracker, new: tracker.log(new, step=record["step"]))

    def show(self, picture: Path, step: int) -> None:
        """Give a picture, a PNG in the run folder, to all trackers that take pictures."""
        self._give({PICTURES: picture}, step, lambda tracker, new: _show(tracker, new[PICTURES], step))

    def close(self) -> None:
        """Let all trackers write what they still have."""
        for tracker in list(self._trackers):
            with self._surviving(tracker):
                tracker.finish()
        self._trackers = []

    def _give(
        self, values: Mapping[str, Any], step: int, give: Callable[[Any, dict[str, Any]], None]
    ) -> None:
        """Give each tracker what it was not given before the run was resumed, and note that it has it."""
        for tracker in list(self._trackers):
            last = self._states[tracker.name].last
            new = {name: value for name, value in values.items() if last.get(name, -1) < step}
            if new:
                with self._surviving(tracker):
                    give(tracker, new)
                    last.update(dict.fromkeys(new, step))
        # Noted after it is given: a run that is killed in between gives it twice, and never not at all.
        if self._trackers:
            _write_states(self._run, self._states)

    @contextmanager
    def _surviving(self, tracker: Any) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a service may fail in any way, and hours of training don't hang on it
            self._trackers.remove(tracker)
            stderr_console().print(
                f"the tracker {tracker.name} failed and is left out from here on "
                f"({type(error).__name__}: {error}); metrics.jsonl goes on."
            )


def start_trackers(
    configs: Sequence[TrackerConfig], run: Path, options: Mapping[str, bool | int | float | str]
) -> Trackers:
    """Start the trackers of the run in the folder `run`, or have them go on with it.

    Args:
        configs: which; `check_trackers` found nothing missing.
        run: its name is the run's.
        options: the config, flat, as most trackers want it.

    Raises:
        RunError: one can't be started.
    """
    states = _read_states(run)
    started: list[Any] = []
    for config in configs:
        kind = tracking.LOGGER_TYPE_TO_CLASS[config.name]
        before = states.get(config.name)
        try:
            tracker = kind(*_place(kind, config, run), **{**_named(config, run, before), **config.options})
            tracker.start()
            started.append(tracker)
            if before is None or config.name in FORGETFUL:  # else the service, or the folder, has it
                tracker.store_init_configuration(dict(options))
        except Exception as error:
            Trackers(run, started, states).close()
            raise RunError(
                f"the tracker {config.name} could not be started ({type(error).__name__}: {error}): see its "
                "options and whether you are logged in, or leave it out; --resume goes on with the run."
            ) from error
        states[config.name] = TrackerState(id=_identity(tracker), last=before.last if before else {})
        _write_states(run, states)
    return Trackers(run, started, states)


def _place(kind: type[Any], config: TrackerConfig, run: Path) -> tuple[str, ...]:
    """What accelerate's classes take by position: what the runs are gathered under, or a folder's name."""
    if kind.requires_logging_directory:
        name = run.absolute().name if config.name == "aim" else config.name
        return name, str(run / FOLDER)
    return (config.project,)


def _named(config: TrackerConfig, run: Path, before: TrackerState | None) -> dict[str, Any]:
    """The options by which a service calls the run what it is called here, and finds it again."""
    identity = before.id if before else None
    name, folder = run.absolute().name, run / FOLDER / config.name
    match config.name:
        case "wandb":
            return {"name": name, "dir": str(run / FOLDER), "id": identity, "resume": "allow"}
        case "mlflow":
            return {"run_name": name, "run_id": identity, **_mlflow_store(run)}
        case "aim":
            return {"run_hash": identity}
        case "clearml":
            return {"task_name": name}
        case "dvclive":
            return {"dir": str(folder), "resume": before is not None, "dvcyaml": str(folder / "dvc.yaml")}
        case "trackio":
            return {"name": name, "resume": "allow" if before else "never"}
        case "swanlab":
            return {"name": name, "log_dir": str(folder), "id": identity, "resume": "allow"}
    return {}


def _mlflow_store(run: Path) -> dict[str, Any]:
    """Without a server that MLFLOW_TRACKING_URI names, MLflow's files are in the run folder, too."""
    if "MLFLOW_TRACKING_URI" in os.environ:
        return {}
    import mlflow

    store = (run / FOLDER / "mlflow").absolute()
    store.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(f"sqlite:///{store / 'runs.db'}")
    return {"logging_dir": (store / "pictures").as_uri()}


def _identity(tracker: Any) -> str | None:
    """What the service calls the run, where that is what brings it back."""
    match tracker.name:
        case "wandb" | "swanlab":
            return str(tracker.tracker.id)
        case "mlflow":
            return str(tracker.tracker.info.run_id)
        case "aim":
            return str(tracker.tracker.hash)
    return None


def _show(tracker: Any, picture: Path, step: int) -> None:
    """Each of accelerate's classes that takes pictures takes another form of them."""
    if not hasattr(tracker, "log_images"):
        if hasattr(tracker, "log_artifact"):
            tracker.log_artifact(str(picture), PICTURES)
        return
    with Image.open(picture) as image:
        x_HW3 = np.asarray(image.convert("RGB"))
    if tracker.name == "tensorboard":
        tracker.log_images({PICTURES: x_HW3[None]}, step=step, dataformats="NHWC")
    elif tracker.name in ("aim", "clearml"):
        tracker.log_images({PICTURES: Image.fromarray(x_HW3)}, step=step)
    else:
        tracker.log_images({PICTURES: [x_HW3]}, step=step)


def _read_states(run: Path) -> dict[str, TrackerState]:
    """By tracker; none where they can't be read, so that all begin anew."""
    try:
        return STATES.validate_json((run / FOLDER / RUNS).read_bytes())
    except (OSError, ValidationError):
        return {}


def _write_states(run: Path, states: Mapping[str, TrackerState]) -> None:
    write_json(run / FOLDER / RUNS, STATES.dump_python(dict(states)))
