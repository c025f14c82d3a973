"""The run folder: resolved config, provenance, metrics.

RUN/config.yaml         every option, as `cgt pretrain RUN/config.yaml` reads it again
RUN/provenance.json     versions, command, device, and where the source came from
RUN/metrics.jsonl       one JSON object a line: losses, learning rates and metrics by step
RUN/samples/            grids by step
RUN/trackers/           what trackers keep here, where the config names any
RUN/checkpoints/, RUN/latest, RUN/best     see cgt/training/checkpoint.py
"""

import contextlib
import fcntl
import importlib.metadata
import json
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cgt.config import Section, dump
from cgt.errors import UserError
from cgt.files import explained, remove_leftovers, write_json, write_text

PACKAGES = ("cgt", "torch", "accelerate", "webdataset", "torchmetrics", "numpy", "Pillow")
MAY_CHANGE = ("strategy", "gradient_checkpointing", "timeout", "trackers")
"""Keys of a config that say how the work is done, not what it is: a run may go on with others."""
VISIBLE_AFTER = 60.0
"""Seconds after which all machines see what one of them has written."""
LOCK = ".lock"
CONFIG = "config.yaml"
"""The resolved config: what makes a folder a run folder."""
ENTRIES = {
    CONFIG,
    "provenance.json",
    "metrics.jsonl",
    "samples",
    "trackers",
    "checkpoints",
    "latest",
    "best",
    LOCK,
}


class RunFolder:
    """One run on disk, held by this process alone. Made by `create` or `reopen`, or by `join` for the other
    processes of a run, which write no records.

    Raises:
        UserError: another run trains in it.
    """

    def __init__(self, path: Path, *, hold: bool = True) -> None:
        self.path = path
        if not hold:
            return
        self._lock = (path / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another process trains in {path} now: wait for it, or name another run with --run."
            ) from None

    @staticmethod
    def check_place(path: Path, *, resume: bool, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
        """Refuse a place where a run can't begin (or go on), before any work is done. Nothing is changed.

        Args:
            path: the run folder.
            resume: a run shall be there.
            overwrite: a run may be there, and nothing else.
            inputs: files and folders that the run reads, which it must not clear.

        Raises:
            UserError: naming what is in the way.
        """
        if resume:
            if not (path / CONFIG).is_file():
                raise UserError(
                    f"there is no run in {path} to resume: start it without --resume, "
                    "or name the run with --run."
                )
            return
        if path.is_file():
            raise UserError(f"{path} is a file, and a run needs a folder: name another with --run.")
        if not path.is_dir() or not any(path.iterdir()):
            return
        if not overwrite:
            raise UserError(
                f"{path} exists already: add --resume to go on with it, --overwrite to begin it again, "
                "or name another with --run."
            )
        within = [other for other in (Path.cwd(), *inputs) if other.resolve().is_relative_to(path.resolve())]
        if within:
            raise UserError(
                f"{path} holds {within[0]}, which --overwrite would clear away: name another with --run."
            )
        names = {entry.name for entry in path.iterdir()}
        strangers = sorted(name for name in names - ENTRIES if not name.startswith("."))
        if strangers or not {CONFIG, "provenance.json"} <= names:
            holds = f"holds {', '.join(strangers[:3])}" if strangers else "is not a run folder"
            raise UserError(f"{path} {holds}, so --overwrite does not clear it: name another with --run.")

    @classmethod
    def create(cls, path: Path, config: Section, provenance: Mapping[str, Any]) -> "RunFolder":
        """Begin a run where `check_place` found room; an earlier run there goes once this one is begun.

        Raises:
            UserError: the earlier run still trains.
        """
        with explained(path):
            if path.exists():
                cls(path)  # refuses one that trains
            path.parent.mkdir(parents=True, exist_ok=True)
            retired = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            if path.exists():
                path.replace(retired / "run")
            path.mkdir()
        run = cls(path)
        write_text(path / CONFIG, dump(config))
        write_json(path / "provenance.json", {**versions(), **provenance})
        shutil.rmtree(retired)
        return run

    @classmethod
    def reopen(cls, path: Path, config: Section, provenance: Mapping[str, Any]) -> "RunFolder":
        """Go on with a run.

        Raises:
            UserError: the run was started with another config, other pictures or another source.
        """
        saved, before = path / CONFIG, _saved(path)
        then, now = (
            {key: value for key, value in values.items() if key not in MAY_CHANGE}
            for values in (_completed(before["config"], type(config)), yaml.safe_load(dump(config)))
        )
        differing = sorted(_differences(then, now))
        if differing:
            raise UserError(
                f"{path} was started with another config; these keys differ: {'; '.join(differing)}. "
                f"Resume it with its own ({saved}), or start another run with --run."
            )
        digests = {key: value for key, value in provenance.items() if key.endswith("sha256")}
        changed = [key for key, value in digests.items() if before["provenance"].get(key) != value]
        if changed:
            raise UserError(
                f"{path} was started with other inputs: {', '.join(changed)} is not what provenance.json "
                "says. Resume it with the source and the shards it was started with, or start another run."
            )
        return cls(path)

    @classmethod
    def join(cls, path: Path) -> "RunFolder":
        """The folder that rank 0 holds, as another process of the run sees it.

        Raises:
            UserError: it does not see it.
        """
        # File systems over a network may say for a while that there is nothing.
        deadline = time.monotonic() + VISIBLE_AFTER
        while not (path / CONFIG).is_file():
            if time.monotonic() > deadline:
                raise UserError(
                    f"{path.absolute()} is not there on {socket.gethostname()}, though rank 0 has made it: "
                    "name a place that all machines share with --run."
                )
            time.sleep(0.1)
        return cls(path, hold=False)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one record to metrics.jsonl."""
        with explained(self.path), (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop the records of steps after `step`, which a resumed run makes again.

        A half-written last line goes too, and so do files that a kill left half-written.
        """
        for folder in (self.path, self.path / "samples"):
            remove_leftovers(folder)
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
        write_text(path, "".join(kept))


def versions() -> dict[str, Any]:
    """What a result depends on beside its config: versions, platform, command and commit."""
    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    return {
        "packages": packages,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": _commit(),
    }


def options_of(config: Section) -> dict[str, bool | int | float | str]:
    """Every option of a config by its key, such as `optim.eps`; lists and None as text."""
    plain = (bool, int, float, str)
    values = _flat(yaml.safe_load(dump(config)))
    return {key: value if isinstance(value, plain) else str(value) for key, value in values}


def _flat(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _flat(value, f"{key}.{name}" if key else name)
    else:
        yield key, values


def _commit() -> str | None:
    """The commit of the checkout that this package runs from; None for an installed one, or without git."""
    checkout = Path(__file__).parents[1]
    if not (checkout / ".git").exists() or shutil.which("git") is None:
        return None
    words = ["git", "rev-parse", "HEAD"]
    git = subprocess.run(words, cwd=checkout, capture_output=True, text=True, check=False)
    return git.stdout.strip() or None


def _saved(path: Path) -> dict[str, Any]:
    """The config and the provenance that a run was started with.

    Raises:
        UserError: one of them is missing or damaged.
    """
    try:
        return {
            "config": yaml.safe_load((path / CONFIG).read_text(encoding="utf-8")),
            "provenance": json.loads((path / "provenance.json").read_text(encoding="utf-8")),
        }
    except (OSError, UnicodeDecodeError, yaml.YAMLError, json.JSONDecodeError) as error:
        raise UserError(
            f"the run in {path} can't be resumed, its config.yaml or provenance.json is damaged "
            f"({' '.join(str(error).split())}): restore them, or start another run with --run."
        ) from None


def _completed(values: Any, model: type[Section]) -> Any:
    """A run's saved config, with the defaults of keys that there were not yet when it was saved."""
    try:
        return yaml.safe_load(dump(model.model_validate(values)))
    except ValidationError:
        return values


def _differences(before: Any, now: Any, key: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for name in before.keys() | now.keys()
            for line in _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if before == now else [f"{key} was {before!r}, now {now!r}"]
