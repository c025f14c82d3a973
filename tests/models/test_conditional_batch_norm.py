"""ConditionalBatchNormReLU and its conditions, against batch norm written out by hand.

Shapes: N samples, C channels, n classes, K latent chunk.
"""

import pytest
import torch
from torch import Tensor

from cgt.models.conditions import evaluation_conditions, located, training_conditions
from cgt.models.norm import (
    ClassBank,
    ClassTables,
    ConditionalBatchNormReLU,
    EmbeddedBank,
    Latents,
)

EPS = 1e-3
WIDTHS = (4, 3)
OUTPUT = 2
LATENT = 5
NO_LATENTS = Latents(torch.empty(0))


def random_bank(classes: int, latent: int = 0) -> ClassBank:
    """A bank with nothing at its neutral value."""
    bank = ClassBank([f"{classes}-{i}" for i in range(classes)], WIDTHS, OUTPUT, latent=latent)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.normal_()
        for statistics in bank.statistics:
            statistics.mean.normal_()
            statistics.var.uniform_(0.5, 2)
    return bank


def output_affine() -> tuple[Tensor, Tensor]:
    return torch.randn(OUTPUT), torch.randn(OUTPUT)


def affine_by_hand(bank: ClassBank, site: int, y_N: Tensor, z_NK: Tensor) -> tuple[Tensor, Tensor]:
    """gamma and beta of a site, sample by sample."""
    gamma, beta = [], []
    for y, z in zip(y_N, z_NK, strict=True):
        gamma.append(1 + bank.scale[site][y] + bank.latent_scale[site] @ z)
        beta.append(bank.shift[site][y] + bank.latent_shift[site] @ z)
    return torch.stack(gamma), torch.stack(beta)


def test_training_normalises_by_the_batch_and_applies_each_samples_affine() -> None:
    bank, affine = random_bank(3, LATENT), output_affine()
    y, z, x = torch.tensor([2, 0, 0, 1]), torch.randn(4, LATENT), torch.randn(4, 3, 6, 6) * 2 + 1
    conditions = training_conditions(bank, bank.tables(), affine, Latents(z, [z, z]), y).sites
    gamma, beta = affine_by_hand(bank, 1, y, z)
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    expected = (x - mean) / (var + EPS).sqrt() * gamma[:, :, None, None] + beta[:, :, None, None]
    torch.testing.assert_close(ConditionalBatchNormReLU(EPS)(x, conditions[1]), expected.relu())


def test_output_norm_takes_the_shared_affine() -> None:
    bank, (gain, bias) = random_bank(3), output_affine()
    x = torch.randn(4, OUTPUT, 6, 6)
    conditions = training_conditions(
        bank, bank.tables(), (gain, bias), NO_LATENTS, torch.tensor([2, 0, 0, 1])
    ).sites
    expected = torch.nn.functional.batch_norm(x, None, None, gain, bias, training=True, eps=EPS)
    torch.testing.assert_close(ConditionalBatchNormReLU(EPS)(x, conditions[-1]), expected.relu())


@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0])
def test_momentum_is_the_weight_of_the_new_batch(momentum: float) -> None:
    bank = random_bank(3)
    statistics = bank.statistics[0]
    statistics.momentum = momentum
    old_mean, old_var = statistics.mean.clone(), statistics.var.clone()
    x = torch.randn(4, 4, 6, 6)
    y = torch.zeros(4, dtype=torch.int64)
    conditions = training_conditions(bank, bank.tables(), output_affine(), NO_LATENTS, y).sites
    ConditionalBatchNormReLU(EPS)(x, conditions[0])
    torch.testing.assert_close(statistics.mean, (1 - momentum) * old_mean + momentum * x.mean((0, 2, 3)))
    torch.testing.assert_close(statistics.var, (1 - momentum) * old_var + momentum * x.var((0, 2, 3)))


def test_evaluation_uses_each_banks_statistics_and_tables() -> None:
    banks, affine = [random_bank(3, LATENT), random_bank(2, LATENT)], output_affine()
    y, z, x = torch.tensor([4, 0, 3, 2]), torch.randn(4, LATENT), torch.randn(4, 4, 6, 6)
    conditions = evaluation_conditions(
        banks,
        [bank.tables() for bank in banks],
        affine,
        [Latents(z, [z, z])] * len(banks),
        located(banks, y),
        EPS,
    ).sites
    out = ConditionalBatchNormReLU(EPS)(x, conditions[0])
    for sample, (bank, own) in enumerate([(1, 1), (0, 0), (1, 0), (0, 2)]):
        gamma, beta = affine_by_hand(banks[bank], 0, torch.tensor([own]), z[sample : sample + 1])
        statistics = banks[bank].statistics[0]
        normalised = (x[sample] - statistics.mean[:, None, None]) / (
            statistics.var[:, None, None] + EPS
        ).sqrt()
        moved = normalised * gamma[0, :, None, None] + beta[0, :, None, None]
        torch.testing.assert_close(out[sample], moved.relu())


def test_evaluation_changes_no_statistics() -> None:
    bank = random_bank(3)
    before = [(statistics.mean.clone(), statistics.var.clone()) for statistics in bank.statistics]
    y = torch.zeros(2, dtype=torch.int64)
    conditions = evaluation_conditions(
        [bank], [bank.tables()], output_affine(), [NO_LATENTS], located([bank], y), EPS
    )
    for condition in conditions.sites:
        ConditionalBatchNormReLU(EPS)(torch.randn(2, condition.scale_NC.shape[1], 3, 3), condition)
    for (mean, var), statistics in zip(before, bank.statistics, strict=True):
        assert torch.equal(statistics.mean, mean)
        assert torch.equal(statistics.var, var)


def test_gradients_of_tables_projections_and_input_are_right() -> None:
    bank, (gain, bias) = random_bank(3, LATENT).double(), output_affine()
    affine = (gain.double(), bias.double())
    y, z = torch.tensor([2, 0, 0, 1]), torch.randn(4, LATENT, dtype=torch.float64)
    x = torch.randn(4, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    flat = [table for group in bank.tables() for table in group]

    def out(x: Tensor, *tables: Tensor) -> Tensor:
        sites = len(WIDTHS)
        grouped = ClassTables(*(tables[i : i + sites] for i in range(0, len(tables), sites)))
        return ConditionalBatchNormReLU(EPS)(
            x, training_conditions(bank, grouped, affine, Latents(z, [z, z]), y).sites[0]
        )

    assert torch.autograd.gradcheck(out, (x, *flat))


def test_gradients_reach_the_shared_embedding_and_its_normalised_layers() -> None:
    bank = EmbeddedBank(["a", "b", "c"], WIDTHS, OUTPUT, shared=4, latent=2).double()
    for _ in range(500):
        # At the singular vectors themselves the rule's gradient, with constant vectors, is the true one.
        bank.train().tables()
    bank.eval()
    parameters = [bank.embedding.weight, bank.scale[0].weight, bank.shift[1].weight]
    heads = [torch.randn_like(table) for group in bank.tables() for table in group]

    def score() -> Tensor:
        tables = [table for group in bank.tables() for table in group]
        return sum((head * table).sum() for head, table in zip(heads, tables, strict=True))

    for parameter, gradient in zip(parameters, torch.autograd.grad(score(), parameters), strict=True):
        flat = parameter.detach().view(-1)
        for entry in range(0, len(flat), 5):
            value, step = float(flat[entry]), 1e-5
            flat[entry] = value + step
            above = float(score().detach())
            flat[entry] = value - step
            below = float(score().detach())
            flat[entry] = value
            expected = pytest.approx(float(gradient.view(-1)[entry]), rel=1e-5, abs=1e-7)
            assert (above - below) / (2 * step) == expected


def test_tables_of_a_shared_embedding_are_the_normalised_layers_applied() -> None:
    bank = EmbeddedBank(["a", "b", "c"], WIDTHS, OUTPUT, shared=4, latent=2).eval()
    tables, z = bank.tables(), torch.randn(2)
    for y in range(3):
        whole = bank.scale[1](torch.cat([bank.embedding.weight[y], z])[None])[0]
        torch.testing.assert_close(tables.scale[1][y] + tables.latent_scale[1] @ z, whole)
        whole = bank.shift[0](torch.cat([bank.embedding.weight[y], z])[None])[0]
        torch.testing.assert_close(tables.shift[0][y] + tables.latent_shift[0] @ z, whole)


def test_tables_are_float32_under_autocast() -> None:
    bank = EmbeddedBank(["a", "b", "c"], WIDTHS, OUTPUT, shared=4, latent=2).eval()
    plain = bank.tables()
    with torch.autocast("cpu", torch.bfloat16):
        autocast = bank.tables()
    for group, other in zip(plain, autocast, strict=True):
        assert all(torch.equal(table, again) for table, again in zip(group, other, strict=True))
