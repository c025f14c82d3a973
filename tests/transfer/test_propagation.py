"""The propagation block against its equations."""

import pytest
import torch
from torch import Tensor

from cgt.models.norm import ClassTables
from cgt.transfer.propagation import PropagatedBank

WIDTHS = (6, 4, 4, 3)
N, M = 5, 3


def prior(latent: int = 0) -> ClassTables:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    scale, shift = (tuple(draw(N, width) for width in WIDTHS) for _ in range(2))
    latents = [tuple(draw(width, latent) for width in WIDTHS if latent) for _ in range(2)]
    return ClassTables(scale, shift, *latents)


def bank(*, perturbed: bool = True, latent: int = 0, **options: bool) -> PropagatedBank:
    """A block in float64 whose parameters are all away from their start, so that no term of the equations
    vanishes.
    """
    torch.manual_seed(2)
    block = PropagatedBank(["x", "y", "z"], prior(latent), 3, torch.randn(2, N, M), **options).double()
    if perturbed:
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return block


def literal(block: PropagatedBank, kind: str, site: int, new: int) -> Tensor:
    """Eq. 6 with the residual of Sec. 4.3 for one class at one site, term by term."""
    width = WIDTHS[site]
    group = sorted(set(WIDTHS)).index(width)
    sites = [s for s, w in enumerate(WIDTHS) if w == width]
    slot = sites.index(site) + (len(sites) if kind == "shift" else 0)
    score_slot, score_group = (1 if kind == "shift" else 0, 0) if block.shared_scores else (slot, group)
    total = torch.zeros(width, dtype=torch.float64)
    for old in range(N):
        score = block.scores[score_group][score_slot, old, new]
        if block.score_bias:
            score = score + block.score_bias[score_group][score_slot, old, 0]
        total = total + score * block.prior[group][slot, old]
    return total + block.residuals[group][slot, new] if block.residuals else total


OPTIONS = [
    {},
    {"residuals": False},
    {"shared_scores": True},
    {"bias": True},
    {"tunable_prior": False},
    {"tunable_prior": False, "residuals": False},
    {"bias": True, "shared_scores": True, "residuals": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_tables_and_gradients_equal_a_literal_transcription_of_the_equations(
    options: dict[str, bool],
) -> None:
    block = bank(**options)
    weights = [torch.randn(M, width, dtype=torch.float64) for width in WIDTHS]
    trained = [p for p in block.parameters() if p.requires_grad]

    def loss_of_block() -> Tensor:
        tables = block.tables()
        return sum(
            (w * (scale + 2 * shift).sin()).sum()
            for w, scale, shift in zip(weights, tables.scale, tables.shift, strict=True)
        )

    def loss_of_literal() -> Tensor:
        return sum(
            (
                weights[site][new]
                * (literal(block, "scale", site, new) + 2 * literal(block, "shift", site, new)).sin()
            ).sum()
            for site in range(len(WIDTHS))
            for new in range(M)
        )

    torch.testing.assert_close(loss_of_block(), loss_of_literal(), rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(loss, trained) for loss in (loss_of_block(), loss_of_literal()))
    for own, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-12)


def test_a_frozen_prior_asks_for_no_gradient_and_everything_else_does() -> None:
    block = bank(tunable_prior=False)
    frozen = {
        name.split(".")[0] for name, parameter in block.named_parameters() if not parameter.requires_grad
    }
    assert frozen == {"prior"}


def test_the_prior_is_a_copy() -> None:
    tables = prior()
    before = tables.scale[0].clone()
    block = PropagatedBank(["x"], tables, 3, torch.ones(2, N, 1))
    with torch.no_grad():
        for parameter in block.prior:
            parameter.add_(1)
    assert torch.equal(tables.scale[0], before)


def test_one_hot_scores_and_zero_residuals_give_the_source_class_itself() -> None:
    tables = prior()
    scores = torch.zeros(2, N, 2, dtype=torch.float64)
    scores[:, 3, 0] = scores[:, 1, 1] = 1
    block = PropagatedBank(["x", "y"], tables, 3, scores).double()
    for site in range(len(WIDTHS)):
        assert torch.equal(block.tables().scale[site], tables.scale[site][[3, 1]])
        assert torch.equal(block.tables().shift[site], tables.shift[site][[3, 1]])


def test_regularisation_follows_eq_7_in_both_reductions() -> None:
    block = bank(bias=True)
    residuals = [residual for group in block.residuals for residual in group]
    scores = [
        score + bias
        for score_group, bias_group in zip(block.scores, block.score_bias, strict=True)
        for score, bias in zip(score_group, bias_group, strict=True)
    ]
    assert len(residuals) == len(scores) == 2 * len(WIDTHS)
    torch.testing.assert_close(block.residual_norm("sum"), sum(r.pow(2).sum() for r in residuals))
    torch.testing.assert_close(block.residual_norm("mean"), sum(r.pow(2).mean() for r in residuals))
    torch.testing.assert_close(block.score_norm("sum"), sum(s.abs().sum() for s in scores))
    torch.testing.assert_close(block.score_norm("mean"), sum(s.abs().mean() for s in scores))


def test_shared_scores_are_one_pair_of_matrices() -> None:
    assert [tuple(p.shape) for p in bank(shared_scores=True).scores] == [(2, N, M)]


@pytest.mark.parametrize("shared", [False, True])
def test_the_tables_are_those_that_its_own_scores_give(shared: bool) -> None:
    block = bank(latent=2, shared_scores=shared)
    given = block.propagated(block.similarity())
    for of_scores, own in zip(
        (*given.scale, *given.shift), (*block.tables().scale, *block.tables().shift), strict=True
    ):
        torch.testing.assert_close(of_scores, own)
    bare = block.propagated(block.similarity(), residuals=False)
    assert not torch.allclose(bare.scale[0], given.scale[0])


def test_each_pseudo_class_by_itself_is_what_a_score_of_one_gives() -> None:
    block = bank()
    n_source, n_new = block.similarity().shape[2:]
    scores = torch.zeros_like(block.similarity())
    scores[:, :, n_source - 1, 0] = 1
    given, pseudo = block.propagated(scores, residuals=False), block.pseudo_classes()
    for site in range(len(scores)):
        assert torch.equal(given.scale[site][0], pseudo.scale[site][n_source - 1])
        assert torch.equal(given.shift[site][0], pseudo.shift[site][n_source - 1])
        assert not given.scale[site][n_new - 1].any()


def test_baking_keeps_tables_latent_projections_and_statistics() -> None:
    block = bank(latent=2).float()
    block.statistics[0].mean.fill_(3.0)
    baked = block.baked()
    for ours, theirs in zip(baked.tables(), block.tables(), strict=True):
        assert len(ours) == len(theirs)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert torch.equal(baked.statistics[0].mean, block.statistics[0].mean)
    assert len(baked.statistics) == len(WIDTHS) + 1
