"""Work in threads: order, how much is under way, errors."""

import threading
import time
from collections.abc import Iterator

import pytest

from cgt.threads import in_threads


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3 == 0))
        return item * item

    assert list(in_threads(work, range(20), threads=threads, ahead=5)) == [i * i for i in range(20)]


def test_no_more_items_are_made_than_may_wait() -> None:
    made = 0

    def items() -> Iterator[int]:
        nonlocal made
        for item in range(50):
            made += 1
            yield item

    most = max(made - taken for taken, _ in enumerate(in_threads(abs, items(), threads=2, ahead=4), 1))
    assert most == 4


def test_the_next_items_are_made_while_threads_work() -> None:
    third_is_made = threading.Event()

    def items() -> Iterator[int]:
        for item in range(3):
            if item == 2:
                third_is_made.set()
            yield item

    # Of one thread, which waits with its first item for what comes after it.
    assert all(in_threads(lambda _: third_is_made.wait(10), items(), threads=1, ahead=4))


def test_an_error_of_a_thread_reaches_the_caller_and_ends_the_work() -> None:
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 3:
            raise OSError("disk full")
        return item

    with pytest.raises(OSError, match="disk full"):
        list(in_threads(work, range(1000), threads=1, ahead=2))
    assert max(begun) < 10
