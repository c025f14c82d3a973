"""Sizes, layouts and initialisation of the networks, and what is said of shapes that can't be."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.discriminator import Discriminator, DiscriminatorConfig
from cgt.models.layers import SelfAttention
from cgt.models.layouts import DISCRIMINATOR_LAYOUTS, GENERATOR_LAYOUTS

IMAGENET = {"ch": 96, "attention": (64,)}
TWO = ["a", "b"]


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameters_at_128_px_and_1000_classes_are_as_many_as_published() -> None:
    classes = [str(i) for i in range(1000)]
    config = GeneratorConfig(dim_z=120, shared_dim=128, hierarchical=True, **IMAGENET)
    with torch.device("meta"):
        assert size(Generator(config, 128, classes)) == 70_433_988
        assert size(Discriminator(DiscriminatorConfig(**IMAGENET), 128, classes)) == 87_982_370


def test_parameters_for_cifar10_are_as_many_as_published() -> None:
    classes = [str(i) for i in range(10)]
    with torch.device("meta"):
        assert size(Generator(GeneratorConfig(ch=64, dim_z=128), 32, classes)) == 4_304_387
        assert size(Discriminator(DiscriminatorConfig(ch=64), 32, classes)) == 4_207_361


@pytest.mark.parametrize("resolution", sorted(GENERATOR_LAYOUTS))
@pytest.mark.parametrize("hierarchical", [False, True])
def test_every_published_resolution_runs_from_latents_to_logits(resolution: int, hierarchical: bool) -> None:
    shared = 16 if hierarchical else 0
    config = GeneratorConfig(ch=8, dim_z=840, shared_dim=shared, hierarchical=hierarchical)
    y = torch.zeros(2, dtype=torch.int64, device="meta")
    with torch.device("meta"):
        generator = Generator(config, resolution, TWO)
        discriminator = Discriminator(DiscriminatorConfig(ch=8), resolution, TWO)
        images = generator(torch.empty(2, 840), y)
        assert images.shape == (2, 3, resolution, resolution)
        assert discriminator(images, y).shape == (2,)


def test_generator_starts_at_4_px_and_discriminator_ends_there_but_at_32_px() -> None:
    for resolution in GENERATOR_LAYOUTS:
        with torch.device("meta"):
            assert Generator(GeneratorConfig(ch=1), resolution, TWO).bottom == 4
        assert resolution >> DISCRIMINATOR_LAYOUTS[resolution][1] == (8 if resolution == 32 else 4)


def test_pictures_are_in_range_and_depend_on_latent_and_class() -> None:
    config = GeneratorConfig(channels=(8, 8, 8), dim_z=6, shared_dim=4, hierarchical=True, init="orthogonal")
    generator = Generator(config, 8, TWO).eval()
    z = torch.randn(2, 6)
    with torch.no_grad():
        one, other = generator(z, torch.tensor([0, 0])), generator(z, torch.tensor([1, 1]))
    assert one.abs().max() <= 1
    assert not torch.allclose(one, other, atol=1e-4)
    assert not torch.allclose(one[0], one[1], atol=1e-4)


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_every_chunk_of_hierarchical_z_reaches_the_picture(chunk: int) -> None:
    config = GeneratorConfig(channels=(8, 8, 8), dim_z=6, shared_dim=4, hierarchical=True, init="orthogonal")
    generator = Generator(config, 8, TWO).eval()
    z, y = torch.randn(1, 6), torch.tensor([0])
    moved = z.clone()
    moved[:, 2 * chunk : 2 * chunk + 2] += 1
    with torch.no_grad():
        assert not torch.allclose(generator(z, y), generator(moved, y), atol=1e-4)


@pytest.mark.parametrize(("resolution", "block"), [(8, 0), (16, 1), (32, 2)])
def test_attention_follows_the_block_that_ends_at_its_resolution(resolution: int, block: int) -> None:
    generator = Generator(GeneratorConfig(channels=(8, 8, 16, 24), dim_z=4, attention=(resolution,)), 32, TWO)
    assert list(generator.attention) == [str(block)]
    seen: list[torch.Size] = []
    generator.attention[str(block)].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    generator(torch.randn(2, 4), torch.tensor([0, 1]))
    assert seen == [(2, (8, 16, 24)[block], resolution, resolution)]


def test_discriminator_attention_stands_after_the_first_block_of_its_resolution() -> None:
    discriminator = Discriminator(DiscriminatorConfig(ch=8, attention=(64,)), 128, TWO)
    assert list(discriminator.attention) == ["0"]
    assert list(Discriminator(DiscriminatorConfig(ch=8, attention=(8,)), 32, TWO).attention) == ["1"]


def test_attention_is_the_softmax_over_pooled_keys_and_begins_as_the_identity() -> None:
    attention = SelfAttention(16).eval()
    x = torch.randn(2, 16, 6, 6)
    with torch.no_grad():
        assert torch.equal(attention(x), x)
        attention.gain.fill_(0.7)
        query = attention.query(x).flatten(2)
        key = nn.functional.max_pool2d(attention.key(x), 2).flatten(2)
        value = nn.functional.max_pool2d(attention.value(x), 2).flatten(2)
        expected = torch.empty(2, 8, 36)
        for n, pixel in itertools.product(range(2), range(36)):
            weights = (query[n, :, pixel] @ key[n]).softmax(0)
            expected[n, :, pixel] = value[n] @ weights
        torch.testing.assert_close(attention(x), x + 0.7 * attention.out(expected.view(2, 8, 6, 6)))


@pytest.mark.parametrize("shared", [0, 12])
def test_orthogonal_initialisation_reaches_every_weight_and_table(shared: int) -> None:
    config = GeneratorConfig(channels=(16, 16, 16), dim_z=10, shared_dim=shared, init="orthogonal")
    discriminator = Discriminator(DiscriminatorConfig(channels=(8, 8), init="orthogonal"), 8, TWO)
    for network in (Generator(config, 8, TWO), discriminator):
        for name, parameter in network.named_parameters():
            if parameter.ndim >= 2:
                matrix = parameter.detach().flatten(1)
                short = matrix if len(matrix) <= matrix.shape[1] else matrix.t()
                torch.testing.assert_close(
                    short @ short.t(), torch.eye(len(short)), atol=1e-5, rtol=0, msg=name
                )


@pytest.mark.parametrize("shared", [0, 12])
def test_normal_initialisation_has_a_deviation_of_2_percent_everywhere(shared: int) -> None:
    config = GeneratorConfig(channels=(32, 32, 32), dim_z=40, shared_dim=shared, init="normal")
    classes = [str(i) for i in range(40)]
    discriminator = Discriminator(DiscriminatorConfig(channels=(32, 32), init="normal"), 8, classes)
    for network in (Generator(config, 8, classes), discriminator):
        for name, parameter in network.named_parameters():
            if parameter.ndim >= 2:
                # Four standard errors.
                error = 4 / parameter.numel() ** 0.5
                assert float(parameter.detach().std()) == pytest.approx(0.02, rel=error), name
                assert float(parameter.detach().mean()) == pytest.approx(0, abs=0.02 * error), name


IMPOSSIBLE: list[tuple[type[Any], dict[str, Any], int, list[str], str]] = [
    (
        Generator,
        {"dim_z": 121, "shared_dim": 8, "hierarchical": True},
        128,
        TWO,
        "121 can't.* 6 equal .*: use 120 or 126",
    ),
    (Generator, {"dim_z": 3, "shared_dim": 8, "hierarchical": True}, 128, TWO, "3 can't be split.*: use 6$"),
    (Generator, {"hierarchical": True}, 32, TWO, "needs a shared embedding: set shared_dim"),
    (Generator, {}, 48, TWO, "no published BigGAN at 48 px .*32, 64.*: give channels"),
    (
        Generator,
        {"channels": (8, 8, 8)},
        50,
        TWO,
        "2 blocks that double the size can't end at 50 px: give other channels",
    ),
    (Generator, {"channels": (8,) * 9}, 32, TWO, "can't end at 32 px: give other channels"),
    (Generator, {"channels": ()}, 32, TWO, r"channels are \[\], and must be at least 2 widths.*: give more"),
    (Generator, {"channels": (8, 0, 8)}, 32, TWO, "must be at least 2 widths of 1 or more"),
    (Generator, {"ch": 0}, 32, TWO, "ch is 0, and must be at least 1: raise it"),
    (Generator, {"dim_z": -4}, 32, TWO, "dim_z is -4, and must be at least 1"),
    (Generator, {"shared_dim": -1}, 32, TWO, "shared_dim is -1, and must be at least 0"),
    (Generator, {"bn_eps": 0.0}, 32, TWO, "bn_eps is 0.0, and must be above 0"),
    (
        Generator,
        {"attention": (64,)},
        32,
        TWO,
        r"attention at \[64\] px.* end at \[8, 16, 32\] px; name some of these",
    ),
    (Generator, {"ch": 1, "attention": (16,)}, 32, TWO, "needs at least 8 channels there, not 4: widen"),
    (Generator, {}, 32, ["a", "b", "a"], "names must differ, but 'a' stands twice: rename one"),
    (Generator, {}, 32, [], "at least one class, and there is none: give its name"),
    (
        Discriminator,
        {"channels": (8,) * 8},
        32,
        TWO,
        "7 halvings of 32 px leave nothing: give fewer channels",
    ),
    (Discriminator, {"channels": ()}, 32, TWO, "must be at least 1 widths of 1 or more"),
    (Discriminator, {"ch": -1}, 32, TWO, "ch is -1"),
    (Discriminator, {"channels": (8, 8, 8), "attention": (1,)}, 4, TWO, "at least 2 px: leave it out"),
    (Discriminator, {}, 32, ["a", "a"], "'a' stands twice: rename one"),
]


@pytest.mark.parametrize(("kind", "values", "resolution", "classes", "told"), IMPOSSIBLE)
def test_impossible_shapes_are_told_by_value_rule_and_remedy(
    kind: type[Any], values: dict[str, Any], resolution: int, classes: list[str], told: str
) -> None:
    config = GeneratorConfig if kind is Generator else DiscriminatorConfig
    with pytest.raises(ValueError, match=told):
        kind(config(**values), resolution, classes)


def test_latents_of_another_width_are_refused() -> None:
    config = GeneratorConfig(channels=(8, 8), dim_z=4, shared_dim=4, hierarchical=True)
    with pytest.raises(ValueError, match="z has 6 numbers a picture, and this generator takes 4"):
        Generator(config, 8, TWO)(torch.randn(2, 6), torch.tensor([0, 1]))
