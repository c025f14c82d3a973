"""GE filters: the source's filters next to the picture, modulated, under a fresh head."""

import pytest
import torch

from cgt.errors import UserError
from cgt.training.trainer import snapshot
from tests import tiny
from tests.transfer.methods import make, trained


def test_the_kept_blocks_begin_as_the_sources_and_the_others_afresh() -> None:
    method = make("gefilter", tiny.HIERARCHICAL)
    generator, discriminator = method.networks()
    source = method.task.given_source
    kept = {"blocks.1.", "to_rgb.", "output_affine."}
    for key, theirs in source.generator.state_dict().items():
        if not key.startswith("banks.") and theirs.dim() > 1:
            same = torch.equal(generator.state_dict()[key], theirs)
            assert same == any(key.startswith(part) for part in kept), key
    assert torch.equal(discriminator.blocks[0].conv1.weight, source.discriminator.blocks[0].conv1.weight)
    assert not torch.equal(discriminator.blocks[1].conv1.weight, source.discriminator.blocks[1].conv1.weight)
    assert not torch.equal(discriminator.linear.weight, source.discriminator.linear.weight)


def test_untrained_modulation_leaves_the_filters_as_they_are() -> None:
    method = make("gefilter", tiny.PER_LAYER)
    layer = method.networks()[0].blocks[1].conv1.eval()
    theirs = method.task.given_source.generator.blocks[1].conv1
    assert torch.equal(layer.normalised_weight(), theirs.normalised_weight())


def test_a_finished_model_has_filters_modulated_pair_by_pair() -> None:
    trainer, _ = trained(make("gefilter", tiny.PER_LAYER), ema={"start": 10, "standing_batches": 1})
    layer = trainer.generator.blocks[1].conv1
    factor, offset = layer.reparametrisation.factor_OI11, layer.reparametrisation.offset_OI11
    assert not torch.equal(factor, torch.ones_like(factor))
    assert not torch.equal(offset, torch.zeros_like(offset))
    expected = torch.stack(
        [
            torch.stack([factor[o, i, 0, 0] * layer.weight[o, i] + offset[o, i, 0, 0] for i in range(8)])
            for o in range(8)
        ]
    )
    finished = snapshot(trainer).blocks[1].conv1
    torch.testing.assert_close(finished.weight, expected)
    assert finished.reparametrisation is None
    assert layer.reparametrisation is not None, "the trained network is not changed by a look at it"


@pytest.mark.parametrize("key", ["generator_blocks", "discriminator_blocks"])
def test_more_blocks_than_there_are_are_refused(key: str) -> None:
    with pytest.raises(UserError, match=rf"method.{key} is 3, and the source has 2 blocks there"):
        make("gefilter", tiny.PER_LAYER, **{key: 3})
