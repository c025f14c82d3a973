"""The way back to BigGAN-PyTorch: what came from there is there again, and what can't go is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cgt.cli import main
from cgt.errors import UserError
from cgt.export.base import Model, Options
from cgt.export.biggan_pytorch import checkpoint, export
from cgt.interop.biggan_pytorch import convert
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.discriminator import Discriminator, DiscriminatorConfig
from cgt.models.folder import load_model, save_model
from tests.interop.checkpoints import FORMATS, GOLDEN

CLASSES = ["a", "b", "c"]
PER_LAYER = GeneratorConfig(ch=1, dim_z=4)
SHARED = GeneratorConfig(ch=1, dim_z=8, shared_dim=3)
HIERARCHICAL = GeneratorConfig(ch=1, dim_z=8, shared_dim=3, hierarchical=True)
DISCRIMINATOR = DiscriminatorConfig(ch=1)


@pytest.fixture(params=FORMATS["biggan-pytorch"])
def published(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / str(request.param)


def written(generator: Generator, discriminator: Discriminator | None, folder: Path) -> Path:
    """What the target makes of a pair, in a new folder."""
    folder.mkdir()
    export(Model(folder, generator, discriminator, {}), folder, Options())
    return folder


def loaded(path: Path) -> dict[str, Tensor]:
    content: dict[str, Tensor] = torch.load(path, weights_only=True)
    return content


def network(config: GeneratorConfig, resolution: int = 32) -> Generator:
    return Generator(config, resolution, CLASSES).eval()


def test_what_was_converted_comes_back_to_the_bit(published: Path, tmp_path: Path) -> None:
    generator, discriminator, _ = convert(published)
    folder = written(generator, discriminator, tmp_path / "back")
    for name in ("G_ema.pth", "D.pth"):
        before, after = loaded(published / name), loaded(folder / name)
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert (after[key].shape, after[key].dtype) == (value.shape, value.dtype), key
            assert key.endswith(".sv0") or torch.equal(after[key], value), key


def test_the_log_is_the_spectral_norm_that_the_weight_is_divided_by(published: Path) -> None:
    files, _ = checkpoint(*convert(published)[:2])
    for tensors in (files["G_ema.pth"], files["D.pth"]):
        for key in [key for key in tensors if key.endswith(".sv0")]:
            weight = tensors[key.replace(".sv0", ".weight")].flatten(1)
            right = torch.nn.functional.normalize(tensors[key.replace(".sv0", ".u0")] @ weight)
            assert tensors[key] == pytest.approx(float((weight @ right.T).norm()), rel=1e-4), key


def test_options_are_those_that_the_original_was_built_with(published: Path, tmp_path: Path) -> None:
    generator, discriminator, _ = convert(published)
    folder = written(generator, discriminator, tmp_path / "back")
    made = json.loads((published / "config.json").read_text())
    options = loaded(folder / "state_dict.pth")["config"]
    assert options.keys() >= {"G_ch", "D_ch", "G_attn", "D_attn", "hier", "shared_dim", "BN_eps"}
    shared = options.keys() & made.keys()
    assert {key: options[key] for key in shared} == {key: made[key] for key in shared}
    again, again_of_d, _ = convert(folder)
    assert again_of_d is not None
    assert (again.config, again_of_d.config) == (generator.config, discriminator and discriminator.config)


def test_tables_without_a_part_of_z_go_back_as_embeddings_of_every_layer(tmp_path: Path) -> None:
    """Whatever the source's classes were made of: such is a transfer's bank whose source was removed."""
    generator = network(SHARED)
    generator.banks[0] = generator.last_bank.baked()
    again, _, _ = convert(written(generator, None, tmp_path / "back"))
    z, y = torch.randn(4, 8), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        torch.testing.assert_close(again(z, y), generator(z, y), rtol=0, atol=1e-6)
    assert again.config.shared_dim == 0


def test_the_output_norms_own_epsilon_is_made_up_for_by_its_variance(tmp_path: Path) -> None:
    generator = network(GeneratorConfig(ch=1, dim_z=4, bn_eps=1e-3))
    files, _ = checkpoint(generator, None)
    var = files["G_ema.pth"]["output_layer.0.stored_var"]
    torch.testing.assert_close(var + 1e-5, torch.full((4,), 1 + 1e-3), rtol=0, atol=1e-7)
    again, _, _ = convert(written(generator, None, tmp_path / "back"))
    assert again.config == generator.config
    torch.testing.assert_close(again.last_bank.statistics[-1].var, torch.ones(4), rtol=0, atol=1e-7)


def extended(generator: Generator) -> Generator:
    generator.append(generator.new_class_bank(["d"]))
    return generator


def with_tables(generator: Generator) -> Generator:
    generator.banks[0] = generator.last_bank.baked()
    return generator


def folded(generator: Generator) -> Generator:
    generator.fold()
    return generator


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: extended(network(PER_LAYER)),
            r"it has 2 class banks.*name the classes of one bank with --classes",
        ),
        (lambda: with_tables(network(HIERARCHICAL)), "plain tables beside a hierarchical z"),
        (lambda: folded(network(PER_LAYER)), "folded into the weights"),
        (
            lambda: network(GeneratorConfig(channels=(4, 4, 4, 8), dim_z=4)),
            "the widths are 4, 4, 4, 8, and the program has multiples of 4, 4, 4, 4 at 32 px",
        ),
        (
            lambda: network(GeneratorConfig(channels=(4, 4), dim_z=4), 8),
            "the program has no networks at 8 px",
        ),
        (
            lambda: folded(extended(network(GeneratorConfig(channels=(4, 8), dim_z=4), 8))),
            "2 class banks.*; and the widths.*; and .*folded",
        ),
    ],
    ids=["banks", "hierarchical", "folded", "widths", "resolution", "all at once"],
)
def test_what_the_program_has_not_is_refused_before_anything_is_written(
    make: Callable[[], Generator], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        written(make(), None, tmp_path / "back")
    assert not list((tmp_path / "back").iterdir())


@pytest.mark.parametrize(("classes", "with_d"), [("old", False), ("new", True)])
def test_one_bank_of_an_extended_model_goes_back_by_its_classes(
    classes: str, with_d: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tmp_path / "model", tmp_path / "back"
    save_model(model, extended(network(PER_LAYER)), Discriminator(DISCRIMINATOR, 32, ["d"]), provenance={})
    command = ["export", str(model), str(out), "--format", "biggan-pytorch"]
    assert main(command) == 2
    assert "name the classes of one bank" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
    assert main([*command, "--classes", classes]) == 0
    whole, again = load_model(model)[0], convert(out)[0]
    ids = torch.tensor([0, 1, 2] if classes == "old" else [3])
    z = torch.randn(len(ids), 4)
    with torch.no_grad():
        torch.testing.assert_close(again(z, ids - ids[0]), whole(z, ids), rtol=0, atol=1e-6)
    assert (out / "D.pth").exists() == with_d
    assert ("left out: the discriminator knows other classes" in (out / "README.md").read_text()) != with_d


@pytest.mark.parametrize(
    ("discriminator", "told"),
    [
        (None, "has no discriminator"),
        (Discriminator(DISCRIMINATOR, 32, ["a", "b", "d"]), "knows other classes"),
        (Discriminator(DiscriminatorConfig(ch=1, projection=False), 32, CLASSES), "does not look at classes"),
        (Discriminator(DiscriminatorConfig(channels=(8, 4)), 32, CLASSES), "the widths are 8, 4"),
        (
            Discriminator(DiscriminatorConfig(channels=(4, 4, 4, 4)), 32, CLASSES),
            "halves the size in 3 blocks, and the program's in 2",
        ),
        (
            Discriminator(DiscriminatorConfig(ch=2, attention=(16,)), 32, CLASSES),
            "attention stands after one of several blocks of a size",
        ),
    ],
    ids=["none", "classes", "projection", "widths", "halvings", "attention"],
)
def test_a_discriminator_that_the_program_has_not_is_left_out_and_that_is_told(
    discriminator: Discriminator | None, told: str, tmp_path: Path
) -> None:
    tmp_path.joinpath("back").mkdir()
    model = Model(tmp_path, network(PER_LAYER), discriminator, {})
    notes = export(model, tmp_path / "back", Options()).notes
    assert told in notes["D.pth"]
    assert {path.name for path in (tmp_path / "back").iterdir()} == {"G_ema.pth", "state_dict.pth"}
    assert "D_ch" not in loaded(tmp_path / "back" / "state_dict.pth")["config"]


def test_a_discriminator_of_512_px_is_left_out() -> None:
    generator = network(GeneratorConfig(ch=1, dim_z=4), 512)
    _, missing = checkpoint(generator, Discriminator(DiscriminatorConfig(ch=1), 512, CLASSES))
    assert missing is not None
    assert "no networks at 512 px" in missing
