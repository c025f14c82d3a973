"""Stands for processes of cgt: does at once what reproduce.py needs of them, and learns nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

CURVES = {"bsa": [50.0, 40.0, 30.0], "cgantransfer": [45.0, 20.0, 25.0]}
"""Frechet distances of a run's evaluations, at steps 10, 20 and 30."""


@dataclass
class QuickCgt:
    """Makes processes in place of `subprocess.Popen`, and notes what they were asked."""

    failing: str = ""
    """A transfer to this config begins and dies."""
    calls: list[list[str]] = field(default_factory=list)
    """The words after `cgt` of each."""
    gpus: set[str | None] = field(default_factory=set)

    def __call__(
        self, command: Sequence[str], *, stdout: IO[bytes], stderr: IO[bytes], env: Mapping[str, str]
    ) -> "Ended":
        words = list(command[3:])
        self.calls.append(words)
        self.gpus.add(env.get("CUDA_VISIBLE_DEVICES"))
        if words[:2] == ["shards", "build"]:
            write(Path(words[4]) / "manifest.json", "{}")
        elif words[:2] == ["features", "train"]:
            Path(words[3]).mkdir(parents=True)
        elif words[0] == "eval":
            fid = float((Path(words[1]) / "best").read_text())
            scores = {"metrics": {"fid": fid, "kmmd": fid / 100}}
            write(Path(words[words.index("--json") + 1]), json.dumps(scores))
        else:
            return self._train(words, stdout)
        return Ended(0)

    def _train(self, words: list[str], stdout: IO[bytes]) -> "Ended":
        run = Path(words[words.index("--run") + 1])
        write(run / "config.yaml", "begun")
        if words[1] == self.failing:
            stdout.write(b"step 1\nerror: it diverged\n")
            return Ended(1)
        seed = next((int(word.partition("=")[2]) for word in words if word.startswith("seed=")), 0)
        fids = CURVES.get(words[1].partition("/")[2].partition("_")[0], [10.0, 9.0, 8.0])
        records: list[dict[str, float]] = [{"step": 5, "loss": 1.0}]
        records += [{"step": 10 * i, "fid": fid, "kmmd": fid / 100} for i, fid in enumerate(fids, 1)]
        write(run / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))
        write(run / "best", str(min(fids) + seed + 0.5))
        return Ended(0)


@dataclass(frozen=True, eq=False)
class Ended:
    """A process that has done its work."""

    code: int

    def wait(self) -> int:
        return self.code


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
