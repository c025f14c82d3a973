"""Rounds of transfer, each from the folder of the one before, and transfers from what a removal left."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cgt import catalog
from cgt.errors import UserError
from cgt.models.banks import without_bank
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.discriminator import Discriminator
from cgt.models.folder import load_generator, load_model, save_model
from cgt.training.trainer import snapshot
from cgt.transfer.base import Method, Source
from cgt.transfer.cgantransfer import CGANTransfer, CGANTransferConfig
from cgt.transfer.propagation import PropagatedBank
from cgt.transfer.starting import source_tables
from tests import tiny
from tests.transfer.methods import FITTING, trained

ROUNDS = (("elk", "fox", "gnu"), ("hen", "ibis"), ("jay",))
EARLIER = (4, 7, 9)
"""Classes that there are before each round."""


class History(NamedTuple):
    """What three rounds left: the folders of the source and of each round, and the banks these began with."""

    config: GeneratorConfig
    folders: list[Path]
    priors: list[PropagatedBank]


@pytest.fixture(scope="module", params=tiny.CONDITIONINGS.values(), ids=tiny.CONDITIONINGS)
def history(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> History:
    root = tmp_path_factory.mktemp("lifelong")
    pair = tiny.source(request.param)
    save_model(root / "0", pair.generator, pair.discriminator, provenance={})
    history = History(request.param, [root / "0"], [])
    for number, classes in enumerate(ROUNDS, 1):
        folder, prior = extend(history.folders[-1], root / str(number), request.param, classes)
        history.folders.append(folder)
        history.priors.append(prior)
    return history


def extend(
    source: Path, out: Path, config: GeneratorConfig, classes: tuple[str, ...]
) -> tuple[Path, PropagatedBank]:
    """A few steps from a model folder to a model folder."""
    generator, discriminator = load_model(source)
    assert discriminator is not None
    task = dataclasses.replace(tiny.task(config, classes), source=Source(generator, discriminator))
    method = CGANTransfer(CGANTransferConfig(name="cgantransfer"), task)
    prior = cast(PropagatedBank, method.networks()[0].last_bank)
    trainer, _ = trained(method, steps=3)
    save_model(out, snapshot(trainer), trainer.discriminator.eval(), provenance={})
    return out, prior


def pictures(generator: Generator, y: int) -> Tensor:
    """Of class y, by the same latents for every generator."""
    z_NZ = torch.randn(6, generator.dim_z, generator=torch.Generator().manual_seed(y))
    return generator(z_NZ, torch.full((6,), y))


def test_after_every_round_each_class_is_what_it_was_after_its_own(history: History) -> None:
    names: list[str] = []
    expected: list[Tensor] = []
    for folder, classes in zip(history.folders, [tiny.OLD, *ROUNDS], strict=True):
        names += classes
        generator = load_generator(folder)
        assert generator.classes == names
        for y, x in enumerate(expected):
            assert torch.equal(pictures(generator, y), x), names[y]
        expected += [pictures(generator, y) for y in range(len(expected), len(names))]
    assert len({x.sum().item() for x in expected}) == len(names) == 10


def test_every_round_writes_all_tensors_of_the_one_before_again_and_trains_those_of_its_bank(
    history: History,
) -> None:
    for number, (before, after) in enumerate(zip(history.folders, history.folders[1:], strict=False), 1):
        old, new = (load_file(folder / "generator.safetensors") for folder in (before, after))
        assert all(torch.equal(new[name], tensor) for name, tensor in old.items())
        assert all(name.startswith(f"banks.{number}.") for name in new.keys() - old.keys())
        assert all(new[name].any() for name in new.keys() - old.keys())


def test_the_prior_of_a_round_is_all_classes_of_all_earlier_banks(history: History) -> None:
    """A score of 1 for one of them, and of 0 for all others, gives the new classes its tables."""
    for folder, bank, count in zip(history.folders, history.priors, EARLIER, strict=False):
        assert [score.shape[1] for score in bank.scores] == [count] * len(bank.scores)
        earlier = load_generator(folder)
        assert len(earlier.classes) == count
        tables = source_tables(earlier)
        with torch.no_grad():
            for y in range(count):
                for scores in bank.scores:
                    scores.zero_()[:, y] = 1
                made = bank.tables()
                for own, theirs in zip(made.scale + made.shift, tables.scale + tables.shift, strict=True):
                    torch.testing.assert_close(own, theirs[y].expand_as(own))


def test_a_round_adds_as_many_numbers_as_the_formula_says_and_no_more(history: History) -> None:
    """The formula of docs/methods.md, with K = 0 where z reaches the first layer only."""
    files = [load_file(folder / "generator.safetensors") for folder in history.folders]
    assert {tensor.dtype for file in files for tensor in file.values()} == {torch.float32}
    sizes = [sum(tensor.numel() for tensor in file.values()) for file in files]
    of_sites, of_output, of_first = 12 + 8 + 8 + 8, 8, 0
    chunk = 3 if history.config.hierarchical else 0
    if history.config.deep:
        of_sites, of_first, chunk = 2 * (32 + 3 * 8) + 2 * (16 + 3 * 4), 32 * 2**2, 6
    for before, after, classes in zip(sizes, sizes[1:], ROUNDS, strict=False):
        of_bank = (2 * of_sites + of_first) * chunk + 2 * (of_sites + of_output)
        assert after - before == len(classes) * (2 * of_sites + of_first) + of_bank


@pytest.mark.parametrize("name", catalog.names("cgt.transfer"))
def test_a_model_without_its_embedding_is_a_source_for_every_method(name: str) -> None:
    networks(name)


@pytest.mark.parametrize("name", ["transfergan", "freezed", "gefilter"])
def test_class_vectors_can_t_start_at_those_of_an_embedding_that_was_removed(name: str) -> None:
    with pytest.raises(UserError, match=r"start is 'mean', .* set method.start to fresh"):
        networks(name, start="mean")


def networks(name: str, **options: Any) -> tuple[Generator, Discriminator]:
    """What a method begins with, of a source from which the embedding's bank was removed."""
    pair = tiny.source(tiny.HIERARCHICAL)
    pair.generator.append(pair.generator.new_class_bank(("elk", "fox")))
    rest = Source(
        without_bank(pair.generator, 0),
        Discriminator(tiny.DISCRIMINATOR, tiny.RESOLUTION, ("elk", "fox")).eval(),
    )
    task = dataclasses.replace(tiny.task(tiny.HIERARCHICAL, ("hen",)), source=rest)
    kind = catalog.load("cgt.transfer", name, kind="method").METHOD
    method: Method[Any] = kind(kind.Config(name=name, **FITTING.get(name, {}), **options), task)
    return method.networks()
