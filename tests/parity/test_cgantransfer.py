"""Our propagation block against what the official cGANTransfer computed (tests/golden/cgantransfer_*).

`io.npz` is of its float32 run; `float64.npz` holds every eighth row and column of its pictures, and its
logits, computed in float64 from the same checkpoint and inputs.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cgt.interop.pickles import read_tensors
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.transfer.cgantransfer import CGANTransfer, CGANTransferConfig
from cgt.transfer.propagation import PropagatedBank
from tests import tiny
from tests.parity import official_cgantransfer as official

pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")  # torch's switch for oneDNN says so

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
BOTH = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture(params=["cgantransfer_cifar32", "cgantransfer_hier64"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / str(request.param)


def stored(checkpoint: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {key: value.to(dtype) for key, value in read_tensors(checkpoint / "G_ema.pth").items()}


def original(checkpoint: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """What went into the original program, and what came out in this number type."""
    values = dict(np.load(checkpoint / "io.npz"))
    if dtype == torch.float64:
        values |= np.load(checkpoint / "float64.npz")
    tensors = {name: torch.from_numpy(array) for name, array in values.items()}
    return {name: tensor.to(dtype) if name != "y" else tensor for name, tensor in tensors.items()}


def pictures(generator: Generator, values: dict[str, Tensor]) -> Tensor:
    """Of the new classes, as many pixels as `values` has."""
    with torch.no_grad():
        images = generator(values["z"], values["y"] + generator.first_of_last_bank)
    step = images.shape[-1] // values["eval_images"].shape[-1]
    return images[..., ::step, ::step]


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    return float((ours - theirs).abs().max())


@BOTH
def test_the_block_makes_the_pictures_of_the_original(checkpoint: Path, dtype: torch.dtype) -> None:
    values = original(checkpoint, dtype)
    images = pictures(official.generator(checkpoint, stored(checkpoint, dtype)), values)
    assert difference(images, values["eval_images"]) <= TOLERANCE[dtype]


@BOTH
def test_the_block_trains_as_the_original(checkpoint: Path, dtype: torch.dtype) -> None:
    """On batch statistics; the first forward of both normalises by the same one power iteration."""
    values = original(checkpoint, dtype)
    generator = official.generator(checkpoint, stored(checkpoint, dtype)).train()
    # oneDNN rounds differently on every processor, and batch statistics magnify that to nearly the tolerance.
    with torch.backends.mkldnn.flags(enabled=False):
        images = pictures(generator, values)
    assert difference(images, values["train_images"]) <= TOLERANCE[dtype]


@BOTH
def test_the_discriminator_judges_as_the_original(checkpoint: Path, dtype: torch.dtype) -> None:
    # float64.npz has too few pixels to judge; both programs were shown the float32 pictures.
    values, shown = original(checkpoint, dtype), original(checkpoint)
    discriminator = official.discriminator(checkpoint, dtype)
    with torch.no_grad():
        fake = discriminator(shown["eval_images"].to(dtype), values["y"])
        real = discriminator(values["x"], values["y"])
    assert difference(fake, values["eval_logits_fake"][:, 0]) <= TOLERANCE[dtype]
    assert difference(real, values["eval_logits_real"][:, 0]) <= TOLERANCE[dtype]


def test_baking_the_tables_keeps_the_pictures_of_the_original(checkpoint: Path) -> None:
    generator = official.generator(checkpoint, stored(checkpoint))
    generator.fold()
    values = original(checkpoint)
    assert difference(pictures(generator, values), values["eval_images"]) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize(
    ("folder", "left_out"),
    [
        ("cgantransfer_cifar32", r"comb_layer_.\.bias"),
        ("cgantransfer_cifar32", r"prev_knowledge_.\.bias"),
        ("cgantransfer_cifar32", r"res_.\.weight"),
        ("cgantransfer_hier64", r"comb_layer_.\.bias"),
        ("cgantransfer_hier64", r"z_layer_.\.bias"),
        ("cgantransfer_hier64", r"res_.\.weight"),
        ("cgantransfer_hier64", r"comb_layer_.\.u0"),
        ("cgantransfer_hier64", r"prev_knowledge_.\.u0"),
        ("cgantransfer_hier64", r"z_layer_.\.u0"),
    ],
)
def test_each_odd_part_of_the_original_shows_in_its_pictures(folder: str, left_out: str) -> None:
    """Else the tests above could not tell whether our block has it."""
    tensors = stored(GOLDEN / folder)
    found = [key for key in tensors if re.search(left_out, key)]
    assert found
    for key in found:
        if key.endswith(".u0"):  # without it the layer uses its weight as it is
            del tensors[key]
        else:
            tensors[key] = torch.zeros_like(tensors[key])
    values = original(GOLDEN / folder)
    images = pictures(official.generator(GOLDEN / folder, tensors), values)
    assert difference(images, values["eval_images"]) > 1000 * TOLERANCE[torch.float32]


def test_the_prior_of_the_original_is_made_of_weights_without_spectral_norm() -> None:
    """The checkpoint's tables are that prior with noise added: as multiples of the raw product they are 1,
    where normalised weights would make them 1 / sigma.
    """
    tensors = stored(GOLDEN / "cgantransfer_hier64")
    tables, products, sigmas = [], [], []
    for key in tensors:
        if match := re.fullmatch(r"(.*)\.prev_knowledge_([gb])\.weight", key):
            weight = tensors[f"{match[1]}.{'gain' if match[2] == 'g' else 'bias'}.weight"]
            tables.append(tensors[key].flatten())
            products.append((weight[:, :16] @ tensors["shared.weight"].T).flatten())
            sigmas.append(torch.linalg.matrix_norm(weight, 2))
    multiple = torch.cat(tables).dot(torch.cat(products)) / torch.cat(products).square().sum()
    assert multiple == pytest.approx(1, abs=0.05)
    assert 1 / min(sigmas) < 0.8


@pytest.mark.parametrize(
    ("folder", "copy", "columns"),
    [
        ("cgantransfer_cifar32", "prev_knowledge", slice(None)),
        ("cgantransfer_hier64", "z_layer", slice(16, None)),
    ],
)
def test_training_the_original_overwrites_the_source(folder: str, copy: str, columns: slice) -> None:
    """Some of its copies are views of the source's weights: the checkpoint has lost the old classes.

    The noise added to its transfer parameters stands for training.
    """
    tensors = stored(GOLDEN / folder)
    source = stored(GOLDEN / folder.replace("cgantransfer", "biggan_pytorch"))
    for key in source:
        if match := re.fullmatch(r"(.*\.bn\d)\.(gain|bias)\.weight", key):
            now, was = tensors[key][:, columns], source[key][:, columns]
            view = tensors[f"{match[1]}.{copy}_{match[2][0]}.weight"]
            assert torch.equal(now, view if copy == "z_layer" else view.T)
            assert not torch.equal(now, was)


def started(config: GeneratorConfig, classes: int, **options: str) -> PropagatedBank:
    names = [f"new {m}" for m in range(classes)]
    method = CGANTransfer(
        CGANTransferConfig(name="cgantransfer", start="official", **options), tiny.task(config, names)
    )
    bank = method.networks()[0].last_bank
    assert isinstance(bank, PropagatedBank)
    return bank


@pytest.mark.parametrize("classes", [1, 3, 4, 9])
@pytest.mark.parametrize("config", [tiny.PER_LAYER, tiny.HIERARCHICAL], ids=["per-layer", "hierarchical"])
def test_official_scores_of_an_orthogonal_generator_are_orthogonal_and_others_at_every_site(
    config: GeneratorConfig, classes: int
) -> None:
    scores = torch.cat(list(started(config, classes).scores))
    assert scores.shape == (8, 4, classes)
    short = scores.mT @ scores if classes <= 4 else scores @ scores.mT
    torch.testing.assert_close(short, torch.eye(min(classes, 4)).expand_as(short), rtol=0, atol=1e-5)
    assert len({tuple(of_site.flatten().tolist()) for of_site in scores}) == 8


def test_official_scores_of_a_normal_generator_have_its_standard_deviation_and_are_others_at_every_site() -> (
    None
):
    config = GeneratorConfig(**{**vars(tiny.PER_LAYER), "init": "normal"})
    scores = torch.cat(list(started(config, 200).scores))
    assert scores.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(scores.mean().item()) < 0.001
    correlation = torch.corrcoef(scores.flatten(1)) - torch.eye(8)
    assert correlation.abs().max() < 0.2


@pytest.mark.parametrize("classes", [1, 9, 64])
def test_official_biases_are_uniform_within_what_a_linear_layer_of_the_new_classes_has(classes: int) -> None:
    layer = torch.nn.Linear(classes, 4000)
    bound = layer.bias.abs().max().item()
    draws = [started(tiny.PER_LAYER, classes, scores=scores) for scores in ("per-site", "shared")]
    assert [sum(len(bias) for bias in bank.score_bias) for bank in draws] == [8, 2]
    bias = torch.cat(list(draws[0].score_bias)).flatten()
    assert bias.unique().numel() == 32
    assert 0.8 * bound < bias.abs().max() < 1.01 * bound
    # Of a uniform draw, a third of the interval holds a third of the numbers: 32 / 3, give or take.
    assert 4 <= (bias.abs() < bound / 3).sum() <= 18


def test_official_start_has_the_scores_of_the_original_and_our_tables_and_residuals() -> None:
    bank = started(tiny.HIERARCHICAL, 3)
    source = tiny.source(tiny.HIERARCHICAL).generator
    source.fold()
    tables = source.last_bank.tables()
    for group, sites in enumerate(bank.sites):
        expected = torch.stack([*(tables.scale[s] for s in sites), *(tables.shift[s] for s in sites)])
        assert torch.equal(bank.prior[group], expected)
        assert not bank.residuals[group].any()
    for own, expected in zip(bank.latent_scale, tables.latent_scale, strict=True):
        assert torch.equal(own, expected)
