"""The warm start."""

from dataclasses import replace

import torch

from cgt.images import to_uint8
from cgt.transfer.nearest import nearest_classes
from tests import tiny


def test_pictures_that_the_source_made_are_nearest_to_the_class_that_made_them() -> None:
    task = tiny.task(tiny.PER_LAYER, ("first", "second"))
    generator = task.given_source.generator
    with torch.no_grad():
        for table in generator.banks[0].parameters():
            table.mul_(20)
    made = [2, 0]

    def pictures():
        for label, y in enumerate(made):
            x = to_uint8(generator(torch.randn(40, 6), torch.full((40,), y)))
            yield x, torch.full((40,), label)

    assert nearest_classes(replace(task, pictures=pictures)).tolist() == made


def test_the_source_is_left_as_it_was() -> None:
    task = tiny.task(tiny.HIERARCHICAL)
    before = {key: value.clone() for key, value in task.given_source.generator.state_dict().items()}
    nearest_classes(task)
    after = task.given_source.generator.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
