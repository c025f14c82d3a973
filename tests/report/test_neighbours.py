"""Which training pictures the nearest ones are looked for among."""

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from cgt.data import Pictures
from cgt.data.order import share
from cgt.report.neighbours import spread


class Numbered:
    """A set whose pictures are their own numbers, and that knows which of them were made."""

    def __init__(self, count: int) -> None:
        self.count, self.made = count, 0

    def __len__(self) -> int:
        return self.count

    def once(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        for part in torch.arange(self.count)[share(self.count, rank, world)].split(batch_size):
            self.made += len(part)
            yield part, part


def test_of_a_small_set_all_pictures_are_taken() -> None:
    assert spread(as_pictures(Numbered(1000)), 1000).tolist() == list(range(1000))


def test_of_a_large_set_as_many_from_all_its_parts_and_no_more_is_read() -> None:
    pictures = Numbered(8000)
    taken = spread(as_pictures(pictures), 1000)
    assert len(taken) == len(set(taken.tolist())) == pictures.made == 1000
    assert Counter((taken * 10 // 8000).tolist()) == dict.fromkeys(range(10), 100)


def as_pictures(numbered: Numbered) -> Pictures:
    return numbered  # type: ignore[return-value]
