"""The runs of a table: each is trained and measured by the verbs of cgt, in processes of their own."""

import json
import os
import queue
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from paper_tables import Result

from cgt.cli.demo import SHARDS
from cgt.errors import RunError
from cgt.launching import cores
from cgt.progress import WorkProgress, numbers
from cgt.report.paper import Run

COMMAND = (sys.executable, "-m", "cgt")
METRICS = ("fid", "kmmd")
DRAWN = {**SHARDS["shapes"], "new": {**SHARDS["shapes"]["new"], "per_class": 60}}
"""The shard folders of shapes: those of the demo, with pictures enough for the largest cell."""


@dataclass(frozen=True)
class Inputs:
    """What the runs of one data set are given: shards, and the model that they start from."""

    data: str
    choice: str
    """The pictures that choose each run's best model."""
    reference: str
    """Those that it is reported by."""
    source: str


@dataclass
class Work:
    """Runs cgt for one command line."""

    out: Path
    inputs: Mapping[str, Inputs]
    """By data set, the first part of a config's name."""
    features: str
    weights: str | None
    images: int
    overrides: Sequence[str]
    """For the configs of all runs."""
    devices: "queue.Queue[str | None]"
    """Free places to work on: a GPU's number, or None for a core."""
    children: set["subprocess.Popen[bytes]"] = field(default_factory=set)
    stopped: bool = False

    def cgt(self, name: str, *words: str | Path) -> None:
        """Run a command on the next free device; what it says goes to OUT/logs/NAME.log.

        Raises:
            RunError: it failed; has the last line of what it said.
        """
        log = self.out / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        device = self.devices.get()
        place = {"OMP_NUM_THREADS": "1"} if device is None else {"CUDA_VISIBLE_DEVICES": device}
        try:
            if self.stopped:
                raise RunError(f"{name} was not begun")
            with log.open("ab") as said:
                child = subprocess.Popen(
                    [*COMMAND, *map(str, words)], stdout=said, stderr=said, env=os.environ | place
                )
                self.children.add(child)
                code = child.wait()
                self.children.discard(child)
        finally:
            self.devices.put(device)
        if code:
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next(filter(None, map(str.strip, reversed(lines))), "it said nothing")
            raise RunError(f"{name} ended with {code}: {last} (all of it: {log})")

    def stop(self) -> None:
        """Begin nothing more, and ask the children to end: trainings write a checkpoint first."""
        self.stopped = True
        for child in list(self.children):
            child.terminate()

    def finish(self, name: str, reference: str, classes: str, *words: str | Path) -> Result:
        """Train by `words`, or go on with it, and measure; what is there already is only read.

        Raises:
            RunError: one of the two failed.
        """
        run, scores = self.out / "runs" / name, self.out / "scores" / f"{name}.json"
        if not scores.is_file():
            going_on = ["--resume"] if (run / "config.yaml").is_file() else []
            self.cgt(name, *words, "--run", run, *going_on)
            measure = ["--data", reference, "--classes", classes, "--metrics", ",".join(METRICS)]
            weights = [] if self.weights is None else ["--weights", self.weights]
            by = ["--features", self.features, *weights, "--images", str(self.images)]
            self.cgt(name, "eval", run, *measure, *by, "--json", scores)
        with (run / "metrics.jsonl").open(encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        curve = [{key: record[key] for key in ("step", *METRICS)} for record in records if "fid" in record]
        if not curve:
            raise RunError(f"{run} was never measured, so nothing says which of its models is the best")
        return Result(json.loads(scores.read_text(encoding="utf-8"))["metrics"], curve)

    def measured(self, choice: str | Path) -> list[str]:
        """Overrides: the pictures `choice` choose the best model; and those of all runs."""
        chosen = {"data": choice, "features": self.features, "metrics": f"[{','.join(METRICS)}]"}
        weights = {} if self.weights is None else {"weights": self.weights}
        return [*(f"eval.{key}={value}" for key, value in (chosen | weights).items()), *self.overrides]

    def transfer(self, run: Run) -> Result:
        """One run of a table, whose source is finished.

        Raises:
            RunError: it failed.
        """
        inputs = self.inputs[run.dataset]
        source = inputs.source if run.after is None else self.out / "runs" / Run(run.after, run.seed).name
        overrides = [f"data={inputs.data}", f"seed={run.seed}", *self.measured(inputs.choice)]
        words = ["transfer", run.config, "--source", source, *overrides]
        return self.finish(run.name, inputs.reference, "new", *words)

    def prepare_shapes(self, source: str | None, progress: WorkProgress) -> str:
        """Draw the pictures, and train the classifier and the source, as far as they are not there.

        Args:
            source: the model to start from; None to train one.
            progress: told what is being made.

        Returns:
            What there is to say of the source.

        Raises:
            RunError: one of these failed.
        """
        shards = {name: self.out / "shards" / name for name in DRAWN}
        for name, options in DRAWN.items():
            if not (shards[name] / "manifest.json").is_file():
                progress.print(f"shards: {name}")
                words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
                self.cgt(f"shards-{name}", "shards", "build", "shapes", "-", shards[name], *words)
        if not Path(self.features).exists():
            progress.print("a classifier of the pictures, whose features the metrics use")
            self.cgt("features", "features", "train", shards["choice"], self.features, "--steps", "200")
        said = f"The source: {source}."
        if source is None:
            progress.print("the source")
            name = "shapes/pretrain"
            source = str(self.out / "runs" / name)
            words = ["pretrain", name, f"data={shards['source']}", *self.measured(shards["choice"])]
            result = self.finish(name, str(shards["reference"]), "all", *words)
            said = f"The source, trained once for all seeds: {numbers(result.scores)}."
        new, choice, reference = (str(shards[name]) for name in ("new", "choice", "reference"))
        self.inputs = {"shapes": Inputs(new, choice, reference, source)}
        return said

    def all_of(self, runs: Sequence[Run], progress: WorkProgress) -> tuple[dict[str, Result], list[str]]:
        """Do all runs, as many at once as there are devices.

        Args:
            runs: each after the one that it starts from.
            progress: told of each that is done.

        Returns:
            The results by the runs' names, and what the failures were.
        """
        futures: dict[Run, Future[Result]] = {}

        def do(run: Run) -> Result:
            if run.after is not None and futures[Run(run.after, run.seed)].exception():
                raise RunError(f"{run.name} has no source, for {run.after} failed")
            if not (self.out / "scores" / f"{run.name}.json").is_file():
                progress.print(f"{run.name}: begins (log: {self.out / 'logs' / run.name}.log)")
            return self.transfer(run)

        results, failures = {}, []
        with ThreadPoolExecutor(self.devices.qsize()) as pool:
            for run in runs:  # one that waits for its source so waits for one that has begun
                futures[run] = pool.submit(do, run)
            by_future = {future: run for run, future in futures.items()}
            try:
                for done, future in enumerate(as_completed(by_future), 1):
                    run = by_future[future]
                    try:
                        results[run.name] = future.result()
                        progress.print(f"{run.name}: {numbers(results[run.name].at_best())}")
                    except RunError as error:
                        failures.append(str(error))
                        progress.print(f"failed: {error}")
                    progress.reach(done, len(runs))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.stop()
                raise
        return {run.name: results[run.name] for run in runs if run.name in results}, failures


def devices(jobs: int | None) -> "queue.Queue[str | None]":
    """Places for `jobs` runs at once: GPUs in turn, or cores; by default each of them once."""
    import torch

    visible, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    gpus = visible.split(",")[:count] if visible else [str(i) for i in range(count)]
    places: list[str | None] = [*gpus] or [None] * cores()
    free: queue.Queue[str | None] = queue.Queue()
    for i in range(jobs or len(places)):
        free.put(places[i % len(places)])
    return free
