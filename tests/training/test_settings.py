"""The configs that are shipped, and the rules between keys."""

import importlib.resources

import pytest

from cgt import catalog, rng
from cgt.config import dump, load, read, shipped
from cgt.data.selection import class_names
from cgt.errors import UserError
from cgt.training.settings import PretrainConfig, TransferConfig


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_config_is_valid_and_says_what_it_is_for(name: str) -> None:
    draft = read(TransferConfig, name, ["data=anything"])
    if name.split("/")[1].startswith(("pretrain", "biggan")):
        config = load(PretrainConfig, name, ["data=anything"])
    else:
        # Layers for several methods name none.
        method = draft.values.get("method", {"name": "bsa"})
        draft.values["method"] = method
        kind = catalog.load("cgt.transfer", method["name"], kind="method").METHOD
        config = draft.check(TransferConfig.of(kind))
        if name.endswith("_20x100"):
            assert config.data.per_class == 100
    assert "steps:" in dump(config)


def test_a_dumped_config_is_read_back_equal(tmp_path) -> None:
    config = load(PretrainConfig, "cifar100/biggan32", ["data=anything", "optim.eps=1e-6"])
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load(PretrainConfig, str(tmp_path / "config.yaml")) == config


def test_the_source_classes_of_cifar100_are_those_of_the_written_seed() -> None:
    names = class_names("cifar100/source_classes.txt")
    text = (importlib.resources.files("cgt.configs") / "cifar100" / "source_classes.txt").read_text()
    assert "cgt.rng.permutation(100, 0," in text
    assert len(set(names)) == 80
    places = rng.permutation(100, 0, "cifar100 source classes")[:80].sort().values
    # CIFAR-100's official order is alphabetical; "apple" and "baby" are its numbers 0 and 2.
    assert (0 in places) == ("apple" in names)
    assert (2 in places) == ("baby" in names)
    assert list(names) == sorted(names)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("micro_batch=7", "is not a multiple of micro_batch 7"),
        ("batch_size=33", "make batch_size"),
        ("optim.decay_from=2", "optim.decay_from"),
        ("augment.policy=[colour]", "augment.policy"),
    ],
)
def test_values_that_contradict_each_other_are_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(PretrainConfig, "shapes/pretrain", ["data=anything", override])


def test_compiled_networks_are_not_recomputed_by_hand() -> None:
    with pytest.raises(UserError, match="compile and gradient_checkpointing exclude each other"):
        load(
            PretrainConfig,
            "shapes/pretrain",
            ["data=anything", "compile=true", "gradient_checkpointing=true"],
        )
