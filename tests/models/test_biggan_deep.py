"""BigGAN-deep: its sizes and layouts, the first layer as a site, and statistics that go by truncation."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cgt.errors import UserError
from cgt.images import to_uint8
from cgt.models.banks import merged
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.discriminator import Discriminator, DiscriminatorConfig
from cgt.models.folder import load_generator, load_model, save_model
from cgt.models.norm import EmbeddedBank
from cgt.models.sampling import latent, latent_range
from cgt.models.site_statistics import SiteStatistics
from cgt.transfer.bsa import BSA, BSAConfig
from cgt.transfer.propagation import PropagatedBank
from tests import tiny
from tests.transfer.methods import make

PUBLISHED = {"deep": True, "ch": 128, "attention": (64,)}
THOUSAND = [str(i) for i in range(1000)]
RGB_LEFT_OUT = 125 * (128 * 9 + 1)
"""The published count has an output layer of 128 channels, of which 3 are used."""


@pytest.mark.parametrize(("resolution", "millions"), [(128, 50.4), (256, 55.9), (512, 56.2)])
def test_generators_have_as_many_parameters_as_published(resolution: int, millions: float) -> None:
    """The counts that the published generators are given with; D's is of the paper, at 128 px (Table 6)."""
    config = GeneratorConfig(dim_z=128, shared_dim=128, hierarchical=True, **PUBLISHED)
    with torch.device("meta"):
        generator = Generator(config, resolution, THOUSAND)
        discriminator = Discriminator(DiscriminatorConfig(**PUBLISHED), 128, THOUSAND)
    count = sum(parameter.numel() for parameter in generator.parameters()) + RGB_LEFT_OUT
    assert round(count / 1e6, 1) == millions
    assert round(sum(parameter.numel() for parameter in discriminator.parameters()) / 1e6, 1) == 34.6


@pytest.mark.parametrize("resolution", [32, 64, 128, 256, 512])
def test_every_published_resolution_runs_from_latents_to_logits(resolution: int) -> None:
    y = torch.zeros(2, dtype=torch.int64, device="meta")
    with torch.device("meta"):
        config = GeneratorConfig(deep=True, ch=8, dim_z=6, shared_dim=4, hierarchical=True)
        images = Generator(config, resolution, ["a", "b"])(torch.empty(2, 6), y)
        assert images.shape == (2, 3, resolution, resolution)
        discriminator = Discriminator(DiscriminatorConfig(deep=True, ch=8), resolution, ["a", "b"])
        assert discriminator(images, y).shape == (2,)


def test_attention_follows_the_doubling_block_of_g_and_the_second_block_of_d() -> None:
    source = tiny.source(tiny.DEEP)
    assert list(source.generator.attention) == ["1"]
    assert list(source.discriminator.attention) == ["1"]


def literal_picture(generator: Generator, z_Z: Tensor, y: int) -> Tensor:
    """App. B of the BigGAN paper for one picture, of normalised weights: [class, z] goes to every layer."""
    bank = generator.banks[0]
    assert isinstance(bank, EmbeddedBank)
    condition = torch.cat([bank.embedding.weight[y], z_Z])
    h = bank.first[0].normalised_weight() @ condition + generator.linear.bias
    h = h.view(1, -1, generator.bottom, generator.bottom)
    site = 0

    def norm(x: Tensor) -> Tensor:
        nonlocal site
        statistics = bank.statistics[site]
        scale = 1 + bank.scale[site].normalised_weight() @ condition
        shift = bank.shift[site].normalised_weight() @ condition
        site += 1
        return F.relu(F.batch_norm(x, statistics.mean, statistics.var, scale, shift, eps=1e-5))

    def conv(layer: Any, x: Tensor) -> Tensor:
        weight: Tensor = layer.normalised_weight()
        return F.conv2d(x, weight, layer.bias, padding=weight.shape[-1] // 2)

    for i, block in enumerate(generator.blocks):
        x = h
        h = norm_1 = norm(conv(block.conv1, norm(h)))
        shortcut = x[:, : block.conv4.weight.shape[0]]
        if i % 2:
            h, shortcut = (m.repeat_interleave(2, 2).repeat_interleave(2, 3) for m in (norm_1, shortcut))
        h = conv(block.conv4, norm(conv(block.conv3, norm(conv(block.conv2, h))))) + shortcut
        if str(i) in generator.attention:
            h = generator.attention[str(i)](h)
    last, affine = bank.statistics[site], generator.output_affine
    h = F.batch_norm(h, last.mean, last.var, affine.gain, affine.bias, eps=1e-5)
    return torch.tanh(conv(generator.to_rgb, F.relu(h)))[0]


def test_a_picture_is_that_of_a_literal_transcription() -> None:
    generator = tiny.source(tiny.DEEP).generator.double()
    with torch.no_grad():
        for block in generator.attention.values():
            block.gain.fill_(0.7)
        z_NZ, y_N = torch.randn(4, 6, dtype=torch.float64), torch.tensor([0, 3, 1, 1])
        expected = [literal_picture(generator, z, int(y)) for z, y in zip(z_NZ, y_N, strict=True)]
        torch.testing.assert_close(generator(z_NZ, y_N), torch.stack(expected))


def test_the_first_layer_of_new_classes_is_propagated_from_the_source_s() -> None:
    generator = make("cgantransfer", tiny.DEEP, start="orthogonal").networks()[0]
    bank = generator.last_bank
    assert isinstance(bank, PropagatedBank)
    source = generator.banks[0].tables()
    with torch.no_grad():
        for residual in bank.residuals:
            residual.normal_()
    [table], [scores], [residual] = bank.tables().first, bank.scores[-1], bank.residuals[-1]
    assert scores.shape == (len(tiny.OLD), len(tiny.NEW))
    torch.testing.assert_close(table, scores.T @ source.first[0] + residual)
    assert torch.equal(bank.tables().latent_first[0], source.latent_first[0])


def test_shared_scores_of_the_shift_serve_the_first_layer_too() -> None:
    bank = make("cgantransfer", tiny.DEEP, start="orthogonal", scores="shared").networks()[0].last_bank
    [scores] = bank.scores
    source = make("cgantransfer", tiny.DEEP).task.given_source.generator.banks[0].tables()
    torch.testing.assert_close(bank.tables().first[0], scores[1].T @ source.first[0])


def levelled(levels: int = 6) -> Generator:
    """A generator whose statistics differ from level to level."""
    generator = tiny.source(tiny.DEEP).generator
    bank = EmbeddedBank(tiny.OLD, shared=5, levels=levels, **generator.bank_shape)
    bank.load_state_dict(generator.banks[0].state_dict() | bank.statistics.state_dict(prefix="statistics."))
    with torch.no_grad():
        for statistics in bank.site_statistics():
            statistics.mean.normal_()
            statistics.var.uniform_(0.5, 2)
    generator.banks[0] = bank
    return generator.eval()


@pytest.mark.parametrize("truncation", [0.2, 0.4, 1.0])
def test_at_a_level_statistics_are_the_level_s(truncation: float) -> None:
    statistics = SiteStatistics(3, levels=6)
    statistics.mean.normal_()
    statistics.var.uniform_()
    mean, var = statistics.at(truncation)
    assert torch.equal(mean, statistics.mean[round(truncation * 5)])
    assert torch.equal(var, statistics.var[round(truncation * 5)])


@pytest.mark.parametrize("levels", [50, 51, 94, 99, 104])
def test_without_truncation_statistics_are_the_last_level_s(levels: int) -> None:
    statistics = SiteStatistics(3, levels=levels)
    statistics.mean.normal_()
    statistics.var.uniform_()
    mean, var = statistics.at(1.0)
    assert torch.equal(mean, statistics.mean[-1])
    assert torch.equal(var, statistics.var[-1])


@pytest.mark.parametrize("truncation", [-0.4, 0.0, 1.02, math.nan])
def test_there_are_no_statistics_out_of_range(truncation: float) -> None:
    with pytest.raises(ValueError, match="must be above 0 and at most 1: give 1 for none"):
        SiteStatistics(3, levels=6).at(truncation)


def test_between_levels_the_lower_one_has_the_weight_of_the_fraction() -> None:
    statistics = SiteStatistics(3, levels=6)
    statistics.mean.normal_()
    torch.testing.assert_close(statistics.at(0.45)[0], 0.25 * statistics.mean[2] + 0.75 * statistics.mean[3])


def test_truncation_chooses_the_statistics_of_the_pictures() -> None:
    generator = levelled()
    z_NZ, y_N = torch.randn(4, 6), torch.arange(4)
    plain = tiny.source(tiny.DEEP).generator
    for own, of_level in zip(
        plain.banks[0].site_statistics(), generator.banks[0].site_statistics(), strict=True
    ):
        own.mean.copy_(of_level.mean[2])
        own.var.copy_(of_level.var[2])
    assert torch.equal(generator(z_NZ, y_N, truncation=0.4), plain(z_NZ, y_N))
    assert not torch.allclose(generator(z_NZ, y_N), plain(z_NZ, y_N))
    assert torch.equal(plain(z_NZ, y_N, truncation=0.4), plain(z_NZ, y_N))


@pytest.mark.parametrize("truncation", [0.0, 1.5, math.nan])
def test_a_truncation_out_of_range_is_refused(truncation: float) -> None:
    with pytest.raises(ValueError, match="must be above 0 and at most 1"):
        levelled()(torch.randn(2, 6), torch.tensor([0, 1]), truncation=truncation)


def test_levels_survive_the_model_folder_and_folding(tmp_path: Path) -> None:
    generator = levelled()
    save_model(tmp_path / "model", generator, provenance={})
    z_NZ, y_N = torch.randn(4, 6), torch.arange(4)
    again = load_model(tmp_path / "model")[0]
    assert torch.equal(again(z_NZ, y_N, truncation=0.3), generator(z_NZ, y_N, truncation=0.3))
    folded = load_generator(tmp_path / "model")
    torch.testing.assert_close(
        folded(z_NZ, y_N, truncation=0.3), generator(z_NZ, y_N, truncation=0.3), rtol=0, atol=1e-5
    )


def test_latents_for_levels_are_cut_off_at_2_and_then_multiplied() -> None:
    generator = levelled()
    z = torch.stack([latent(generator, number, seed=0, truncation=0.5) for number in range(200)])
    assert latent_range(generator, 0.5).largest == 1.0
    assert 0.9 < z.abs().max() <= 1.0
    assert float(z.std()) == pytest.approx(0.88 / 2, rel=0.05)  # of N(0, 1) within +-2: 0.880
    whole = torch.stack([latent(generator, number, seed=0) for number in range(200)])
    torch.testing.assert_close(whole, 2 * z)


def test_pictures_by_name_take_the_statistics_of_the_truncation() -> None:
    generator = levelled()
    z = torch.stack([latent(generator, n, seed=0, truncation=0.4, stream="sample ant") for n in range(3)])
    expected = to_uint8(generator(z, torch.zeros(3).long(), truncation=0.4))
    assert torch.equal(generator.sample("ant", n=3, truncation=0.4, seed=0), expected)
    with pytest.raises(UserError, match="truncation 1.5: the statistics of this model are for 0 to 1"):
        generator.sample("ant", n=3, truncation=1.5)


def test_a_levelled_source_is_extended_from_its_statistics_without_truncation() -> None:
    task = tiny.task(tiny.DEEP)
    generator = levelled()
    bank = generator.new_class_bank(task.classes)
    bank.take_statistics(generator.banks[0])
    for own, theirs in zip(bank.site_statistics(), generator.banks[0].site_statistics(), strict=True):
        assert torch.equal(own.mean, theirs.mean[-1])
        assert torch.equal(own.var, theirs.var[-1])
    z_NZ, y_N = torch.randn(4, 6), torch.arange(4)
    before = generator(z_NZ, y_N, truncation=0.4)
    generator.append(bank)
    assert torch.equal(generator.eval()(z_NZ, y_N, truncation=0.4), before)


@pytest.mark.parametrize("truncation", [0.0, -0.5, 2.0])
def test_a_mix_refuses_a_truncation_out_of_range(truncation: float) -> None:
    with pytest.raises(ValueError, match="must be above 0 and at most 1"):
        levelled().interpolate(
            torch.randn(1, 6), torch.tensor([[0, 1]]), torch.ones(1, 2) / 2, truncation=truncation
        )


@pytest.mark.parametrize("config", tiny.CONDITIONINGS.values(), ids=tiny.CONDITIONINGS)
@pytest.mark.parametrize("train", [True, False])
def test_under_autocast_every_block_gives_half_precision(config: GeneratorConfig, train: bool) -> None:
    generator = tiny.source(config).generator.train(train)
    seen: list[torch.dtype] = []
    for block in generator.blocks:
        block.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        generator(torch.randn(2, config.dim_z), torch.tensor([0, 1]))
    assert seen == [torch.bfloat16] * len(generator.blocks)


def test_a_folded_embedding_stays_one_beside_new_classes(tmp_path: Path) -> None:
    task = tiny.task(tiny.DEEP)
    source = levelled()
    source.fix_norms()
    save_model(tmp_path / "source", source, provenance={})
    pair = replace(task.given_source, generator=load_model(tmp_path / "source")[0])
    method = BSA(BSAConfig(name="bsa"), replace(task, source=pair))
    extended = method.finished(method.networks()[0])
    assert extended.folded
    assert [bank.kind for bank in extended.banks] == ["embedding", "tables"]
    assert merged([pair.generator, extended], ["one", "two"]).classes == extended.classes


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"shared_dim": 0, "hierarchical": False}, "gives z and a shared embedding to every block"),
    ({"hierarchical": False}, "gives z and a shared embedding to every block"),
    ({"channels": (16, 16, 8, 8)}, "give an odd number of widths"),
    ({"channels": (8, 16, 16)}, "only get narrower from first to last: sort them"),
    ({"channels": (8, 8, 2)}, "4 times narrower inside: give 4 or more"),
]


@pytest.mark.parametrize(("changes", "message"), IMPOSSIBLE)
def test_shapes_that_can_t_be_are_refused_with_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GeneratorConfig(**{"deep": True, "dim_z": 6, "shared_dim": 4, "hierarchical": True, **changes})


def test_a_discriminator_that_narrows_is_refused() -> None:
    with pytest.raises(ValueError, match="only get wider from first to last: sort them"):
        DiscriminatorConfig(deep=True, channels=(16, 16, 8))
