"""Ranks that keep an eye on each other, so that none waits for one that is gone.

Each rank leaves a note in the store in which the ranks met, about once a second, and reads the others'.
"""

import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from cgt.distributed import World, lost_touch
from cgt.errors import RunError, SaidElsewhereError, UserError
from cgt.launching import say

SECONDS = 1.0
"""Between two notes of a rank."""
SILENT = 5.0
"""Seconds without a note after which a rank counts as gone, once touch is lost; more where there are many."""
GRACE = 5.0
"""Seconds for a rank to end by itself when another has failed."""

_NUMBERS = itertools.count()
_PACKAGE = Path(__file__).parents[1]


@dataclass
class _Other:
    """What this rank knows of one rank: its last note, and when it came."""

    note: dict[str, Any]
    seen: float


class Watch:
    """Watches over the ranks of a world for a block; they make one together.

    In the block, a rank that is silent, or stays in one step, for longer than the world's timeout ends the
    process, and so does a rank that has failed, if the block does not end by itself.

    Errors that only say that touch was lost become one that names the rank that is gone; of ranks that fail
    together, the first says why.

    Args:
        world: its ranks.
        advice: what to look at when touch is lost.

    Raises:
        RunError: another rank is gone.
        SaidElsewhereError: another rank failed, or says what happened.
    """

    def __init__(self, world: World, advice: str = "") -> None:
        self._world = world
        self._advice = advice and f" {advice}."
        self._board = world.board(f"cgt-watch-{next(_NUMBERS)}")
        # A store serves some ten thousand notes a second.
        self._pause = SECONDS * max(1.0, (world.size / 64) ** 2)
        self._silent = max(SILENT, 5 * self._pause)
        self._main = threading.get_ident()
        self._number = 0
        self._done = 0
        self._busy_since: float | None = None
        self._code: int | None = None
        self._others: dict[int, _Other] = {}
        self._store_lost = False
        self._leaving = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watch":
        if self._board is not None:
            self._leave_note()
            self._world.gather(None)
            self._read_notes()
            self._thread.start()
        return self

    @contextmanager
    def step(self, done: int) -> Iterator[None]:
        """One step, after `done` others: it must not take longer than the world's timeout."""
        self._done, self._busy_since = done, time.monotonic()
        yield
        self._done, self._busy_since = done + 1, None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._board is None:
            return
        try:
            if error is None:
                self._world.gather(None)
        except Exception as late:
            self._explain(late)
            raise
        else:
            if isinstance(error, Exception) and not isinstance(error, SaidElsewhereError):
                self._explain(error)
        finally:
            self._stop.set()

    def _explain(self, error: Exception) -> None:
        """Raise what tells more than `error`, if anything does, once the others know."""
        self._leaving = True
        if not lost_touch(error):
            self._fail(2 if isinstance(error, UserError) else 1)
            self._wait(2 * self._pause, lambda: False)
            self._raise_if_said_by(range(self._world.rank), error)
            # This rank may hold the store: it stays until the others have read why it goes.
            mine = self._world.rank
            self._wait(GRACE, lambda: all(mine in note["heard"] for note in self._notes().values()))
            return
        everyone = range(self._world.size)
        self._wait(self._silent + self._pause, lambda: bool(self._failed(everyone)))
        self._raise_if_said_by(everyone, error)
        gone = self._gone(self._silent)
        speaker = min({*everyone} - {*gone})
        if speaker != self._world.rank:
            raise SaidElsewhereError(speaker, 1) from error
        self._fail(1)
        self._wait(2 * self._pause, lambda: False)
        if self._store_lost or gone:
            raise RunError(f"{self._named(gone)}: killed, or its machine is gone.{self._advice}") from error
        reason = " ".join(str(error).split())
        where = self._whereabouts()
        raise RunError(f"the ranks lost touch ({reason[:200]}): {where}.{self._advice}") from error

    def _raise_if_said_by(self, ranks: range, error: Exception) -> None:
        if failed := self._failed(ranks):
            first = min(failed)
            raise SaidElsewhereError(first, failed[first]) from error

    def _notes(self) -> dict[int, dict[str, Any]]:
        """The other ranks' last ones."""
        return {rank: other.note for rank, other in self._others.items()}

    def _failed(self, ranks: range) -> dict[int, int]:
        """The exit codes of those of the ranks, other than this one, that failed by themselves."""
        return {rank: note["code"] for rank, note in self._notes().items() if rank in ranks and note["code"]}

    def _gone(self, limit: float) -> list[int]:
        """The ranks that have left no note for `limit` seconds; rank 0 if the store went with it."""
        if self._store_lost:
            return [0] if self._world.rank else []
        now = time.monotonic()
        return [rank for rank, other in self._others.items() if now - other.seen > limit]

    def _named(self, gone: list[int]) -> str:
        """What can be said of ranks that are gone; none of them: of the store."""
        notes = self._notes()
        return (
            ", ".join(
                f"rank {rank} ({notes[rank]['host']}) has not answered since step {notes[rank]['done']}"
                for rank in gone
            )
            or "the store through which the ranks met does not answer"
        )

    def _whereabouts(self) -> str:
        notes = {**self._notes(), self._world.rank: self._note()}
        return ", ".join(
            f"rank {rank} ({note['host']}) is at {note['at']} after step {note['done']}"
            for rank, note in sorted(notes.items())
        )

    def _wait(self, seconds: float, done: Callable[[], bool]) -> None:
        """Until `done()`, or for so long, while notes come in."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not done():
            time.sleep(self._pause / 10)

    def _fail(self, code: int) -> None:
        self._code = code
        self._leave_note()

    def _note(self) -> dict[str, Any]:
        since = self._busy_since
        return {
            "number": self._number,
            "done": self._done,
            "busy": 0.0 if since is None else time.monotonic() - since,
            "at": self._place(),
            "host": socket.gethostname(),
            "code": self._code,
            "heard": list(self._failed(range(self._world.size))),
        }

    def _place(self) -> str:
        """Where in this package the training is."""
        frame = sys._current_frames().get(self._main)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(_PACKAGE) and path != Path(__file__):
                return f"{path.relative_to(_PACKAGE.parent)}:{frame.f_lineno}"
            frame = frame.f_back
        return "its end"

    def _leave_note(self) -> None:
        assert self._board is not None
        self._number += 1
        try:
            self._board.set(str(self._world.rank), json.dumps(self._note()))
        except RuntimeError:
            self._store_lost = True

    def _read_notes(self) -> None:
        assert self._board is not None
        ranks = [rank for rank in range(self._world.size) if rank != self._world.rank]
        try:
            notes = [json.loads(text) for text in self._board.multi_get([str(rank) for rank in ranks])]
        except RuntimeError:
            self._store_lost = True
            return
        now = time.monotonic()
        for rank, note in zip(ranks, notes, strict=True):
            if rank not in self._others or self._others[rank].note["number"] != note["number"]:
                self._others[rank] = _Other(note, now)

    def _watch(self) -> None:
        patience = GRACE
        while not self._stop.wait(self._pause):
            if not self._store_lost:
                self._leave_note()
                self._read_notes()
            if self._leaving:
                continue
            failed = self._failed(range(self._world.size))
            if failed or self._store_lost:
                patience -= self._pause
            if patience < 0:
                code = failed[min(failed)] if failed else 1
                self._give_up(None if failed else self._named(self._gone(self._silent)), code)
            elif not self._store_lost and (gone := self._gone(self._world.timeout)):
                self._give_up(f"{self._named(gone)}, for {self._world.timeout:g} s", 1)
            elif self._longest() > self._world.timeout:
                self._give_up(f"no step ended for {self._world.timeout:g} s: {self._whereabouts()}", 1)

    def _longest(self) -> float:
        """Seconds of the longest present step of any rank."""
        return float(max(self._note()["busy"], *(note["busy"] for note in self._notes().values())))

    def _give_up(self, reason: str | None, code: int) -> None:
        """End this process, whatever it waits for; the first of the ranks that are there says why."""
        first = min({*range(self._world.size)} - {*self._gone(self._silent)})
        if reason and first == self._world.rank:
            say(f"error: {reason}: the run ends.{self._advice}")
        os._exit(code)
