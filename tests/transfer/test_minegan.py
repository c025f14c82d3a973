"""MineGAN: miners before a frozen generator, then with it."""

import pytest
import torch

from cgt.errors import UserError
from cgt.models.biggan import GeneratorConfig
from cgt.models.mined import MinedBank
from cgt.training.trainer import snapshot
from tests import tiny
from tests.transfer.methods import make, trained

BOTH = pytest.mark.parametrize(
    "config", [tiny.PER_LAYER, tiny.HIERARCHICAL], ids=["per-layer", "hierarchical"]
)


def mined(config: GeneratorConfig, **options: int) -> MinedBank:
    bank = snapshot(trained(make("minegan", config, **options))[0]).last_bank
    assert isinstance(bank, MinedBank)
    return bank


@BOTH
def test_a_class_is_its_miners_latents_under_its_miners_class_vector(config: GeneratorConfig) -> None:
    generator = snapshot(trained(make("minegan", config))[0])
    bank = generator.last_bank
    z_NZ, y = torch.randn(5, config.dim_z), 2
    z, points = bank.miners[y](z_NZ)
    c_NQ = bank.mean_Q + bank.spread_Q * points
    first, chunks = generator.split(z)
    latents = bank.latents(z_NZ, torch.full((5,), y), generator)
    assert torch.equal(latents.first_NK, first)
    for site, inputs in enumerate(latents.sites_LNK):
        wanted = torch.cat([chunks[site], c_NQ], 1) if config.hierarchical else c_NQ
        torch.testing.assert_close(inputs, wanted)


@BOTH
def test_mining_a_source_class_vector_gives_the_source_class(config: GeneratorConfig) -> None:
    """With miners that leave z alone and always name one class, the bank makes that class's pictures."""
    method = make("minegan", config, depth=1)
    generator, _ = method.networks()
    bank, source = generator.last_bank, method.task.given_source.generator
    wanted = 1
    for miner in bank.miners:
        for layer in (*miner.to_z, *miner.to_class):
            layer.u = None
        with torch.no_grad():
            miner.to_z[0].weight.copy_(torch.eye(config.dim_z))
            miner.to_class[0].weight.zero_()
            vector_Q = source.banks[0].embedding.weight[wanted] if config.shared_dim else torch.eye(4)[wanted]
            miner.to_class[0].bias.copy_((vector_Q - bank.mean_Q) / bank.spread_Q)
    z_NZ = torch.randn(6, config.dim_z)
    made = generator.eval()(z_NZ, torch.full((6,), len(tiny.OLD)))
    old = generator(z_NZ, torch.full((6,), wanted))
    torch.testing.assert_close(made, old, rtol=0, atol=1e-5)


@BOTH
def test_baked_stacks_are_one_affine_map_that_gives_the_same(config: GeneratorConfig) -> None:
    bank = mined(config).eval()
    baked = bank.baked()
    assert [len(miner.to_z) for miner in baked.miners] == [1, 1, 1]
    z_NZ = torch.randn(7, config.dim_z)
    for own, miner in zip(baked.miners, bank.miners, strict=True):
        for ours, theirs in zip(own(z_NZ), miner(z_NZ), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_one_new_class_has_a_discriminator_without_a_class_embedding_and_several_have_one() -> None:
    assert make("minegan", tiny.PER_LAYER, tiny.NEW[:1]).networks()[1].embedding is None
    assert make("minegan", tiny.PER_LAYER).networks()[1].embedding is not None


def test_each_miner_is_trained_by_the_pictures_of_its_class() -> None:
    method = make("minegan", tiny.PER_LAYER)
    before = [miner.to_z[0].weight.clone() for miner in method.networks()[0].last_bank.miners]
    after = [miner.to_z[0].weight for miner in trained(method)[0].generator.last_bank.miners]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_fine_tuning_begins_with_the_finished_miners() -> None:
    method = make("minegan finetune", tiny.HIERARCHICAL)
    generator, discriminator = method.networks()
    source = method.task.given_source
    z_NZ, y_N = torch.randn(6, 9), torch.arange(6) % 3
    assert torch.equal(
        generator.eval()(z_NZ, y_N), source.generator(z_NZ, y_N + source.generator.first_of_last_bank)
    )
    assert torch.equal(discriminator.embedding.weight, source.discriminator.embedding.weight)


def test_fine_tuning_refuses_another_transfers_classes() -> None:
    method = make("minegan finetune", tiny.PER_LAYER)
    object.__setattr__(method.task, "classes", ("hen", "ibis"))
    with pytest.raises(UserError, match=r"last bank .* is of elk, fox, gnu, and the data of hen, ibis"):
        method.networks()


@pytest.mark.parametrize(("first", "then"), [("minegan", "cgantransfer"), ("cgantransfer", "minegan")])
def test_fine_tuning_refuses_another_methods_bank(first: str, then: str) -> None:
    source = make(f"{first} finetune", tiny.PER_LAYER).task.given_source
    method = make(then, tiny.PER_LAYER, stage="finetune")
    object.__setattr__(method.task, "source", source)
    with pytest.raises(UserError, match=r"by the same method, and the classes of .* are (mined|tables), not"):
        method.networks()


@pytest.mark.parametrize("name", ["cgantransfer", "bsa", "transfergan", "minegan", "ppgn"])
def test_mined_classes_are_refused_as_a_prior(name: str) -> None:
    generator = snapshot(trained(make("minegan", tiny.PER_LAYER))[0])
    method = make(name, tiny.PER_LAYER, ("hen", "ibis"))
    object.__setattr__(method.task.given_source, "generator", generator)
    with pytest.raises(UserError, match="elk, fox, gnu are mined anew for every z, and have no"):
        method.networks()
