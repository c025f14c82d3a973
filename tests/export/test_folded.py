"""`--format safetensors`: a model folder for use alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cgt.cli import main
from cgt.models.folder import load_generator, load_model

ALL = pytest.mark.parametrize("model", ["flat", "hierarchical", "deep"])


@ALL
@pytest.mark.parametrize("size", [1, 7, 64])
def test_it_makes_what_the_model_makes(
    size: int, model: str, exported: Callable[..., Path], models: dict[str, Path]
) -> None:
    generator, _ = load_model(models[model])
    again = load_generator(exported(model, "safetensors"))
    z, y = torch.randn(size, generator.dim_z), (torch.arange(size) + 4) % len(generator.classes)
    with torch.no_grad():
        torch.testing.assert_close(again(z, y), generator(z, y), atol=1e-5, rtol=0)


def test_it_is_folded_and_has_no_discriminator(
    exported: Callable[..., Path], models: dict[str, Path]
) -> None:
    folder = exported("hierarchical", "safetensors")
    generator, discriminator = load_model(folder)
    assert generator.folded
    assert discriminator is None
    assert load_model(models["hierarchical"])[1] is not None
    assert not [name for name in load_file(folder / "generator.safetensors") if name.endswith(".u")]


@ALL
def test_it_holds_some_classes_in_the_order_of_the_model(
    model: str, exported: Callable[..., Path], models: dict[str, Path]
) -> None:
    folder = exported(model, "safetensors", "--classes", "gnu,yak,bee,ant")
    whole, some = load_generator(models[model]), load_generator(folder)
    assert some.classes == ["ant", "bee", "yak", "gnu"]
    z = torch.randn(4, whole.dim_z)
    ids = torch.tensor([whole.classes.index(name) for name in some.classes])
    assert torch.equal(some(z, torch.arange(4)), whole(z, ids))


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        ("new", ["elk", "fox", "gnu"]),
        ("old", ["ant", "bee", "cat", "dog", "owl", "yak"]),
        ("all", ["ant", "bee", "cat", "dog", "owl", "yak", "elk", "fox", "gnu"]),
    ],
)
def test_classes_are_chosen_as_elsewhere(choice: str, kept: list[str], exported: Callable[..., Path]) -> None:
    assert load_generator(exported("flat", "safetensors", "--classes", choice)).classes == kept


def test_half_precision_halves_the_file_and_the_card_says_what_it_costs(
    exported: Callable[..., Path], models: dict[str, Path]
) -> None:
    folder = exported("hierarchical", "safetensors", "--half")
    parameters = dict(load_generator(folder).named_parameters())
    for name, tensor in load_file(folder / "generator.safetensors").items():
        assert (tensor.dtype == torch.float16) == (name in parameters), name
    generator, half = load_generator(models["hierarchical"]), load_generator(folder)
    z, y = torch.randn(9, generator.dim_z), torch.arange(9)
    assert 0 < (half(z, y) - generator(z, y)).abs().max() < 0.05
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "- rounding to float16: moves pictures by up to" in card


def test_the_program_of_the_card_runs(exported: Callable[..., Path], run_card: Callable[..., str]) -> None:
    assert run_card(exported("flat", "safetensors"), with_cgt=True).startswith("(8, 3, 8, 8)")


def test_it_is_sampled_like_any_model(exported: Callable[..., Path], tmp_path: Path) -> None:
    folder = exported("hierarchical", "safetensors", "--half")
    assert main(["sample", str(folder), "--out", str(tmp_path / "grid.png"), "--per-class", "2"]) == 0
    assert (tmp_path / "grid.png").is_file()


def test_what_was_exported_is_exported_again(exported: Callable[..., Path], tmp_path: Path) -> None:
    folder, out = exported("flat", "safetensors"), tmp_path / "again"
    assert main(["export", str(folder), str(out), "--format", "safetensors", "--classes", "new"]) == 0
    assert load_generator(out).classes == ["elk", "fox", "gnu"]
