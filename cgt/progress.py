"""Progress of long work on stderr: a live bar on a terminal, one plain line now and then elsewhere."""

import contextlib
import time
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_LINE_SECONDS = 30.0


class WorkProgress:
    """Progress of work counted in `unit`; what was done before the first count does not count as speed."""

    def __init__(self, task: str, unit: str, console: Console, bar: Progress | None) -> None:
        self._unit = unit
        self._console = console
        self._bar = bar
        self._task = bar.add_task(task, note="") if bar else None
        self._first: int | None = None
        self._start = self._last_line = time.monotonic()

    def reach(self, done: int, total: int, note: str = "") -> None:
        """So much of the work is done; `note` says more of it."""
        self._first = done if self._first is None else self._first
        speed = self.speed(done)
        note = f"{self._unit}, {speed:,.1f}/s  {note}".rstrip()
        now = time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, note=note)
        elif (now - self._last_line >= PLAIN_LINE_SECONDS or done == total) and speed:
            self._last_line = now
            minutes = (total - done) / speed / 60
            end = f"{minutes:.1f} min left" if done < total else f"done in {(now - self._start) / 60:.1f} min"
            self._console.print(f"{done:,} of {total:,} {note}  {end}")

    def print(self, line: str) -> None:
        """A line of its own, above the bar."""
        self._console.print(line)

    def speed(self, done: int) -> float:
        """Units a second until `done`."""
        first = done if self._first is None else self._first
        return (done - first) / max(time.monotonic() - self._start, 1e-9)


class StepsProgress:
    """Progress of a training run, or of other work in steps."""

    def __init__(self, work: WorkProgress, steps: int, first: int, pictures_per_step: int) -> None:
        self._work = work
        self._steps, self._done = steps, first
        self._pictures_per_step = pictures_per_step
        work.reach(first, steps)

    def advance(self, losses: Mapping[str, float]) -> None:
        """One step is done."""
        self._done += 1
        pictures = self._work.speed(self._done) * self._pictures_per_step
        self._work.reach(self._done, self._steps, f"{pictures:,.0f} pictures/s  {numbers(losses)}")

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print the metrics of an evaluation."""
        self._work.print(f"step {step}: {numbers(metrics)}")


def numbers(values: Mapping[str, float]) -> str:
    """ "loss 1.234, fid 5.678": short enough for a line."""
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())


def stderr_console() -> Console:
    """Where logs go: stdout is kept for results."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def work_progress(unit: str, task: str = "") -> Iterator[WorkProgress]:
    """Show the progress of a block whose work is counted in `unit`."""
    console = stderr_console()
    if not console.is_terminal:
        yield WorkProgress(task, unit, console, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bar:
        yield WorkProgress(task, unit, console, bar)


@contextlib.contextmanager
def steps_progress(
    steps: int, first: int, *, pictures_per_step: int, task: str = "training"
) -> Iterator[StepsProgress]:
    """Show the progress of steps `first` to `steps` for a block."""
    with work_progress("steps", task) as work:
        yield StepsProgress(work, steps, first, pictures_per_step)
