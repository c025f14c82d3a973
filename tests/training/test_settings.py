"""The configs that are shipped, and the rules between keys."""

import importlib.resources
import re
from typing import Any

import pytest

from cgt import catalog, rng
from cgt.cli.transfer import chosen
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
    assert "steps:" in dump(config)


def transfer_of(name: str) -> TransferConfig[Any]:
    return chosen(read(TransferConfig, name, ["data=anything"]))[1]


def test_the_name_of_a_cell_says_how_many_classes_and_pictures_it_has() -> None:
    cells = [name for name in shipped() if re.search(r"/\w+_\d+x\d+$", name)]
    assert cells
    for name in cells:
        classes, per_class = map(int, name.rpartition("_")[2].split("x"))
        data = read(TransferConfig, name, ["data=anything"]).values["data"]
        assert data["per_class"] == per_class
        if data.get("classes"):
            found = len(class_names(data["classes"]))
        else:
            found = 100 - len(class_names(data["exclude"])) if name.startswith("cifar100/") else 5
        assert found == classes


def test_the_rows_of_the_ablation_differ_by_their_options_alone() -> None:
    rows = {
        "frozen_prior_no_residuals": {"prior": "frozen", "residuals": False},
        "frozen_prior_residuals": {"prior": "frozen"},
        "tunable_prior_no_residuals": {"residuals": False},
        "shared_scores_no_residuals": {"scores": "shared", "residuals": False},
        "no_regularisation": {"lambda_r": 0, "lambda_s": 0},
        "no_l1": {"lambda_s": 0},
        "no_l2": {"lambda_r": 0},
        "full": {},
    }
    for folder in ("places365", "shapes"):
        full = transfer_of(f"{folder}/cgantransfer")
        found = {
            name.rpartition("/ablation_")[2] for name in shipped() if name.startswith(f"{folder}/ablation")
        }
        assert found == set(rows)
        for name, changes in rows.items():
            method = full.method.model_copy(update=changes)
            assert transfer_of(f"{folder}/ablation_{name}") == full.model_copy(update={"method": method})


def test_the_weights_of_the_penalties_are_those_of_the_official_code() -> None:
    for name, lambda_r in (("cifar100/cgantransfer_10x300", 0.01), ("places365/cgantransfer", 0.1)):
        method = transfer_of(name).method
        assert (method.lambda_r, method.lambda_s) == (lambda_r, 0.01)


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
        ("augment.target=0.6", "augment.*: target=0.6 .* policy names none: add some"),
        ("augment.target=1", "augment.target"),
        ("augment.adjust_pictures=0", "augment.adjust_pictures"),
        ("optim.lecam=-1", "optim.lecam"),
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


def test_the_lists_of_few_classes_are_those_of_the_written_seed_or_the_first() -> None:
    # The names in CIFAR-100's official order, which is alphabetical, without the source's.
    ten, source = class_names("cifar100/ten_classes.txt"), class_names("cifar100/source_classes.txt")
    assert len(ten) == 10
    assert not set(ten) & set(source)
    text = (importlib.resources.files("cgt.configs") / "cifar100" / "ten_classes.txt").read_text()
    assert 'cgt.rng.permutation(20, 0, "cifar100 ten classes")' in text
    places = rng.permutation(20, 0, "cifar100 ten classes")[:10].sort().values.tolist()
    # "baby" is the first of the 20, and "worm" the last.
    assert (0 in places) == ("baby" in ten)
    assert (19 in places) == ("willow_tree" in ten)
    assert list(ten) == sorted(ten)
    assert class_names("shapes/three_classes.txt") == class_names("shapes/new_classes.txt")[:3]
