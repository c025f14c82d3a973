"""Pictures between classes of any banks."""

import pytest
import torch

from cgt.models.biggan import Generator, GeneratorConfig
from cgt.training.trainer import snapshot
from tests import tiny
from tests.transfer.methods import make, trained

ALL = pytest.mark.parametrize("config", tiny.CONDITIONINGS.values(), ids=tiny.CONDITIONINGS)


def extended(config: GeneratorConfig, name: str) -> Generator:
    return snapshot(trained(make(name, config))[0])


@ALL
@pytest.mark.parametrize("name", ["cgantransfer", "minegan"])
def test_at_its_ends_a_way_between_two_classes_is_the_classes_to_the_bit(
    name: str, config: GeneratorConfig
) -> None:
    generator = extended(config, name)
    z_NZ = torch.randn(5, config.dim_z)
    y_NJ = torch.tensor([[1, 5]]).expand(5, -1)
    for end in range(2):
        weight_NJ = torch.nn.functional.one_hot(torch.full((5,), end), 2).float()
        assert torch.equal(generator.interpolate(z_NZ, y_NJ, weight_NJ), generator(z_NZ, y_NJ[:, end]))


@ALL
def test_halfway_between_two_classes_of_one_bank_their_tables_are_halfway(config: GeneratorConfig) -> None:
    generator = extended(config, "cgantransfer")
    generator.fold()
    z_NZ = torch.randn(5, config.dim_z)
    mixed = generator.interpolate(
        z_NZ, torch.tensor([[4, 6]]).expand(5, -1), torch.tensor([[0.25, 0.75]]).expand(5, -1)
    )
    bank = generator.last_bank
    with torch.no_grad():
        for table in bank.tables().of_classes:
            table[1] = 0.25 * table[0] + 0.75 * table[2]
    torch.testing.assert_close(mixed, generator(z_NZ, torch.full((5,), 5)), rtol=0, atol=1e-5)


def test_pictures_change_steadily_from_an_old_class_to_a_new_one() -> None:
    generator = extended(tiny.PER_LAYER, "cgantransfer")
    share = torch.linspace(0, 1, 9)[:, None]
    z_NZ = torch.randn(1, 6).expand(9, -1)
    film = generator.interpolate(z_NZ, torch.tensor([[0, 6]]).expand(9, -1), torch.cat([1 - share, share], 1))
    steps = (film[1:] - film[:-1]).abs().mean((1, 2, 3))
    assert steps.min() > 0
    assert steps.max() < (film[-1] - film[0]).abs().mean()
