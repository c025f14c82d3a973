"""Where D's class embedding comes from under cGANTransfer."""

from dataclasses import replace

import pytest
import torch

from cgt.errors import UserError
from cgt.models.discriminator import Discriminator
from cgt.models.layers import plain
from cgt.transfer.nearest import nearest_classes
from cgt.transfer.propagation import PropagatedEmbedding
from tests import tiny
from tests.transfer.methods import make, trained


def test_it_begins_at_the_nearest_classes_vectors() -> None:
    method = make("cgantransfer", tiny.PER_LAYER, discriminator="nearest")
    source_NC = method.task.given_source.discriminator.embedding.normalised_weight()
    own_MC = method.networks()[1].embedding.weight
    assert torch.equal(own_MC, source_NC[nearest_classes(method.task)])


def test_it_is_propagated_from_the_sources_vectors_by_scores_and_residuals() -> None:
    method = make("cgantransfer", tiny.PER_LAYER, discriminator="propagated")
    before = method.networks()[1].embedding.reparametrisation
    trainer, _ = trained(method)
    embedding = trainer.discriminator.embedding
    block = embedding.reparametrisation
    assert isinstance(block, PropagatedEmbedding)
    for name in ("prior_NC", "scores_NM"):
        assert not torch.equal(getattr(block, name), getattr(before, name))
    expected = torch.stack(
        [
            sum(block.scores_NM[old, new] * block.prior_NC[old] for old in range(len(tiny.OLD)))
            + embedding.weight[new]
            for new in range(len(tiny.NEW))
        ]
    )
    finished = plain(trainer.of_discriminator.copy()).embedding
    torch.testing.assert_close(finished.weight, expected)
    assert finished.reparametrisation is None


def test_it_learns_from_the_classes_that_the_sources_discriminator_knows() -> None:
    """Of an extended source they are those of the last round."""
    method = make("cgantransfer", tiny.PER_LAYER, ("hen", "ibis"), discriminator="propagated")
    first = make("cgantransfer", tiny.PER_LAYER)
    trainer, _ = trained(first)
    source = replace(
        method.task.given_source,
        generator=first.finished(trainer.generator),
        discriminator=plain(trainer.of_discriminator.copy()).eval(),
    )
    object.__setattr__(method.task, "source", source)
    block = method.networks()[1].embedding.reparametrisation
    assert block.scores_NM.shape == (len(tiny.NEW), 2)


def test_a_source_whose_discriminator_has_no_class_embedding_is_refused() -> None:
    method = make("cgantransfer", tiny.PER_LAYER, discriminator="propagated")
    config = replace(tiny.DISCRIMINATOR, projection=False)
    source = replace(
        method.task.given_source, discriminator=Discriminator(config, tiny.RESOLUTION, tiny.OLD).eval()
    )
    object.__setattr__(method.task, "source", source)
    with pytest.raises(UserError, match=r"discriminator is propagated, .* set it to fresh"):
        method.networks()


def test_distances_between_classes_are_worked_out_once_for_both_networks() -> None:
    method = make("cgantransfer", tiny.PER_LAYER, start="nearest-soft", discriminator="nearest")
    pictures, read = method.task.pictures, []

    def counted():
        read.append(1)
        return pictures()

    object.__setattr__(method.task, "pictures", counted)
    method.networks()
    assert len(read) == 1
