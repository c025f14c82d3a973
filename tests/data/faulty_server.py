"""An HTTP server that serves a folder, and fails in the ways that servers and networks do."""

import contextlib
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """What is wrong with one answer."""

    status: int = 200
    after: int | None = None
    """The connection ends after so many bytes of the body; None: after all of them."""
    length: bool = True
    """Whether the right length of the body is announced."""
    stall: bool = False
    """Nothing more comes where the connection would end."""
    flip: bool = False
    """The first byte is another."""
    trickle: bool = False
    """The body comes in small pieces, with pauses between them."""
    delay: float = 0.0
    """Seconds before the answer."""


FINE = Fault()


@dataclass
class FaultyServer:
    """What a test sees of the server."""

    folder: Path
    url: str = ""
    faults: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    """By name of a file, the faults of the next answers; the one after these is fine."""
    always: Fault = FINE
    """The fault of all other answers."""
    requests: Counter[str] = field(default_factory=Counter)
    """By name of a file; of all methods."""
    ending: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[FaultyServer]:
    """Serve `folder` for the block."""
    state = FaultyServer(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            state.requests[name] += 1
            fault = state.faults[name].pop(0) if state.faults[name] else state.always
            time.sleep(fault.delay)
            path = state.folder / name
            if fault.status != 200 or not path.is_file():
                self.send_error(404 if fault.status == 200 else fault.status)
                return
            content = bytearray(path.read_bytes())
            content[0] ^= fault.flip
            if not (fault.stall and fault.after is None):
                self.send_response(200)
                if fault.length:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if fault.trickle:
                    for i in range(0, len(content), 100):
                        self.wfile.write(content[i : i + 100])
                        state.ending.wait(0.02)
                else:
                    self.wfile.write(content[: fault.after])
            if fault.stall:
                state.ending.wait()
            self.close_connection = True

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            """Nothing: tests are quiet."""

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                super().handle()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield state
        finally:
            state.ending.set()
            server.shutdown()
            thread.join()
