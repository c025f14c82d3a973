"""Model folders: what is read again is what was written, at no cost to the caller, and damage is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cgt.errors import UserError
from cgt.models.folder import load_generator, load_model, save_model
from cgt.models.steered import SteeredBank
from tests import tiny
from tests.transfer.methods import make


@pytest.fixture(params=tiny.CONDITIONINGS.values(), ids=tiny.CONDITIONINGS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    source = tiny.source(request.param)
    source.generator.append(source.generator.new_class_bank(tiny.NEW))
    save_model(tmp_path / "model", source.generator, source.discriminator, provenance={"step": 3})
    return tmp_path / "model"


def test_loading_gives_back_every_tensor(folder: Path) -> None:
    generator, discriminator = load_model(folder)
    assert discriminator is not None
    save_model(folder.with_name("again"), generator, discriminator, provenance={"step": 3})
    for file in ("generator.safetensors", "discriminator.safetensors", "config.json"):
        assert (folder.with_name("again") / file).read_bytes() == (folder / file).read_bytes()


def test_loading_a_mined_bank_draws_nothing(tmp_path: Path) -> None:
    source = tiny.source(tiny.PER_LAYER).generator
    source.append(make("minegan", tiny.PER_LAYER).networks()[0].last_bank.stored())
    save_model(tmp_path / "model", source.eval(), provenance={})
    before = torch.get_rng_state()
    load_generator(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before)


def test_loading_draws_nothing(folder: Path) -> None:
    before = torch.get_rng_state()
    generator = load_generator(folder)
    assert torch.equal(torch.get_rng_state(), before)
    x = generator(torch.zeros(2, generator.dim_z), torch.tensor([0, len(tiny.OLD)]))
    assert x.isfinite().all()


def nested(*keys: str | int, value: Any) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


DAMAGE = {
    "a list for a section": (nested("generator", value=[1]), "generator: "),
    "a text for a section": (nested("generator", value="x"), "generator: "),
    "a text for classes": (nested("discriminator", "classes", value="abc"), "discriminator.classes: "),
    "a number for a text": (nested("banks", 0, "classes", value=[1, 2]), "banks.0.classes.0: "),
    "no bank": (nested("banks", value=[]), "banks: "),
    "an unknown initialisation": (nested("generator", "init", value="foo"), "generator.init: "),
    "a fraction": (nested("generator", "dim_z", value=6.5), "generator.dim_z: "),
    "a truth value": (nested("resolution", value=True), "resolution: "),
    "an epsilon that is none": (nested("generator", "bn_eps", value=float("nan")), "bn_eps is nan"),
    "a second embedding": (nested("banks", 1, "kind", value="embedding"), "only the first bank"),
    "a name that no list could hold": (nested("banks", 1, "classes", value=["a,b"]), "'a,b' won't do"),
    "a huge picture": (nested("resolution", value=1_000_000), ""),
    "a picture of all the bits there are": (nested("resolution", value=2**62), ""),
    "channels beyond all memory": (nested("generator", "channels", value=[2**40] * 3), ""),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("folder", [tiny.PER_LAYER], ids=["per layer"], indirect=True)
def test_a_damaged_config_is_named(folder: Path, damage: str) -> None:
    change, words = DAMAGE[damage]
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        load_model(folder)
    assert words in str(caught.value)
    assert any(rule in str(caught.value) for rule in ("does not describe a model", "does not hold the model"))


def test_a_steered_bank_is_read_with_the_outputs_of_its_classes(tmp_path: Path) -> None:
    source = tiny.source(tiny.PER_LAYER).generator
    source.append(make("ppgn", tiny.PER_LAYER).networks()[0].last_bank.stored())
    save_model(tmp_path / "model", source.eval(), provenance={})
    bank = load_generator(tmp_path / "model").last_bank
    assert isinstance(bank, SteeredBank)
    assert bank.class_outputs.tolist() == [0, 1, 2]


STEERED = {
    "an option that there is not": (nested("banks", 1, "options", "x", value=1), "x: Extra inputs"),
    "no stages": (nested("banks", 1, "options", "stages", value=[]), "stages: "),
    "a fraction of an iteration": (nested("banks", 1, "options", "iterations", value=1.5), "iterations: "),
    "a text for a number": (nested("banks", 1, "options", "prior", value="x"), "prior: "),
    "an output beyond the last": (nested("banks", 1, "options", "targets", value=[0, 1, 9]), "[0, 1, 9]"),
    "options of plain tables": (nested("banks", 0, "options", value={"x": 1}), "banks.0.x: Extra inputs"),
}


@pytest.mark.parametrize("damage", STEERED)
def test_damaged_options_of_a_bank_are_named(damage: str, tmp_path: Path) -> None:
    generator, _ = make("ppgn", tiny.PER_LAYER).networks()
    source = tiny.source(tiny.PER_LAYER).generator
    source.append(generator.last_bank.stored())
    save_model(tmp_path / "model", source.eval(), provenance={})
    change, words = STEERED[damage]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    change(config)
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="does not describe a model") as caught:
        load_model(tmp_path / "model")
    assert words in str(caught.value)


@pytest.mark.parametrize("folder", [tiny.PER_LAYER], ids=["per layer"], indirect=True)
def test_all_that_is_wrong_with_a_config_is_named_at_once(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["generator"]["init"] = "foo"
    config["banks"][1]["classes"] = "abc"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"generator\.init.*banks\.1\.classes"):
        load_model(folder)
