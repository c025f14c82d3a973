"""Work on a sequence in threads: results in order, and little under way at a time."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_threads(work: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int) -> Iterator[R]:
    """`work` of each item, in their order, while the caller's thread makes the next items.

    Args:
        work: such as encoding and writing, which let other threads run meanwhile.
        items: made as they are needed, in the caller's thread.
        threads: how many work.
        ahead: items that may be made before the result of the oldest is taken: that many are held.

    Raises:
        Exception: what `work` or `items` raises; items that no thread has begun are then dropped.
    """
    waiting: collections.deque[Future[R]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
