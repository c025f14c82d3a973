"""Folders of folded generators, and of half precision: what they hold, and what can start there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cgt import catalog
from cgt.errors import UserError
from cgt.models.banks import merged
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.folder import load_generator, load_model, save_model
from cgt.transfer.base import Method, Source
from tests import tiny
from tests.models.extended import extended
from tests.transfer.methods import FITTING, trained

ALL = pytest.mark.parametrize("config", tiny.CONDITIONINGS.values(), ids=tiny.CONDITIONINGS)
KEEPING = ("bsa", "bsa-supervised", "cgantransfer", "minegan", "ppgn")
TRAINING_ALL = ("freezed", "gefilter", "transfergan")


def pictures(generator: Generator) -> torch.Tensor:
    """A picture of every class, of latents that stay the same."""
    y = torch.arange(len(generator.classes))
    z = torch.randn(len(y), generator.dim_z, generator=torch.Generator().manual_seed(1))
    return generator(z, y)


@pytest.fixture
def folded_source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    """A folded generator and its discriminator, by way of a folder."""
    pair = tiny.source(getattr(request, "param", tiny.PER_LAYER))
    pair.generator.fold()
    save_model(tmp_path / "folded", pair.generator, pair.discriminator, provenance={})
    generator, discriminator = load_model(tmp_path / "folded")
    assert discriminator is not None
    return Source(generator, discriminator)


def method_from(source: Source, name: str, **options: Any) -> Method[Any]:
    kind = catalog.load("cgt.transfer", name, kind="method").METHOD
    task = replace(tiny.task(source.generator.config), source=source)
    return kind(kind.Config(name=name, **{**FITTING.get(name, {}), **options}), task)


@ALL
def test_a_folded_generator_is_read_as_it_was_written(config: GeneratorConfig, tmp_path: Path) -> None:
    generator = extended(config)
    before = pictures(generator)
    generator.fold()
    after = pictures(generator)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    save_model(tmp_path / "model", generator, provenance={})
    read, for_use = load_model(tmp_path / "model")[0], load_generator(tmp_path / "model")
    assert read.folded
    assert for_use.folded
    assert torch.equal(pictures(read), after)
    torch.testing.assert_close(pictures(for_use), after, atol=1e-5, rtol=0)  # laid out otherwise
    state = for_use.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in read.state_dict().items())


def test_a_folded_folder_says_so_and_holds_no_vectors(tmp_path: Path) -> None:
    generator = extended(tiny.HIERARCHICAL)
    save_model(tmp_path / "raw", generator, provenance={})
    assert "folded" not in json.loads((tmp_path / "raw" / "config.json").read_text())
    assert not load_model(tmp_path / "raw")[0].folded
    generator.fold()
    save_model(tmp_path / "folded", generator, provenance={})
    assert json.loads((tmp_path / "folded" / "config.json").read_text())["folded"] is True
    assert not [name for name in load_file(tmp_path / "folded" / "generator.safetensors") if ".u" in name]


def test_a_folder_that_says_it_is_folded_and_holds_norms_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "raw", tiny.source(tiny.HIERARCHICAL).generator, provenance={})
    config = json.loads((tmp_path / "raw" / "config.json").read_text())
    (tmp_path / "raw" / "config.json").write_text(json.dumps(config | {"folded": True}))
    with pytest.raises(UserError, match=r"\.u is not of this architecture"):
        load_model(tmp_path / "raw")


@ALL
def test_folding_twice_changes_nothing(config: GeneratorConfig) -> None:
    generator = extended(config)
    generator.fold()
    once = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    generator.fold()
    twice = generator.state_dict()
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[name], twice[name]) for name in once)


@pytest.mark.parametrize("name", KEEPING)
@pytest.mark.parametrize("folded_source", [tiny.PER_LAYER, tiny.HIERARCHICAL], indirect=True)
def test_methods_that_keep_the_generator_frozen_start_from_a_folded_one(
    name: str, folded_source: Source, tmp_path: Path
) -> None:
    method = method_from(folded_source, name)
    trainer, _ = trained(method)
    finished = method.finished(trainer.generator)
    assert finished.folded
    y = torch.arange(len(tiny.OLD))
    z = torch.randn(len(y), finished.dim_z)
    assert torch.equal(finished(z, y), folded_source.generator(z, y))
    state = finished.state_dict()
    for key, tensor in folded_source.generator.state_dict().items():
        assert torch.equal(state[key], tensor), key
    save_model(tmp_path / "extended", finished, provenance={})
    assert load_generator(tmp_path / "extended").classes == [*tiny.OLD, *tiny.NEW]


@pytest.mark.parametrize("name", TRAINING_ALL)
def test_methods_that_train_the_generator_refuse_a_folded_one(name: str, folded_source: Source) -> None:
    with pytest.raises(UserError, match=r"folded for inference.*use the model that it was exported from"):
        method_from(folded_source, name).networks()


@pytest.mark.parametrize("name", ["cgantransfer", "minegan"])
def test_fine_tuning_refuses_a_folded_transfer(name: str, folded_source: Source) -> None:
    with pytest.raises(UserError, match="folded for inference"):
        method_from(folded_source, name, stage="finetune").networks()


def test_scratch_takes_the_shape_of_a_folded_source(folded_source: Source) -> None:
    assert not method_from(folded_source, "scratch").networks()[0].folded


def test_folded_and_raw_models_are_not_merged(folded_source: Source) -> None:
    raw = tiny.source(tiny.PER_LAYER).generator
    with pytest.raises(ValueError, match="one of them is folded for inference, and the other is not"):
        merged([raw, folded_source.generator], ["a", "b"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    generator = extended(tiny.HIERARCHICAL)
    generator.fold()
    save_model(tmp_path / "half", generator, provenance={}, dtype=dtype)
    stored = load_file(tmp_path / "half" / "generator.safetensors")
    buffers = dict(generator.named_buffers())
    for name, tensor in stored.items():
        assert tensor.dtype == (torch.float32 if name in buffers else dtype), name
    read = load_generator(tmp_path / "half")
    for name, tensor in read.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, stored[name].float()), name


def test_a_number_that_half_precision_can_not_hold_is_refused(tmp_path: Path) -> None:
    generator = extended(tiny.PER_LAYER)
    with torch.no_grad():
        generator.to_rgb.weight[0, 0, 0, 0] = 7e4
    with pytest.raises(
        UserError, match=r"to_rgb.weight has numbers beyond 65504.*store the model in float32"
    ):
        save_model(tmp_path / "half", generator, provenance={}, dtype=torch.float16)
    assert not (tmp_path / "half").exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.float8_e4m3fn])
def test_other_number_types_are_named(dtype: torch.dtype, tmp_path: Path) -> None:
    save_model(tmp_path / "model", extended(tiny.PER_LAYER), provenance={})
    file = tmp_path / "model" / "generator.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "to_rgb.bias": tensors["to_rgb.bias"].to(dtype)}, file)
    with pytest.raises(UserError, match=rf"to_rgb.bias is of {dtype}"):
        load_model(tmp_path / "model")
