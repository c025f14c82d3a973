"""Weights for all classes give what `Generator.interpolate` gives for those that weigh something."""

import pytest
import torch

from cgt.models.banks import with_classes
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.mixing import mixed
from tests import tiny
from tests.models.extended import extended

ALL = pytest.mark.parametrize("config", tiny.CONDITIONINGS.values(), ids=tiny.CONDITIONINGS)


@pytest.fixture(params=tiny.CONDITIONINGS.values(), ids=tiny.CONDITIONINGS)
def generator(request: pytest.FixtureRequest) -> Generator:
    return extended(request.param)


def test_one_class_alone_is_the_class(generator: Generator) -> None:
    y = torch.arange(len(generator.classes))
    z = torch.randn(len(y), generator.dim_z)
    torch.testing.assert_close(mixed(generator, z, torch.eye(len(y))), generator(z, y), atol=1e-5, rtol=0)


def test_classes_of_several_banks_mix_as_interpolation_mixes_them(generator: Generator) -> None:
    n = len(generator.classes)
    y_NJ = torch.stack([torch.randperm(n)[:3] for _ in range(6)])
    weight_NJ = torch.tensor([0.2, 0.7, 0.4]).expand(6, 3)
    z = torch.randn(6, generator.dim_z)
    weight_NS = torch.zeros(6, n).scatter(1, y_NJ, weight_NJ)
    wanted = generator.interpolate(z, y_NJ, weight_NJ)
    torch.testing.assert_close(mixed(generator, z, weight_NS), wanted, atol=1e-5, rtol=0)


@ALL
@pytest.mark.parametrize("kept", [["dog", "yak", "elk"], ["gnu", "elk"], ["owl"], ["bee"]])
def test_a_generator_of_some_classes_makes_them_to_the_bit(config: GeneratorConfig, kept: list[str]) -> None:
    generator = extended(config)
    generator.fold()
    fewer = with_classes(generator, kept)
    assert fewer.classes == [name for name in generator.classes if name in kept]
    assert generator.classes == [*tiny.OLD, "owl", "yak", *tiny.NEW]
    y = torch.tensor([generator.classes.index(name) for name in fewer.classes])
    z = torch.randn(len(y), generator.dim_z)
    assert torch.equal(fewer(z, torch.arange(len(y))), generator(z, y))


def test_raw_banks_lose_classes_too() -> None:
    generator = extended(tiny.HIERARCHICAL)
    fewer = with_classes(generator, ["bee", "fox"])
    z = torch.randn(2, generator.dim_z)
    y = torch.tensor([generator.classes.index(name) for name in ("bee", "fox")])
    torch.testing.assert_close(fewer(z, torch.arange(2)), generator(z, y), atol=1e-5, rtol=0)
