"""What every transfer method must hold; a new file in cgt/transfer/ is tested on arrival."""

import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from cgt import catalog
from cgt.distributed import World
from cgt.errors import UserError
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.folder import load_generator, save_model
from cgt.training.state_files import read_state, taken_apart, write_state
from cgt.training.step import fetch, train_step
from cgt.training.trainer import build_trainer, snapshot
from cgt.transfer.bsa import BSA, BSAConfig
from cgt.transfer.cgantransfer import CGANTransfer, CGANTransferConfig
from cgt.transfer.supervised import SupervisedExtension
from tests import tiny
from tests.training.waiting import NothingFetched
from tests.transfer.methods import make, trained

FINE_TUNED = ("cgantransfer", "minegan")
METHODS = [*catalog.names("cgt.transfer"), *(f"{name} finetune" for name in FINE_TUNED)]
"""Every method, and the second stages of those that have one."""
TRAINED = {
    "bsa": r"banks\.1\.",
    "bsa-supervised": r"banks\.1\.",
    "cgantransfer": r"banks\.1\.(prior|scores|residuals|latent)",
    "cgantransfer finetune": r"(?!banks)|banks\.0\.(residuals|latent)",
    "freezed": "",
    "gefilter": r"(linear|blocks\.{fresh}|banks)\.|.*reparametrisation|attention\.{fresh}\.",
    "minegan": r"banks\.1\.miners\.",
    "minegan finetune": "",
    "ppgn": r"banks\.1\.(classifier|log_temperature)",
    "scratch": "",
    "transfergan": "",
}
"""Which parameters of G each method trains, by expressions; {fresh} stands for all blocks but the last."""
ALL = pytest.mark.parametrize("config", tiny.CONDITIONINGS.values(), ids=tiny.CONDITIONINGS)


@ALL
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("classes", [tiny.NEW, tiny.NEW[:1]], ids=["3 classes", "1 class"])
def test_it_trains_with_finite_losses_and_changes_what_it_says_and_nothing_else(
    name: str, config: GeneratorConfig, classes: tuple[str, ...]
) -> None:
    method = make(name, config, classes)
    before, before_D = (
        {k: v.clone() for k, v in network.state_dict().items()} for network in method.networks()
    )
    trainer, losses = trained(method)
    assert all(math.isfinite(value) for record in losses for value in record.values())
    if not method.keeps_old_classes:
        assert len(trainer.generator.banks) == 1
    expression = TRAINED.get(name, "").replace("{fresh}", f"[0-{len(trainer.generator.blocks) - 2}]")
    for key, parameter in trainer.generator.named_parameters():
        trains = re.match(expression, key) is not None
        assert torch.equal(parameter, before[key]) != trains, key
        assert parameter.requires_grad == trains, key
    fixed = {
        id(t)
        for part in method.frozen(trainer.discriminator)
        for t in part.state_dict(keep_vars=True).values()
    }
    for key, tensor in trainer.discriminator.state_dict(keep_vars=True).items():
        if id(tensor) in fixed:
            assert torch.equal(tensor, before_D[key]), key
        elif tensor.dim() > 1:
            assert not torch.equal(tensor, before_D[key]), key
    last = f"banks.{len(trainer.generator.banks) - 1}."
    for key, buffer in trainer.generator.named_buffers():
        if key.startswith(f"{last}statistics.") and trainer.generator.training:
            assert not torch.equal(buffer, before[key]), key
        elif method.keeps_old_classes and not key.startswith(last):
            assert torch.equal(buffer, before[key]), key


@pytest.mark.parametrize("name", METHODS)
def test_its_discriminator_is_regularised_by_feedback_or_that_is_refused_where_it_trains_none(
    name: str,
) -> None:
    method = make(name, tiny.PER_LAYER)
    changes: dict[str, Any] = {
        "augment": {**tiny.RUN["augment"], "target": -0.7, "adjust_pictures": 80},
        "optim": {**tiny.RUN["optim"], "lecam": 0.3},
    }
    if isinstance(method, SupervisedExtension):
        with pytest.raises(UserError, match=rf"optim.lecam=0.3: .* {name} trains none"):
            tiny.transfer_config(method.config, **changes).check_method(type(method))
        with pytest.raises(UserError, match=rf"gradient_checkpointing: .* {name} trains none of the blocks"):
            tiny.transfer_config(method.config, gradient_checkpointing=True).check_method(type(method))
        return
    trainer = build_trainer(tiny.transfer_config(method.config, **changes), method, World(cpu=True))
    trainer.feedback.augment_probability = torch.tensor(0.5)
    batches = tiny.MemoryPictures(method.task.classes).batches(8, seed=0)
    losses = fetch({step: train_step(trainer, batches, step) for step in range(2)})
    assert losses[0]["augment_probability"] == 0.5
    assert losses[1]["augment_probability"] in (pytest.approx(0.1), pytest.approx(0.9))
    assert losses[1]["lecam"] > 0


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("ppgn", "bsa-supervised")])
def test_its_steps_wait_for_no_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = make(name, tiny.HIERARCHICAL)
    changes: dict[str, Any] = {}
    if not isinstance(method, SupervisedExtension):
        changes["augment"] = {"policy": ["color", "translation", "cutout"], "target": 0.6}
        changes["optim"] = {**tiny.RUN["optim"], "lecam": 0.3}
    trainer = build_trainer(tiny.transfer_config(method.config, **changes), method, World(cpu=True))
    batches = list(itertools.islice(tiny.MemoryPictures(method.task.classes).batches(8, seed=0), 9))
    with monkeypatch.context() as patch, NothingFetched(patch):
        steps = {step: train_step(trainer, iter(batches), step) for step in range(2)}
        with pytest.raises(AssertionError, match="a GPU would be waited for"):
            fetch(steps)
    assert len(fetch(steps)) == 2


@pytest.mark.parametrize("name", METHODS)
def test_it_goes_on_from_a_saved_state_to_the_same_bits(name: str, tmp_path: Path) -> None:
    method, config = make(name, tiny.HIERARCHICAL), tiny.HIERARCHICAL
    trainer = build_trainer(tiny.transfer_config(method.config, steps=3), method, World(cpu=True))
    pictures = tiny.MemoryPictures(method.task.classes)
    batches = pictures.batches(8, seed=0)
    for step in range(2):
        train_step(trainer, batches, step)
    write_state(tmp_path, *taken_apart(trainer.state_dict()), trainer.world)
    again = build_trainer(trainer.config, method, trainer.world)
    again.load_state_dict(read_state(tmp_path))
    for one in (trainer, again):
        train_step(one, pictures.batches(8, seed=0, first=2 * one.batches_per_step), 2)
    before, after = (taken_apart(one.state_dict())[1] for one in (trainer, again))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    z_NZ, y_N = torch.randn(6, config.dim_z), torch.arange(6) % len(snapshot(trainer).classes)
    assert torch.equal(snapshot(trainer)(z_NZ, y_N), snapshot(again)(z_NZ, y_N))


@ALL
@pytest.mark.parametrize("name", METHODS)
def test_its_saved_model_makes_the_new_classes_and_old_ones_to_the_bit_where_promised(
    name: str, config: GeneratorConfig, tmp_path: Path
) -> None:
    method = make(name, config)
    save_model(tmp_path / "source", method.task.given_source.generator, provenance={})
    trainer, _ = trained(method, steps=3)
    save_model(tmp_path / "extended", snapshot(trainer), provenance={})
    source, extended = load_generator(tmp_path / "source"), load_generator(tmp_path / "extended")
    assert extended.classes[-3:] == list(tiny.NEW)
    z_NZ = torch.randn(12, config.dim_z)
    assert extended(z_NZ, torch.full((12,), len(extended.classes) - 1)).isfinite().all()
    if method.keeps_old_classes:
        assert extended.classes == [*tiny.OLD, *tiny.NEW]
        for y in range(len(tiny.OLD)):
            y_N = torch.full((12,), y)
            assert torch.equal(source(z_NZ, y_N), extended(z_NZ, y_N))
    else:
        assert extended.classes == list(tiny.NEW)


@ALL
def test_a_batch_that_mixes_old_and_new_classes_gives_each_picture_what_it_gets_alone(
    config: GeneratorConfig,
) -> None:
    extended = snapshot(trained(make("cgantransfer", config))[0])
    z_NZ, y_N = torch.randn(14, config.dim_z), torch.arange(14) % 7
    mixed = extended(z_NZ, y_N)
    for y in range(7):
        alone = extended(z_NZ, torch.full((14,), y))
        assert torch.equal(mixed[y_N == y], alone[y_N == y])
    single = torch.cat([extended(z[None], y[None]) for z, y in zip(z_NZ, y_N, strict=True)])
    torch.testing.assert_close(mixed, single, rtol=0, atol=1e-5)


@ALL
def test_an_extended_model_can_be_extended_again_and_every_earlier_class_stays(
    config: GeneratorConfig,
) -> None:
    first = snapshot(trained(make("cgantransfer", config))[0])
    task = tiny.task(config, ("hen", "ibis"))
    source = type(task.given_source)(first, task.given_source.discriminator)
    again = type(task)(**{**vars(task), "source": source})
    second = snapshot(trained(CGANTransfer(CGANTransferConfig(name="cgantransfer"), again))[0])
    assert second.classes == [*tiny.OLD, *tiny.NEW, "hen", "ibis"]
    z_NZ, y_N = torch.randn(14, config.dim_z), torch.arange(14) % 7
    assert torch.equal(first(z_NZ, y_N), second(z_NZ, y_N))


@pytest.mark.parametrize("start", ["nearest", "nearest-soft", "orthogonal", "normal", "uniform", "official"])
@pytest.mark.parametrize("residuals", [True, False])
def test_cgantransfer_trains_from_every_start(start: str, residuals: bool) -> None:
    _, losses = trained(make("cgantransfer", tiny.PER_LAYER, start=start, residuals=residuals), steps=1)
    assert ("residual_l2" in losses[0]) == residuals
    assert losses[0]["score_l1"] > 0


def test_penalties_pull_scores_and_residuals_towards_zero() -> None:
    def size(name: str, **options: float) -> float:
        trainer, _ = trained(make("cgantransfer", tiny.PER_LAYER, **options), steps=20)
        return sum(p.abs().sum().item() for p in getattr(trainer.bank, name))

    assert size("scores", lambda_s=50.0) < 0.7 * size("scores", lambda_s=0.0)
    assert size("residuals", lambda_r=500.0) < 0.7 * size("residuals", lambda_r=0.0)


def test_soft_nearest_scores_are_half_one_hot_and_half_uniform() -> None:
    soft = make("cgantransfer", tiny.PER_LAYER, start="nearest-soft").networks()[0].banks[-1].scores[0]
    hard = make("cgantransfer", tiny.PER_LAYER, start="nearest").networks()[0].banks[-1].scores[0]
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(hard.sum(1), torch.ones(hard.shape[0], 3))
    torch.testing.assert_close(soft, hard / 2 + 1 / 8)


def test_bsa_starts_at_the_mean_or_at_the_nearest_class() -> None:
    def start(name: str) -> tuple[Generator, torch.Tensor]:
        task = tiny.task(tiny.PER_LAYER)
        generator = BSA(BSAConfig(name="bsa", start=name), task).networks()[0]
        return generator, generator.banks[-1].scale[0]

    generator, mean = start("mean")
    source_NC = generator.banks[0].scale[0]
    assert torch.equal(mean, source_NC.mean(0).expand(3, -1))
    _, nearest = start("nearest")
    assert all(any(torch.equal(row, old) for old in source_NC) for row in nearest)


def test_the_discriminator_keeps_all_but_its_class_embedding() -> None:
    method = make("bsa", tiny.PER_LAYER)
    new, old = method.networks()[1].state_dict(), method.task.given_source.discriminator.state_dict()
    assert new["embedding.weight"].shape == (3, 12)
    assert all(torch.equal(new[key], old[key]) for key in old if not key.startswith("embedding."))


@ALL
def test_transfergan_starts_at_the_source_in_all_but_its_classes(config: GeneratorConfig) -> None:
    method = make("transfergan", config)
    new, old = method.networks()[0].state_dict(), method.task.given_source.generator.state_dict()
    kept = {key for key in new if not key.startswith("banks.")}
    assert kept == {key for key in old if not key.startswith("banks.")}
    kept |= {key for key in new if ".statistics." in key}
    if config.shared_dim:
        kept |= {key for key in new if re.match(r"banks\.0\.(scale|shift|first)\.", key)}
    assert all(torch.equal(new[key], old[key]) for key in kept)
    fresh = set(new) - kept
    assert fresh
    assert all(new[key].shape[0] == len(tiny.NEW) for key in fresh)


@ALL
def test_transfergan_starts_its_classes_at_the_mean_or_at_the_nearest_class(config: GeneratorConfig) -> None:
    def rows(generator: Generator) -> torch.Tensor:
        bank = generator.banks[0]
        return bank.embedding.weight if config.shared_dim else bank.scale[0]

    source_NC = rows(make("bsa", config).task.given_source.generator)
    mean_MC = rows(make("transfergan", config, start="mean").networks()[0])
    assert torch.equal(mean_MC, source_NC.mean(0).expand(3, -1))
    nearest_MC = rows(make("transfergan", config, start="nearest").networks()[0])
    assert all(any(torch.equal(row, old) for old in source_NC) for row in nearest_MC)


@pytest.mark.parametrize("blocks", [1, 2])
def test_freezed_trains_the_blocks_of_the_discriminator_after_the_first_ones(blocks: int) -> None:
    method = make("freezed", tiny.PER_LAYER, frozen_blocks=blocks)
    trainer, _ = trained(method)
    source = method.task.given_source.discriminator
    for i, (block, old) in enumerate(zip(trainer.discriminator.blocks, source.blocks, strict=True)):
        weight = next(iter(block.parameters()))
        assert torch.equal(weight, next(iter(old.parameters()))) == (i < blocks)


def test_freezed_refuses_more_blocks_than_there_are() -> None:
    with pytest.raises(UserError, match=r"frozen_blocks is 3, and the source's discriminator has 2"):
        make("freezed", tiny.PER_LAYER, frozen_blocks=3)
