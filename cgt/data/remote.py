"""Files behind URLs, read through fsspec; and patience where the network or a disk fails for a moment."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from cgt.errors import RunError, UserError
from cgt.files import no_room

CONNECT_SECONDS = 20.0
READ_SECONDS = 30.0
"""How long a server may take to answer, and how long nothing may come from it."""
TRIES = 8
"""Of reading something, with half a minute of pauses in all."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
"""Seconds; each pause is twice the one before."""
BLOCK = 4 * 2**20
"""Bytes read at a time."""

EXTRAS = {"s3": "s3", "gs": "gs"}
"""The extra of the package that a protocol needs."""
PROTOCOLS = ("http", "https", "s3", "gs", "hf")

T = TypeVar("T")


class RefusedError(RunError):
    """There is no such file, or it is not for this user: asking again does not help."""


def is_url(location: str) -> bool:
    """Whether `location` is a URL and not a path."""
    return "://" in location


def read_small(place: str) -> bytes:
    """The content of a small file at `place`, a path or a URL.

    Raises:
        UserError: the URL is of a kind that can't be read here.
        RunError: it can't be read; a `RefusedError` where it is not there.
    """

    def whole() -> bytes:
        return cast(bytes, _filesystem(place).cat_file(place))

    return persistently(whole if is_url(place) else Path(place).read_bytes, place)


@contextlib.contextmanager
def stream(url: str, size: int) -> Iterator[IO[bytes]]:
    """The file of `size` bytes behind `url`, to be read once from start to end.

    Raises:
        UserError: the URL is of a kind that can't be read here.
        Exception: of whatever type the protocol's package raises, here or while reading.
    """
    # A block of 0 is one request for the whole; http would ask for the size first if it was not given.
    ways: dict[str, dict[str, Any]] = {
        "http": {"block_size": 0, "size": size},
        "https": {"block_size": 0, "size": size},
        "hf": {"block_size": 0},
    }
    way = ways.get(_protocol(url), {"block_size": BLOCK, "cache_type": "readahead"})
    with _filesystem(url).open(url, "rb", **way) as file:
        yield file


def persistently(read: Callable[[], T], place: str) -> T:
    """What `read` returns, called again after a pause when it fails.

    Args:
        read: reads the file at `place`, a path or a URL. What it raises is taken for an accident, unless it
            says that there is no such file. UserError, RunError and a full disk pass.
        place: stands in the message.

    Raises:
        RunError: it failed as often as it is tried; a `RefusedError` where that is no accident.
    """
    address, means = ("the address", "the network") if is_url(place) else ("the path", "the disk")
    for number in range(1, TRIES + 1):
        try:
            return read()
        except (UserError, RunError):
            raise
        except Exception as error:  # each protocol's package has errors of its own
            if no_room(error):
                raise
            if _refused(error):
                raise RefusedError(
                    f"{place} can't be read ({_reason(error)}): check {address}, and that you may read it."
                ) from error
            if number == TRIES:
                raise RunError(
                    f"{place} can't be read, tried {TRIES} times ({_reason(error)}): check {means} and "
                    f"{address}, then run the command again."
                ) from error
        pause(number)
    raise AssertionError("the last try returns or raises")


def pause(number: int) -> None:
    """Wait after failure `number`, counted from 1: longer each time, and not in step with other processes."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (number - 1))
    time.sleep(longest * random.SystemRandom().uniform(0.5, 1))  # leaves the seeded generators as they are


def _protocol(url: str) -> str:
    return url.partition("://")[0]


def _filesystem(url: str) -> Any:
    """The file system that `url` is in. fsspec keeps one for each process, and forgets it in a fork."""
    import fsspec

    protocol = _protocol(url)
    if protocol not in PROTOCOLS:
        known = ", ".join(f"{name}://" for name in PROTOCOLS)
        raise UserError(f"{url} is neither a path nor a URL that can be read: these begin with {known}.")
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        remedy = f"run `pip install 'cgt[{EXTRAS[protocol]}]'`" if protocol in EXTRAS else "install cgt again"
        raise UserError(f"{url} needs a package that is not installed ({error}): {remedy}.") from error
    return kind(**_options(protocol))


def _options(protocol: str) -> dict[str, Any]:
    """The time-outs, of those that have none by themselves, or one on the whole file."""
    if protocol not in ("http", "https", "gs"):
        return {}
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
    if protocol == "gs":
        return {"requests_timeout": timeout}
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}  # the environment names proxies


def _refused(error: Exception) -> bool:
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)):
        return True
    answer = getattr(error, "response", None)
    status = getattr(error, "status", None) or getattr(error, "code", None)
    status = status or getattr(answer, "status_code", None)
    too_early_or_too_many = (408, 425, 429)
    return isinstance(status, int) and 400 <= status < 500 and status not in too_early_or_too_many


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, TimeoutError):
        return str(error) or "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
