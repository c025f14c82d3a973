"""Class banks: what is appended, folded or mixed leaves every other class what it was, to the bit."""

import copy

import pytest
import torch
from torch import Tensor

from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.norm import ClassBank, EmbeddedBank

OLD = ["ant", "bee", "cat", "dog"]
NEW = ["elk", "fox", "gnu"]
NEWER = ["hen"]
CONFIGS = {
    "per-layer": GeneratorConfig(channels=(16, 12, 10), dim_z=6, init="orthogonal"),
    "shared": GeneratorConfig(channels=(16, 12, 10), dim_z=6, shared_dim=5, init="orthogonal"),
    "hierarchical": GeneratorConfig(
        channels=(16, 12, 10), dim_z=9, shared_dim=5, hierarchical=True, attention=(8,), init="orthogonal"
    ),
}


def perturb(module: torch.nn.Module, amount: float = 0.3) -> None:
    """Move every parameter and statistic off its neutral value."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(amount * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("mean"):
                buffer.normal_()
            elif name.endswith("var"):
                buffer.uniform_(0.5, 2)


@pytest.fixture(params=CONFIGS)
def source(request: pytest.FixtureRequest) -> Generator:
    """A generator of one bank with something to lose in every part."""
    generator = Generator(CONFIGS[request.param], 16, OLD)
    perturb(generator)
    return generator.eval().requires_grad_(False)


@pytest.fixture
def extended(source: Generator) -> Generator:
    """The source with two more banks."""
    generator = copy.deepcopy(source)
    for classes in (NEW, NEWER):
        bank = generator.new_class_bank(classes)
        perturb(bank)
        generator.append(bank.requires_grad_(False))
    return generator.eval()


def latents(generator: Generator, count: int = 8) -> Tensor:
    return torch.randn(count, generator.dim_z)


def test_classes_count_along_the_banks(extended: Generator) -> None:
    assert extended.classes == OLD + NEW + NEWER
    assert [bank.classes for bank in extended.banks] == [tuple(OLD), tuple(NEW), tuple(NEWER)]


def test_a_name_that_is_there_already_is_refused(source: Generator) -> None:
    with pytest.raises(ValueError, match="classes called 'bee' already: give the new ones other names"):
        source.append(source.new_class_bank(["yak", "bee"]))
    assert source.classes == OLD


@pytest.mark.parametrize("folded", [False, True])
def test_old_classes_are_bit_identical_after_banks_are_appended(
    folded: bool, source: Generator, extended: Generator
) -> None:
    if folded:
        extended.fold()
    z = latents(source)
    for y in range(len(OLD)):
        labels = torch.full((8,), y)
        assert torch.equal(extended(z, labels), source(z, labels))


@pytest.mark.parametrize("folded", [False, True])
def test_a_mixed_batch_gives_each_picture_what_a_batch_of_its_class_gives_it(
    folded: bool, extended: Generator
) -> None:
    if folded:
        extended.fold()
    z, y = latents(extended), torch.tensor([0, 7, 4, 3, 5, 1, 6, 2])
    mixed = extended(z, y)
    for sample in range(8):
        alone = extended(z, y[sample].expand(8))
        assert torch.equal(mixed[sample], alone[sample])


def test_a_picture_does_not_depend_on_what_shares_its_batch(extended: Generator) -> None:
    z, y = latents(extended), torch.tensor([0, 7, 4, 3, 5, 1, 6, 2])
    other_z, other_y = latents(extended), torch.tensor([7, 7, 0, 0, 6, 6, 1, 1])
    other_z[3], other_y[3] = z[3], y[3]
    assert torch.equal(extended(other_z, other_y)[3], extended(z, y)[3])


@pytest.mark.parametrize("size", [1, 3, 5])
def test_other_batch_sizes_give_the_same_pictures_up_to_rounding(size: int, extended: Generator) -> None:
    z, y = latents(extended), torch.tensor([0, 7, 4, 3, 5, 1, 6, 2])
    parts = [extended(*part) for part in zip(z.split(size), y.split(size), strict=True)]
    torch.testing.assert_close(torch.cat(parts), extended(z, y), atol=1e-5, rtol=0)


def test_classes_of_different_banks_differ(extended: Generator) -> None:
    """Else the tests above would hold for a generator that ignores y."""
    z = latents(extended, 1).expand(8, -1)
    pictures = extended(z, torch.arange(8))
    distances = torch.cdist(pictures.flatten(1), pictures.flatten(1)) + torch.eye(8) * 9
    assert distances.min() > 0.1


@pytest.mark.parametrize("training", [False, True])
def test_folding_changes_no_picture_and_no_mode(training: bool, source: Generator) -> None:
    z, y = latents(source), torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    expected = source(z, y)
    source.train(training).fold()
    assert {module.training for module in source.modules()} == {training}
    assert torch.equal(source.eval()(z, y), expected)
    assert all(type(bank) is ClassBank for bank in source.banks)
    assert not [name for name in source.state_dict() if name.endswith(".u")]
    source.fold()
    assert torch.equal(source(z, y), expected)


def test_folding_keeps_the_number_type(source: Generator) -> None:
    source.double().fold()
    assert {tensor.dtype for tensor in source.state_dict().values()} == {torch.float64}
    z, y = latents(source).double(), torch.zeros(8, dtype=torch.int64)
    assert source(z, y).dtype == torch.float64


def test_baked_bank_shares_nothing_with_its_origin(source: Generator) -> None:
    baked = source.banks[0].baked()
    before = {name: tensor.clone() for name, tensor in source.banks[0].state_dict().items()}
    perturb(baked)
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.banks[0].state_dict().items())


def test_training_updates_the_last_banks_statistics_alone(extended: Generator) -> None:
    before = copy.deepcopy(extended.banks)
    extended.train()(latents(extended), torch.full((8,), 7))
    for index, (old, new) in enumerate(zip(before, extended.banks, strict=True)):
        moved = [
            not torch.equal(a.mean, b.mean) and not torch.equal(a.var, b.var)
            for a, b in zip(old.statistics, new.statistics, strict=True)
        ]
        assert set(moved) == {index == 2}


def test_training_a_new_bank_leaves_the_old_classes_of_a_folded_generator_bit_identical(
    source: Generator,
) -> None:
    z, old = latents(source), torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    expected = source(z, old)
    source.fold()
    source.requires_grad_(False)
    source.append(source.new_class_bank(NEW))
    optimiser = torch.optim.Adam([p for p in source.parameters() if p.requires_grad], lr=0.1)
    y = torch.tensor([4, 5, 6, 4, 5, 6, 4, 5])
    before = source.eval()(z, y)
    for _ in range(3):
        optimiser.zero_grad()
        source.train()(z, y).mean().backward()
        optimiser.step()
    assert not torch.allclose(source.eval()(z, y), before, atol=1e-3)
    assert torch.equal(source(z, old), expected)


def test_training_gives_the_same_with_tables_built_before(source: Generator) -> None:
    source.fold()
    z, y = latents(source), torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    assert torch.equal(source.train()(z, y, source.banks[-1].tables()), source(z, y))


def test_evaluation_takes_the_last_banks_tables_from_the_caller(extended: Generator) -> None:
    z, y = latents(extended), torch.arange(8)
    zero = extended.banks[-1].tables()
    zero = type(zero)(*(tuple(torch.zeros_like(table) for table in group) for group in zero))
    replaced = extended(z, y, zero)
    assert torch.equal(replaced[:7], extended(z, y)[:7])
    assert not torch.allclose(replaced[7], extended(z, y)[7], atol=1e-3)


def test_a_shared_embedding_makes_an_embedded_bank_and_new_banks_are_plain_tables() -> None:
    generator = Generator(CONFIGS["hierarchical"], 16, OLD)
    assert isinstance(generator.banks[0], EmbeddedBank)
    assert type(generator.new_class_bank(NEW)) is ClassBank
    assert [tuple(table.shape) for table in generator.new_class_bank(NEW).latent_scale] == [
        (16, 3),
        (12, 3),
        (12, 3),
        (10, 3),
    ]


@pytest.mark.parametrize("y", [-1, 8])
def test_class_ids_that_do_not_exist_are_refused(y: int, extended: Generator) -> None:
    rule = f"there is no class {y}: ids are 0 to 7"
    with pytest.raises(ValueError, match=rule):
        extended(latents(extended), torch.full((8,), y))
    with pytest.raises(ValueError, match=rule):
        extended.interpolate(latents(extended), torch.tensor([[0, y]] * 8), torch.full((8, 2), 0.5))


def test_in_training_the_ids_are_those_of_the_last_bank(extended: Generator) -> None:
    first = extended.first_of_last_bank
    extended = copy.deepcopy(extended).train()
    extended(latents(extended), torch.full((8,), first))
    with pytest.raises(ValueError, match=f"no class {first - 1}: ids are {first} to 7.* of its last bank"):
        extended(latents(extended), torch.full((8,), first - 1))


def test_where_ids_are_on_another_device_nobody_waits_for_their_values(extended: Generator) -> None:
    """Of the meta device there is no value to wait for: looking at one is an error."""
    extended = copy.deepcopy(extended).to("meta")
    x = extended(latents(extended).to("meta"), torch.zeros(8, dtype=torch.int64, device="meta"))
    assert x.shape == (8, 3, extended.resolution, extended.resolution)
