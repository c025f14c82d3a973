"""`Generator.sample`: which pictures it gives, and what it refuses."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cgt.cli import main
from cgt.errors import UserError
from cgt.images import from_pil
from cgt.models.biggan import Generator
from cgt.models.folder import load_generator, save_model
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tiny.source(tiny.HIERARCHICAL).generator
    source.append(source.new_class_bank(tiny.NEW))
    folder = tmp_path_factory.mktemp("models") / "model"
    save_model(folder, source.eval(), provenance={})
    return folder


@pytest.fixture
def generator(folder: Path) -> Generator:
    return load_generator(folder)


def test_pictures_come_class_by_class_in_the_order_asked_for(generator: Generator) -> None:
    both = generator.sample(["elk", "bee"], n=3, seed=1)
    assert (both.shape, both.dtype) == ((6, 3, tiny.RESOLUTION, tiny.RESOLUTION), torch.uint8)
    turned = generator.sample(["bee", "elk"], n=3, seed=1)
    assert torch.equal(both, torch.cat([turned[3:], turned[:3]]))
    assert len({x.numpy().tobytes() for x in both}) == 6


@pytest.mark.parametrize("truncation", [None, 0.5])
def test_the_pictures_are_those_of_the_command_line_to_the_bit(
    truncation: float | None, folder: Path, generator: Generator, tmp_path: Path
) -> None:
    classes = ["elk", "bee", "ant:0.25+gnu:0.75"]
    words = ["sample", str(folder), "--out", str(tmp_path / "pictures"), "--classes", ",".join(classes)]
    words += ["--per-class", "4", "--seed", "3"]
    assert main([*words, *([] if truncation is None else ["--truncation", str(truncation)])]) == 0
    subfolders = ("004-elk", "001-bee", "mix000-ant-0-25-gnu-0-75")
    files = [path for name in subfolders for path in sorted((tmp_path / "pictures" / name).iterdir())]
    written = torch.stack([from_pil(Image.open(path)) for path in files])
    assert torch.equal(generator.sample(classes, n=4, truncation=truncation, seed=3), written)


def test_fewer_pictures_are_the_first_of_more(generator: Generator) -> None:
    few, more = (generator.sample("cat", n=n, seed=2, batch_size=1) for n in (2, 5))
    assert torch.equal(few, more[:2])
    assert not torch.equal(few, generator.sample("cat", n=2, seed=3, batch_size=1))


def test_classes_go_by_name_by_id_or_all_together(generator: Generator) -> None:
    by_name = generator.sample(["fox", "ant"])
    for ids in ([5, 0], torch.tensor([5, 0]), torch.tensor([5, 0]).numpy(), (5, "ant")):
        assert torch.equal(generator.sample(ids), by_name)
    assert torch.equal(generator.sample("fox"), generator.sample(5))
    assert torch.equal(generator.sample(), generator.sample(generator.classes))
    for one in (1, np.int64(1), torch.tensor(1)):
        assert torch.equal(generator.sample(one, n=2), generator.sample([1], n=2))


def test_a_truncated_latent_is_within_its_bound(generator: Generator) -> None:
    seen: list[float] = []
    generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].abs().max().item()))
    generator.sample(n=20, truncation=0.5)
    generator.sample(n=20)
    assert 0.4 < seen[0] <= 0.5
    assert max(seen[len(seen) // 2 :]) > 1


REFUSED = {
    "a misspelt name": ({"classes": ["fxo"]}, r"classes 'fxo': the model has no class 'fxo' \(did you mean"),
    "a mix of weights that are too large": ({"classes": "ant:1+fox:1"}, "classes .*add up to 2"),
    "an id beyond the last": ({"classes": [7]}, "classes has 7, and the model's ids are 0 to 6"),
    "an id below the first": ({"classes": [-1]}, "classes has -1"),
    "a truth value": ({"classes": [True]}, "classes has True"),
    "a fraction": ({"classes": [0.5]}, "classes has 0.5"),
    "no class": ({"classes": []}, "classes is empty"),
    "a class twice": ({"classes": ["ant", 0]}, "classes has 'ant' twice"),
    "no picture": ({"n": 0}, "n=0: give a whole number from 1 on"),
    "part of a picture": ({"n": 1.5}, "n=1.5"),
    "no truncation that would do": ({"truncation": 0.0}, "truncation=0.0: give a number from 0.01 on"),
    "a truncation without end": ({"truncation": math.inf}, "truncation=inf"),
    "a truncation that is no number": ({"truncation": math.nan}, "truncation=nan"),
    "a seed below 0": ({"seed": -1}, "seed=-1: give a whole number from 0 on"),
    "an empty batch": ({"batch_size": 0}, "batch_size=0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_t_be_sampled_is_refused(case: str, generator: Generator) -> None:
    arguments, rule = REFUSED[case]
    values: dict[str, Any] = arguments
    with pytest.raises(UserError, match=rule):
        generator.sample(**values)


def test_a_generator_in_training_is_left_alone(generator: Generator) -> None:
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    with pytest.raises(UserError, match=r"training mode: call its eval\(\) first"):
        generator.train().sample()
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())
