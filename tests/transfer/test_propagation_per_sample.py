"""The propagation block as a generator trains it, against the paper's equations sample by sample.

Shapes: B samples, L sites, C channels, N source classes, M new classes, K latent chunk.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.conditions import training_conditions
from cgt.models.norm import ConditionalBatchNormReLU, Latents
from cgt.transfer.base import Task
from cgt.transfer.cgantransfer import CGANTransfer, CGANTransferConfig
from cgt.transfer.propagation import PropagatedBank
from tests import tiny

EPS = 1e-3
LAMBDA_R, LAMBDA_S = 0.7, 0.3
N, M = len(tiny.OLD), len(tiny.NEW)
Y_B = torch.tensor([0, 2, 1, 0])


class Kind(NamedTuple):
    """Parameters of the scales, or of the shifts, of one site."""

    scores_NM: Tensor
    prior_NC: Tensor
    bias_N: Tensor | None
    residual_MC: Tensor | None
    latent_CK: Tensor | None


def sites(bank: PropagatedBank) -> list[tuple[Kind, Kind]]:
    """The block's parameters, site by site, (scale, shift)."""
    found = []
    widths = [len(statistics.mean) for statistics in bank.site_statistics()[:-1]]
    for site, width in enumerate(widths):
        group = sorted(set(widths)).index(width)
        alike = [s for s, w in enumerate(widths) if w == width]
        kinds = []
        for kind in range(2):
            slot = alike.index(site) + kind * len(alike)
            scored, score_slot = (0, kind) if bank.shared_scores else (group, slot)
            latent = bank.latent_shift if kind else bank.latent_scale
            kinds.append(
                Kind(
                    bank.scores[scored][score_slot],
                    bank.prior[group][slot],
                    bank.score_bias[scored][score_slot, :, 0] if bank.score_bias else None,
                    bank.residuals[group][slot] if bank.residuals else None,
                    latent[site] if latent else None,
                )
            )
        found.append((kinds[0], kinds[1]))
    return found


def scores(kind: Kind, y: int) -> Tensor:
    """S_y, (N,); with the bias of the official code, which is that of all new classes, added."""
    own_N = kind.scores_NM[:, y]
    return own_N if kind.bias_N is None else own_N + kind.bias_N


def offset(kind: Kind, y: int, z_K: Tensor | None) -> Tensor:
    """One row of eq. 6 (eq. 5 where the prior is frozen), with the residual of Sec. 4.3 and the latent
    projection of Sec. 5.1.
    """
    total = torch.zeros_like(kind.prior_NC[0])
    for score, prior_C in zip(scores(kind, y), kind.prior_NC, strict=True):
        total = total + score * prior_C
    if kind.residual_MC is not None:
        total = total + kind.residual_MC[y]
    if kind.latent_CK is not None:
        assert z_K is not None
        total = total + (kind.latent_CK * z_K).sum(1)
    return total


def literal_maps(bank: PropagatedBank, x_LBCHW: Sequence[Tensor], z_LBK: Sequence[Tensor]) -> list[Tensor]:
    """Every site's map, normalised, moved and rectified, one sample at a time."""
    maps = []
    for site, (scale, shift) in enumerate(sites(bank)):
        x_BCHW, samples = x_LBCHW[site], []
        pixels_C = x_BCHW.transpose(0, 1).flatten(1)
        mean_C = pixels_C.sum(1) / pixels_C.shape[1]
        var_C = (pixels_C - mean_C[:, None]).square().sum(1) / pixels_C.shape[1]
        for b, y in enumerate(Y_B.tolist()):
            z_K = z_LBK[site][b] if z_LBK else None
            gamma_C, beta_C = 1 + offset(scale, y, z_K), offset(shift, y, z_K)
            normal_CHW = (x_BCHW[b] - mean_C[:, None, None]) / (var_C + EPS).sqrt()[:, None, None]
            samples.append(gamma_C[:, None, None] * normal_CHW + beta_C[:, None, None])
        maps.append(torch.stack(samples).relu())
    return maps


def literal_penalties(bank: PropagatedBank, *, reduction: str, l1: bool, l2: bool) -> Tensor:
    """The second and third term of eq. 7. "sum" runs over l, y' and the elements of each vector, as written;
    "mean" has an average over y' and the elements in place of their sums.
    """
    total = torch.zeros((), dtype=torch.float64)
    scored = sites(bank)[:1] if bank.shared_scores else sites(bank)
    for kind in itertools.chain.from_iterable(scored if l1 else []):
        terms = [scores(kind, y).abs().sum() for y in range(M)]
        total = total + LAMBDA_S * sum(terms) / (N * M if reduction == "mean" else 1)
    for kind in itertools.chain.from_iterable(sites(bank) if l2 else []):
        if kind.residual_MC is not None:
            terms = [row_C.square().sum() for row_C in kind.residual_MC]
            width = len(kind.residual_MC[0])
            total = total + LAMBDA_R * sum(terms) / (M * width if reduction == "mean" else 1)
    return total


@functools.cache
def task(config: GeneratorConfig) -> Task:
    return tiny.task(config)


def method(config: GeneratorConfig, **options: Any) -> CGANTransfer:
    return CGANTransfer(CGANTransferConfig(name="cgantransfer", **options), task(config))


def block(generator: Generator) -> PropagatedBank:
    """The block of a generator, all parameters moved from their start so that no term vanishes."""
    bank = generator.last_bank
    assert isinstance(bank, PropagatedBank)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return bank


def adversarial(maps: Sequence[Tensor]) -> Tensor:
    """Stands for L_g, with a weight of its own for every element."""
    total = torch.zeros((), dtype=torch.float64)
    for site, x_BCHW in enumerate(maps):
        ramp = torch.linspace(0.5, 2, x_BCHW.numel(), dtype=torch.float64).view_as(x_BCHW)
        total = total + (site + 1) * (ramp * x_BCHW).sin().sum()
    return total


def reached(ours: Tensor, literal: Tensor, tensors: Mapping[str, Tensor]) -> set[str]:
    """The names of the tensors that a loss has a gradient to, when all gradients are those of `literal`."""
    torch.testing.assert_close(ours, literal, rtol=1e-11, atol=0)
    gradients = (
        torch.autograd.grad(loss, list(tensors.values()), allow_unused=True, materialize_grads=True)
        for loss in (ours, literal)
    )
    names = set()
    for name, own, expected in zip(tensors, *gradients, strict=True):
        assert (own - expected).norm() <= 1e-10 * expected.norm(), name
        if expected.any():
            names.add(name)
    return names


@pytest.mark.parametrize("config", [tiny.PER_LAYER, tiny.HIERARCHICAL], ids=["no latents", "latents"])
@pytest.mark.parametrize("prior", ["tunable", "frozen"])
@pytest.mark.parametrize("residuals", [True, False], ids=["residuals", "no residuals"])
@pytest.mark.parametrize("scored", ["per-site", "shared"])
@pytest.mark.parametrize("start", ["orthogonal", "official"], ids=["no bias", "bias"])
def test_value_and_gradients_are_those_of_the_equations(
    config: GeneratorConfig, prior: str, residuals: bool, scored: str, start: str
) -> None:
    options = {"prior": prior, "residuals": residuals, "scores": scored, "start": start}
    generator = method(config, **options).networks()[0].double()
    bank = block(generator)
    x_LBCHW = [
        torch.randn(len(Y_B), width, 2, 2, dtype=torch.float64, requires_grad=True)
        for width in generator.site_widths
    ]
    z_LBK = [
        torch.randn(len(Y_B), generator.latent_width, dtype=torch.float64)
        for _ in x_LBCHW
        if config.hierarchical
    ]
    affine = (generator.output_affine.gain, generator.output_affine.bias)
    conditions = training_conditions(bank, bank.tables(), affine, Latents(torch.empty(0), z_LBK), Y_B).sites
    of_block = [ConditionalBatchNormReLU(EPS)(x, c) for x, c in zip(x_LBCHW, conditions, strict=False)]
    of_paper = literal_maps(bank, x_LBCHW, z_LBK)

    parts = {
        "scores": True,
        "prior": prior == "tunable",
        "residuals": residuals,
        "score_bias": start == "official",
        "latent_scale": config.hierarchical,
        "latent_shift": config.hierarchical,
    }
    trained = {name: p for name, p in bank.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {part for part, there in parts.items() if there}
    trained |= {f"map.{site}": x_BCHW for site, x_BCHW in enumerate(x_LBCHW)}
    assert reached(adversarial(of_block), adversarial(of_paper), trained) == set(trained)

    for l1, l2, reduction in itertools.product((False, True), (False, True), ("sum", "mean")):
        weights = {"lambda_s": LAMBDA_S * l1, "lambda_r": LAMBDA_R * l2}
        penalties = method(config, **options, **weights, reduction=reduction).penalties(generator)
        assert set(penalties) == set(["score_l1"] * l1 + ["residual_l2"] * (l2 and residuals))
        if penalties:
            literal = literal_penalties(bank, reduction=reduction, l1=l1, l2=l2)
            penalised = ("score",) * l1 + ("residual",) * l2
            assert reached(sum(penalties.values()), literal, trained) == {
                name for name in trained if name.startswith(penalised)
            }
