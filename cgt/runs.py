"""The run folder: resolved config, provenance, metrics.

RUN/config.yaml         every option, as `cgt pretrain RUN/config.yaml` reads it again
RUN/provenance.json     versions, command, device, and where the source came from
RUN/metrics.jsonl       one JSON object a line: losses, learning rates and metrics by step
RUN/samples/            grids by step
RUN/checkpoints/, RUN/latest, RUN/best     see cgt/training/checkpoint.py
"""

import contextlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cgt.config import Section, dump
from cgt.errors import UserError
from cgt.files import explained, write_json, write_text

PACKAGES = ("cgt", "torch", "accelerate", "webdataset", "torchmetrics", "numpy", "Pillow")


class RunFolder:
    """One run on disk. Made by `create` or `reopen`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls, path: Path, config: Section, provenance: Mapping[str, Any], *, overwrite: bool
    ) -> "RunFolder":
        """Begin a new run.

        Raises:
            UserError: a run is there already and `overwrite` is false.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            if not overwrite:
                raise UserError(
                    f"{path} exists already: add --resume to go on with it, --overwrite to begin it again, "
                    "or name another with --run."
                )
            if path.is_dir() and not (path / "config.yaml").is_file():
                raise UserError(
                    f"{path} is not a run folder, so --overwrite does not clear it: name another with --run."
                )
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        with explained(path):
            path.mkdir(parents=True, exist_ok=True)
        write_text(path / "config.yaml", dump(config))
        write_json(path / "provenance.json", {**versions(), **provenance})
        return cls(path)

    @classmethod
    def reopen(cls, path: Path, config: Section) -> "RunFolder":
        """Go on with a run.

        Raises:
            UserError: there is no run, or it was started with another config.
        """
        saved = path / "config.yaml"
        if not saved.is_file():
            raise UserError(
                f"there is no run in {path} to resume: start it without --resume, or name the run with --run."
            )
        before, now = yaml.safe_load(saved.read_text(encoding="utf-8")), yaml.safe_load(dump(config))
        if differing := sorted(_differences(before, now)):
            raise UserError(
                f"{path} was started with another config; these keys differ: {'; '.join(differing)}. "
                f"Resume it with its own ({saved}), or start another run with --run."
            )
        return cls(path)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one record to metrics.jsonl."""
        with explained(self.path), (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop the records of steps after `step`, which a resumed run makes again; a half-written last line
        goes too.
        """
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
    """What a result depends on beside its config: versions, platform, command and git commit of the working
    directory's checkout.
    """
    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        "packages": packages,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": git.stdout.strip() or None,
    }


def _differences(before: Any, now: Any, key: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for name in before.keys() | now.keys()
            for line in _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if before == now else [f"{key} was {before!r}, now {now!r}"]
