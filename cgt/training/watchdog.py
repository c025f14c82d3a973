"""Ranks that keep an eye on each other, so that none waits for one that is gone.

Each rank leaves a note in the store in which the ranks met, about once a second, and reads the others'. Rank
0 holds the store, and a call to it may never return when rank 0 is stopped or the network to it is cut,
whatever time-out the store has. So one thread talks to the store and does nothing else; what waits or decides
looks at what that thread has found, and at how long ago.
"""

import contextlib
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

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
_WAITING = Path(__file__), _PACKAGE / "distributed.py"
"""Where ranks wait for each other: that they do says little."""


@dataclass(frozen=True)
class _Note:
    """What a rank tells the others."""

    time: float
    """By its own clock: no two notes of a rank have the same."""
    host: str
    done: int
    busy: float
    """Seconds in the present step."""
    at: str
    """A line of this package."""
    code: int | None
    """With which it fails."""
    heard: list[int]
    """Of which ranks it knows that they fail."""
    ending: bool
    """Whether it ends by itself, and need not know."""


@dataclass
class _Other:
    """What this rank knows of one rank: its last note, and when it came."""

    note: _Note
    seen: float


class _Exchange:
    """The thread that talks to the store."""

    def __init__(self, board: Any, world: World, write: Callable[[], _Note]) -> None:
        # A store serves some ten thousand notes a second.
        self.pause = SECONDS * max(1.0, (world.size / 64) ** 2)
        """Seconds from one to the next."""
        self.silent = max(SILENT, 5 * self.pause)
        """Seconds without a note that say that a rank is gone."""
        self.others: dict[int, _Other] = {}
        self.last = time.monotonic()
        """When the last exchange was over."""
        self.closed = False
        """Whether the store has gone away."""
        self.told: int | None = None
        """The exit code that the others can read."""
        self._board = board
        self._world = world
        self._write = write
        self._ending = False
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notes", daemon=True)

    def start(self) -> None:
        """All ranks do this together."""
        self._leave_note()
        self._take(dict(enumerate(self._world.gather(self._write()))))
        self._thread.start()

    def hurry(self) -> None:
        """Have the next exchange begin now."""
        self._hurry.set()

    def end(self) -> None:
        """One last exchange; where the store answers, the thread is over when this returns."""
        self._ending = True
        self.hurry()
        self._thread.join(0 if self.lost(self.silent) else GRACE)

    def lost(self, limit: float) -> bool:
        """Whether the store has gone away, or an exchange has taken longer than `limit` seconds."""
        return self.closed or time.monotonic() - self.last > limit

    def _run(self) -> None:
        keys = [str(rank) for rank in range(self._world.size)]
        while True:
            last = self._ending
            self._hurry.clear()
            try:
                note = self._leave_note()
                texts = self._board.multi_get(keys)
            except RuntimeError:
                self.closed = True
                return
            self._take({rank: _Note(**json.loads(text)) for rank, text in enumerate(texts)})
            self.told = note.code
            if last:
                return
            self._hurry.wait(self.pause)

    def _leave_note(self) -> _Note:
        note = self._write()
        self._board.set(str(self._world.rank), json.dumps(asdict(note)))
        return note

    def _take(self, notes: Mapping[int, _Note]) -> None:
        now = time.monotonic()
        for rank, note in notes.items():
            known = self.others.get(rank)
            if rank != self._world.rank and (known is None or known.note.time != note.time):
                self.others[rank] = _Other(note, now)
        self.last = now


class Watch:
    """Watches over the ranks of a world for a block; they make one together.

    In the block, a rank that is silent, or stays in one step, for longer than the world's timeout ends the
    process, and so does a rank that has failed, if the block does not end by itself.

    Errors that only say that touch was lost become one that names the rank that is gone; of ranks that fail
    together, the first says why. When the store does not answer, ranks know nothing more of each other, and
    the first on each host says so.

    Args:
        world: its ranks.
        advice: what to look at when touch is lost.
        unit: what a rank does one of after the other.

    Raises:
        RunError: another rank is gone.
        SaidElsewhereError: another rank failed, or says what happened.
    """

    def __init__(self, world: World, advice: str = "", unit: str = "step") -> None:
        self._world = world
        self._advice = advice and f" {advice}."
        self._unit = unit
        self._main = threading.get_ident()
        self._done = 0
        self._busy_since: float | None = None
        self._code: int | None = None
        self._ending = False
        self._exchange = _Exchange(world.board(f"cgt-watch-{next(_NUMBERS)}"), world, self._note)
        self._pause, self._silent = self._exchange.pause, self._exchange.silent
        self._decision = threading.Lock()
        """Held by the thread that says how this process ends."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watch":
        if self._world.size > 1:
            self._exchange.start()
            self._thread.start()
        return self

    @contextlib.contextmanager
    def step(self, done: int) -> Iterator[None]:
        """One step, after `done` others: it must not take longer than the world's timeout."""
        self._done, self._busy_since = done, time.monotonic()
        yield
        self._done, self._busy_since = done + 1, None

    def reached(self, done: int) -> None:
        """Note how much is done, where no limit holds for a part of it."""
        self._done = done

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._world.size == 1:
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
            self._over.set()
            self._end()
        if error is None:
            with contextlib.suppress(RuntimeError):  # of a rank that is gone: all was done
                self._world.gather(None)  # so that rank 0, which holds the store, does not leave first

    def _explain(self, error: Exception) -> None:
        """Raise what tells more than `error`, if anything does, once the others know."""
        self._decision.acquire()  # for good; another thread that has it ends the process
        if lost_touch(error):
            self._explain_lost_touch(error)
        before = range(self._world.rank)
        self._tell(2 if isinstance(error, UserError) else 1)
        self._wait(2 * self._pause, lambda: bool(self._failed(before)))
        self._raise_if_said_by(before, error)
        self._stay()

    def _explain_lost_touch(self, error: Exception) -> NoReturn:
        everyone = range(self._world.size)
        self._wait(
            self._silent + self._pause, lambda: bool(self._failed(everyone) or self._gone(self._silent))
        )
        # Others that are gone show now, too.
        self._wait(2 * self._pause, lambda: bool(self._failed(everyone)))
        self._raise_if_said_by(everyone, error)
        gone = self._gone(self._silent)
        if (speaker := self._speaker()) != self._world.rank:
            raise SaidElsewhereError(speaker, 1) from error
        lost, where = self._exchange.lost(self._silent), self._whereabouts()
        self._tell(1)
        self._stay()
        if lost or gone:
            reason = f"{self._named(gone)}: killed, or its machine or the network to it is gone"
        else:
            reason = f"the ranks lost touch ({' '.join(str(error).split())[:200]}): {where}"
        raise RunError(f"{reason}.{self._advice}") from error

    def _raise_if_said_by(self, ranks: range, error: Exception) -> None:
        if failed := self._failed(ranks):
            first = min(failed)
            raise SaidElsewhereError(first, failed[first]) from error

    def _notes(self) -> dict[int, _Note]:
        """The other ranks' last ones."""
        return {rank: other.note for rank, other in self._exchange.others.items()}

    def _failed(self, ranks: range) -> dict[int, int]:
        """The exit codes of those of the ranks, other than this one, that failed by themselves."""
        return {rank: note.code for rank, note in self._notes().items() if rank in ranks and note.code}

    def _gone(self, limit: float) -> list[int]:
        """The ranks that have left no note for `limit` seconds; rank 0 if the store does not answer."""
        if self._exchange.lost(limit):
            return [0] if self._world.rank else []
        last = self._exchange.last
        return [rank for rank, other in self._exchange.others.items() if last - other.seen > limit]

    def _speaker(self) -> int:
        """Which rank says what has happened: the first that is there, as far as this one can know."""
        notes, me = self._notes(), self._world.rank
        if self._exchange.lost(self._silent):
            host = socket.gethostname()
            return min([me, *(rank for rank, note in notes.items() if rank and note.host == host)])
        return min({me, *notes} - {*self._gone(self._silent)})

    def _named(self, gone: list[int]) -> str:
        """What can be said of ranks that are gone; none of them: of the store."""
        notes = self._notes()
        return (
            ", ".join(
                f"rank {rank} ({notes[rank].host}) has not answered since {self._unit} {notes[rank].done}"
                for rank in gone
            )
            or "the store through which the ranks met does not answer"
        )

    def _whereabouts(self) -> str:
        notes = {**self._notes(), self._world.rank: self._note()}
        return ", ".join(
            f"rank {rank} ({note.host}) is at {note.at} after {self._unit} {note.done}"
            for rank, note in sorted(notes.items())
        )

    def _wait(self, seconds: float, done: Callable[[], bool]) -> None:
        """Until `done()`, or for so long, while notes come in."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not done():
            time.sleep(self._pause / 10)

    def _tell(self, code: int) -> None:
        """Let the others read that this rank fails, if the store takes it."""
        exchange = self._exchange
        self._code = code
        exchange.hurry()
        self._wait(GRACE, lambda: exchange.told == code or exchange.lost(self._silent))

    def _stay(self) -> None:
        """Keep the store, if this rank holds it, until the others have read why it goes."""
        if self._world.rank:
            return

        def known() -> bool:
            gone = self._gone(self._silent)
            there = [note for rank, note in self._notes().items() if rank not in gone]
            return all(0 in note.heard or note.ending for note in there)

        self._wait(GRACE, known)

    def _end(self) -> None:
        self._ending = True
        self._exchange.end()

    def _note(self) -> _Note:
        now, since = time.monotonic(), self._busy_since
        return _Note(
            time=now,
            host=socket.gethostname(),
            done=self._done,
            busy=0.0 if since is None else now - since,
            at=self._place(),
            code=self._code,
            heard=list(self._failed(range(self._world.size))),
            ending=self._ending,
        )

    def _place(self) -> str:
        """Where in this package the main thread is."""
        frame = sys._current_frames().get(self._main)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(_PACKAGE) and path not in _WAITING:
                return f"{path.relative_to(_PACKAGE.parent)}:{frame.f_lineno}"
            frame = frame.f_back
        return "its end"

    def _watch(self) -> None:
        """Look at what is known, and never wait for it."""
        patience, limit = GRACE, self._world.timeout
        while not self._over.wait(self._pause):
            failed = self._failed(range(self._world.size))
            if failed or self._exchange.closed:
                patience -= self._pause
            if patience < 0:
                code = failed[min(failed)] if failed else 1
                self._give_up(None if failed else self._named(self._gone(self._silent)), code)
            elif self._longest() > limit or (not self._exchange.closed and self._gone(limit)):
                # Of ranks in a step for too long, those that are silent are why.
                if gone := self._gone(self._silent):
                    self._give_up(f"{self._named(gone)}, and no {self._unit} ended for {limit:g} s", 1)
                else:
                    self._give_up(f"no {self._unit} ended for {limit:g} s: {self._whereabouts()}", 1)

    def _longest(self) -> float:
        """Seconds of the longest present step of any rank."""
        return max(self._note().busy, *(note.busy for note in self._notes().values()))

    def _give_up(self, reason: str | None, code: int) -> None:
        """End this process, whatever it waits for, unless it is ending by itself."""
        if not self._decision.acquire(blocking=False):
            return
        if reason and self._speaker() == self._world.rank:
            say(f"error: {reason}: the run ends.{self._advice}")
            self._tell(code)
            self._stay()
        self._end()
        os._exit(code)
