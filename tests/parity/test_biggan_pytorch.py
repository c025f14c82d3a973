"""Our networks against what BigGAN-PyTorch computed from its checkpoints (tests/golden/biggan_pytorch_*)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cgt.cli import main
from cgt.interop.biggan_pytorch import convert
from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.models.folder import load_generator, load_model

TOLERANCE = 1e-5
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(params=["biggan_pytorch_cifar32", "biggan_pytorch_hier64", "biggan_pytorch_deep64"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / str(request.param)


@pytest.fixture
def original(checkpoint: Path) -> dict[str, Tensor]:
    """What went into the original program and what came out."""
    return {name: torch.from_numpy(values) for name, values in np.load(checkpoint / "io.npz").items()}


@pytest.fixture
def written(checkpoint: Path, tmp_path: Path) -> Path:
    """The model folder that the command line writes."""
    assert main(["convert", "biggan-pytorch", str(checkpoint), str(tmp_path / "model")]) == 0
    return tmp_path / "model"


def pair(networks: tuple[Generator, Discriminator | None, object] | tuple[Generator, Discriminator | None]):
    generator, discriminator = networks[:2]
    assert discriminator is not None
    return generator, discriminator


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == torch.float32
    return float((ours - theirs).abs().max())


def assert_evaluates_as(networks, original: dict[str, Tensor]) -> None:
    generator, discriminator = pair(networks)
    z, y = original["z"], original["y"]
    with torch.no_grad():
        assert difference(generator(z, y), original["eval_images"]) <= TOLERANCE
        fake, real = discriminator(original["eval_images"], y), discriminator(original["x"], y)
    assert difference(fake, original["eval_logits_fake"][:, 0]) <= TOLERANCE
    assert difference(real, original["eval_logits_real"][:, 0]) <= TOLERANCE


def assert_trains_as(networks, original: dict[str, Tensor]) -> None:
    generator, _ = pair(networks)
    # In float32 every processor rounds differently, and batch statistics magnify that beyond the tolerance.
    with torch.no_grad():
        images = generator.train().double()(original["z"].double(), original["y"])
    assert difference(images.float(), original["train_images"]) <= TOLERANCE


def test_converted_networks_evaluate_as_the_original(checkpoint: Path, original: dict[str, Tensor]) -> None:
    assert_evaluates_as(convert(checkpoint), original)


def test_converted_generator_trains_as_the_original(checkpoint: Path, original: dict[str, Tensor]) -> None:
    assert_trains_as(convert(checkpoint), original)


def test_model_folder_holds_the_original_folded_and_unfolded(
    written: Path, original: dict[str, Tensor]
) -> None:
    assert_evaluates_as(load_model(written), original)
    assert_trains_as(load_model(written), original)
    with torch.no_grad():
        images = load_generator(written)(original["z"], original["y"])
    assert difference(images, original["eval_images"]) <= TOLERANCE


def test_training_and_evaluation_differ_far_beyond_the_tolerance(original: dict[str, Tensor]) -> None:
    """Else the tests above could not tell the modes apart."""
    assert difference(original["train_images"], original["eval_images"]) > 1000 * TOLERANCE
