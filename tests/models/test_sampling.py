"""Pictures of classes and of mixes: what they are a function of."""

import pytest
import torch
from torch import Tensor

from cgt.errors import RunError
from cgt.models.biggan import Generator
from cgt.models.mixes import Mix
from cgt.models.sampling import Drawn, own_latents, pictures_of, shared_latents
from cgt.training.trainer import snapshot
from tests import tiny
from tests.transfer.methods import make, trained

HALF = Mix("ant:0.5+dog:0.5", (("ant", 0.5), ("dog", 0.5)))


@pytest.fixture(scope="module")
def generator() -> Generator:
    generator = tiny.source(tiny.PER_LAYER).generator
    generator.fold()
    return generator


def drawn(generator: Generator, mixes: list[Mix], count: int, batch_size: int = 64) -> list[Tensor]:
    wanted = [(mix, number) for mix in mixes for number in range(count)]
    return list(pictures_of(generator, own_latents(generator, wanted, seed=3), batch_size))


def test_a_picture_is_the_same_whatever_the_batch_size_and_whatever_is_drawn_beside_it(
    generator: Generator,
) -> None:
    ant, dog = Mix.of("ant"), Mix.of("dog")
    expected = drawn(generator, [ant, HALF, dog], 5)
    for batch_size in (1, 4, 7):
        got = drawn(generator, [ant, HALF, dog], 5, batch_size)
        assert (torch.stack(got).int() - torch.stack(expected).int()).abs().max() <= 1  # rounding
    alone = torch.stack(drawn(generator, [dog], 2))
    assert (alone.int() - torch.stack(expected[10:12]).int()).abs().max() <= 1


def test_single_pictures_of_two_classes_share_no_latent_and_rows_of_a_grid_do(generator: Generator) -> None:
    ant, dog = Mix.of("ant"), Mix.of("dog")
    (one, _), (other, _) = own_latents(generator, [(ant, 0), (dog, 0)], seed=3)
    assert not torch.equal(one, other)
    (one, _), (other, _) = shared_latents(generator, [ant, dog], 1, seed=3)
    assert torch.equal(one, other)


def test_truncated_latents_are_within_their_bounds_and_reach_them(generator: Generator) -> None:
    wanted = [(Mix.of("ant"), number) for number in range(200)]
    z_NZ = torch.stack([z_Z for z_Z, _ in own_latents(generator, wanted, seed=0, truncation=0.3)])
    assert 0.29 < z_NZ.abs().max() <= 0.3


def test_in_a_batch_with_mixes_a_class_is_itself_to_the_bit(generator: Generator) -> None:
    z_Z = torch.randn(generator.dim_z)
    pair = [Drawn(z_Z, Mix.of("cat")), Drawn(z_Z, HALF)]
    of_class, of_mix = pictures_of(generator, pair)
    same, _ = pictures_of(generator, [pair[0], pair[0]])
    assert torch.equal(of_class, same)
    assert not torch.equal(of_class, of_mix)


@pytest.mark.parametrize("name", ["cgantransfer", "minegan", "ppgn"])
def test_classes_of_banks_of_any_kind_mix(name: str) -> None:
    generator = snapshot(trained(make(name, tiny.PER_LAYER))[0])
    generator.fold()
    z_Z = torch.randn(generator.dim_z)
    old, new = Mix.of("ant"), Mix.of("fox")
    ends = torch.stack(list(pictures_of(generator, [Drawn(z_Z, old), Drawn(z_Z, new)])))
    way = [Drawn(z_Z, old.towards(new, share)) for share in (0.0, 0.5, 1.0)]
    first, middle, last = pictures_of(generator, way)
    assert (torch.stack([first, last]).int() - ends.int()).abs().max() <= 1
    assert not torch.equal(middle, first)
    assert not torch.equal(middle, last)


def test_pictures_that_are_not_finite_are_an_error() -> None:
    generator = tiny.source(tiny.PER_LAYER).generator
    with torch.no_grad():
        generator.to_rgb.bias.fill_(float("nan"))
    with pytest.raises(RunError, match=r"not finite.*earlier checkpoint"):
        drawn(generator, [Mix.of("ant")], 1)


def test_on_the_way_from_one_mix_to_another_weights_add_up_and_ends_are_the_mixes() -> None:
    cat = Mix.of("cat")
    for share in (0.0, 0.25, 1.0):
        assert sum(weight for _, weight in HALF.towards(cat, share).parts) == pytest.approx(1)
    assert HALF.towards(cat, 0).parts == HALF.parts
    assert HALF.towards(cat, 1).parts == cat.parts
    assert dict(HALF.towards(Mix.of("ant"), 0.5).parts) == {"ant": 0.75, "dog": 0.25}
