"""Numbers of things in lines for people."""

import pytest

from cgt.wording import counted


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "class", "0 classes"),
        (1, "class", "1 class"),
        (2, "shard", "2 shards"),
        (1000, "file", "1,000 files"),
    ],
)
def test_one_thing_is_one_and_any_other_number_is_several(count: int, noun: str, text: str) -> None:
    assert counted(count, noun) == text
