"""Progress of long work on stderr: a live bar on a terminal, one plain line now and then elsewhere."""

import contextlib
import time
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

PLAIN_LINE_SECONDS = 30.0


class StepsProgress:
    """Progress of a training run, or of other work in steps."""

    def __init__(
        self,
        task: str,
        steps: int,
        first: int,
        pictures_per_step: int,
        console: Console,
        bar: Progress | None,
    ) -> None:
        self._steps, self._done, self._first = steps, first, first
        self._pictures_per_step = pictures_per_step
        self._console = console
        self._bar = bar
        self._task = bar.add_task(task, total=steps, completed=first, note="") if bar else None
        self._start = self._last_line = time.monotonic()

    def advance(self, losses: Mapping[str, float]) -> None:
        """One step is done."""
        self._done += 1
        now = time.monotonic()
        speed = (self._done - self._first) / max(now - self._start, 1e-9)
        note = f"{speed * self._pictures_per_step:,.0f} pictures/s  {numbers(losses)}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, note=note)
        elif now - self._last_line >= PLAIN_LINE_SECONDS:
            self._last_line = now
            left = (self._steps - self._done) / speed
            self._console.print(
                f"step {self._done}/{self._steps}  {speed:.2f} steps/s  {note}  {left / 60:.1f} min left"
            )

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print the metrics of an evaluation."""
        self._console.print(f"step {step}: {numbers(metrics)}")


def numbers(values: Mapping[str, float]) -> str:
    """ "loss 1.234, fid 5.678": short enough for a line."""
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())


def stderr_console() -> Console:
    """Where logs go: stdout is kept for results."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def steps_progress(
    steps: int, first: int, *, pictures_per_step: int, task: str = "training"
) -> Iterator[StepsProgress]:
    """Show the progress of steps `first` to `steps` for a block."""
    console = stderr_console()
    if not console.is_terminal:
        yield StepsProgress(task, steps, first, pictures_per_step, console, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn())
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console) as bar:
        yield StepsProgress(task, steps, first, pictures_per_step, console, bar)
