"""What is read off the tensors of a BigGAN-PyTorch checkpoint, and in which dialects they may be written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.interop.biggan_keys import DISCRIMINATOR, PER_LAYER, SHARED
from cgt.interop.biggan_pytorch import convert
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.discriminator import Discriminator, DiscriminatorConfig

GOLDEN = Path(__file__).parents[1] / "golden"
Tensors = dict[str, Tensor]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the small checkpoint."""
    return Path(shutil.copytree(GOLDEN / "biggan_pytorch_cifar32", tmp_path / "checkpoint"))


def rewrite(path: Path, change: Callable[[Tensors], Tensors], **options: bool) -> None:
    torch.save(change(torch.load(path, weights_only=True)), path, **options)


def assert_same_pictures(one: Generator, other: Generator) -> None:
    z, y = torch.randn(4, one.dim_z), torch.tensor([0, 1, 2, 5])
    with torch.no_grad():
        assert torch.equal(one(z, y), other(z, y))


@pytest.mark.parametrize("name", ["biggan_pytorch_cifar32", "biggan_pytorch_hier64"])
def test_shape_is_the_one_the_original_was_built_with(name: str) -> None:
    built = json.loads((GOLDEN / name / "config.json").read_text())
    generator, discriminator, _ = convert(GOLDEN / name)
    assert discriminator is not None
    config = generator.config
    assert generator.resolution == discriminator.resolution == built["resolution"]
    assert len(generator.classes) == len(discriminator.classes) == built["n_classes"]
    assert (config.ch, discriminator.config.ch) == (built["G_ch"], built["D_ch"])
    assert (config.channels, discriminator.config.channels) == (None, None)
    assert (config.dim_z, config.shared_dim, config.hierarchical) == (
        built["dim_z"],
        built["shared_dim"],
        built["hier"],
    )
    attention = tuple(int(size) for size in built["G_attn"].split("_") if size != "0")
    assert config.attention == discriminator.config.attention == attention
    assert config.init == {"ortho": "orthogonal", "N02": "normal"}[built["G_init"]]
    assert config.bn_eps == built["BN_eps"]


@pytest.mark.parametrize(
    ("resolution", "config", "discriminator_config"),
    [
        (32, GeneratorConfig(ch=3, dim_z=7), DiscriminatorConfig(ch=2)),
        (64, GeneratorConfig(ch=1, dim_z=15, shared_dim=4, hierarchical=True), DiscriminatorConfig(ch=1)),
        (128, GeneratorConfig(ch=2, dim_z=5, shared_dim=4), DiscriminatorConfig(ch=1)),
        (
            16,
            GeneratorConfig(channels=(9, 16, 5), dim_z=6, attention=(8,)),
            DiscriminatorConfig(channels=(8, 5, 6)),
        ),
        (8, GeneratorConfig(channels=(6, 4), dim_z=4), DiscriminatorConfig(channels=(8, 8), attention=(4,))),
    ],
)
def test_any_shape_of_ours_is_found_again(
    resolution: int, config: GeneratorConfig, discriminator_config: DiscriminatorConfig, tmp_path: Path
) -> None:
    classes = ["a", "b", "c"]
    generator = Generator(config, resolution, classes)
    discriminator = Discriminator(discriminator_config, resolution, classes)
    generator_keys = (SHARED if config.shared_dim else PER_LAYER).theirs(len(generator.blocks))
    for network, keys, name in (
        (generator, generator_keys, "G.pth"),
        (discriminator, DISCRIMINATOR.theirs(len(discriminator.blocks)), "D.pth"),
    ):
        # As the original spells them: the vectors of spectral norm as one row.
        stored = {keys[ours]: value for ours, value in network.state_dict().items()}
        torch.save(
            {key: value[None] if key.endswith(".u0") else value for key, value in stored.items()},
            tmp_path / name,
        )
    found, found_discriminator, _ = convert(tmp_path, classes=classes)
    assert found_discriminator is not None
    recipe = "orthogonal" if config.shared_dim else "normal"
    assert (found.config.init, found.resolution, found.classes) == (recipe, resolution, classes)
    assert found.config.widths(resolution) == config.widths(resolution)
    assert found.config.attention == config.attention
    assert found_discriminator.config.attention == discriminator_config.attention
    for ours, again in ((generator, found), (discriminator, found_discriminator)):
        assert again.state_dict().keys() == ours.state_dict().keys()
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in ours.state_dict().items())


def statistics_renamed(mean: str, var: str, times: float, **extra: Tensor) -> Callable[[Tensors], Tensors]:
    """Spell every norm's statistics in another way, multiplied, with more keys beside them."""

    def change(tensors: Tensors) -> Tensors:
        spelled = {"stored_mean": mean, "stored_var": var}
        changed = {}
        for key, value in tensors.items():
            site, _, name = key.rpartition(".")
            if name in spelled:
                changed[f"{site}.{spelled[name]}"] = value * times
                changed.update({f"{site}.bn.{other}": number for other, number in extra.items()})
            else:
                changed[key] = value
        return changed

    return change


@pytest.mark.parametrize(
    "change",
    [
        statistics_renamed("bn.running_mean", "bn.running_var", 1, num_batches_tracked=torch.tensor(7)),
        statistics_renamed("bn.stored_mean", "bn.stored_var", 1, accumulation_counter=torch.zeros(1)),
        statistics_renamed(
            "bn.stored_mean", "bn.stored_var", 16, accumulation_counter=torch.full((1,), 16.0)
        ),
    ],
    ids=["cross-replica", "mybn running averages", "mybn sums of 16 batches"],
)
def test_every_kind_of_batch_norm_gives_the_same_pictures(
    change: Callable[[Tensors], Tensors], checkpoint: Path
) -> None:
    plain, _, _ = convert(checkpoint)
    rewrite(checkpoint / "G_ema.pth", change)
    converted, _, provenance = convert(checkpoint)
    assert_same_pictures(plain, converted)
    assert set(provenance["unused_keys"]) - {"sv0"} <= {"num_batches_tracked", "accumulation_counter"}
    assert 7 in provenance["unused_keys"].values()


def test_files_of_torch_before_1_6_are_read(checkpoint: Path) -> None:
    plain, _, _ = convert(checkpoint)
    rewrite(checkpoint / "G_ema.pth", dict, _use_new_zipfile_serialization=False)
    assert_same_pictures(plain, convert(checkpoint)[0])


def test_half_precision_weights_become_float32(checkpoint: Path) -> None:
    rewrite(checkpoint / "G_ema.pth", lambda tensors: {key: value.half() for key, value in tensors.items()})
    generator, _, _ = convert(checkpoint)
    assert {tensor.dtype for tensor in generator.state_dict().values()} == {torch.float32}


def test_logged_singular_values_are_counted_as_unused(checkpoint: Path) -> None:
    second = {"linear.u1": torch.ones(1, 256), "linear.sv1": torch.ones(1)}
    rewrite(checkpoint / "G_ema.pth", lambda tensors: {**tensors, **second})
    _, _, provenance = convert(checkpoint)
    assert provenance["unused_keys"] == {"sv0": 23, "sv1": 1, "u1": 1}


def test_averaged_generator_goes_before_the_live_one(checkpoint: Path) -> None:
    averaged, _, _ = convert(checkpoint)
    other = {"linear.bias": torch.full((256,), 3.0)}
    torch.save(torch.load(checkpoint / "G_ema.pth", weights_only=True) | other, checkpoint / "G.pth")
    assert_same_pictures(averaged, convert(checkpoint)[0])
    live, _, provenance = convert(checkpoint, weights=Path("G.pth"))
    assert set(provenance["files"]) == {"G.pth", "D.pth"}
    assert float(live.linear.bias.detach().mean()) == 3
    (checkpoint / "G_ema.pth").unlink()
    assert_same_pictures(live, convert(checkpoint)[0])


def test_discriminator_of_the_same_save_is_taken(checkpoint: Path) -> None:
    for name in ("G_ema", "D"):
        shutil.copy(checkpoint / f"{name}.pth", checkpoint / f"{name}_best0.pth")
    rewrite(checkpoint / "D_best0.pth", lambda tensors: tensors | {"linear.bias": torch.full((1,), 5.0)})
    _, discriminator, _ = convert(checkpoint, weights=Path("G_ema_best0.pth"))
    assert discriminator is not None
    assert float(discriminator.linear.bias.detach()) == 5


def test_optimisers_and_the_other_generator_are_named_as_left_out(checkpoint: Path) -> None:
    for name in ("G.pth", "G_optim.pth", "D_optim.pth", "G_optim_best0.pth"):
        (checkpoint / name).write_bytes(b"never read")
    _, _, provenance = convert(checkpoint)
    assert provenance["left_out"] == ["G.pth", "G_optim.pth", "D_optim.pth"]
    assert convert(checkpoint / "G_ema.pth")[2]["left_out"] == []


def test_other_norms_than_batch_norm_are_refused_where_the_training_state_tells(checkpoint: Path) -> None:
    torch.save({"config": {"norm_style": "in"}}, checkpoint / "state_dict.pth")
    with pytest.raises(UserError, match="--norm_style in, .* only batch norm"):
        convert(checkpoint)


def test_a_generator_alone_is_enough(checkpoint: Path) -> None:
    assert convert(checkpoint / "G_ema.pth")[1] is None
    (checkpoint / "D.pth").unlink()
    assert convert(checkpoint)[1] is None


def test_classes_are_numbered_where_no_names_are_given(checkpoint: Path) -> None:
    generator, discriminator, _ = convert(checkpoint)
    assert discriminator is not None
    assert generator.classes == discriminator.classes == [f"class_00{i}" for i in range(6)]


def test_class_names_must_be_as_many_as_classes_and_differ(checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"2 class names are given.* has 6 classes: give one name for each"):
        convert(checkpoint, classes=["a", "b"])
    with pytest.raises(UserError, match="'b' stands twice: rename one"):
        convert(checkpoint, classes=["a", "b", "c", "d", "e", "b"])
