"""The arrangements that benches compare ours with compute what ours compute."""

from collections.abc import Mapping

import measuring
import propagation
import pytest
import torch
from reference import Reference
from reference_sites import gradients_by_bank
from torch import Tensor, nn

import cgt.training.step
from cgt import rng
from cgt.distributed import World
from cgt.images import to_float
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.discriminator import Discriminator, DiscriminatorConfig
from cgt.models.layers import SpectralNormalised
from cgt.training.augment import AugmentConfig
from cgt.training.optim import OptimConfig
from cgt.training.step import discriminator_gradients, generator_gradients
from cgt.training.trainer import Trainer, build_trainer
from cgt.transfer.base import Source, Task
from cgt.transfer.cgantransfer import CGANTransfer, CGANTransferConfig
from cgt.transfer.propagation import PropagatedBank
from tests import tiny

D = DiscriminatorConfig(channels=(8, 12), attention=(4,))
X_UINT8 = torch.arange(8 * 3 * tiny.RESOLUTION**2).mul(97).remainder(256).view(8, 3, tiny.RESOLUTION, -1)
Y = torch.tensor([0, 2, 1, 0, 1, 2, 2, 0])


@pytest.fixture
def _in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a step makes float32 it makes float64, so that rounding neither hides nor makes a difference."""
    draw = rng.normal
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(cgt.training.step, "to_float", lambda x_uint8: to_float(x_uint8).double())
    monkeypatch.setattr(rng, "normal", lambda *arguments: draw(*arguments).to(torch.float64))


@torch.no_grad()
def shake(network: nn.Module) -> None:
    """Move all weights from where they start, so that no term vanishes, and let all power iterations arrive,
    so that it does not matter how many there are.
    """
    network.double()
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) * 0.2)
    for layer in network.modules():
        if isinstance(layer, SpectralNormalised) and layer.u is not None:
            layer.u.copy_(torch.linalg.svd(layer.weight.flatten(1)).U[:, 0])


def transfer(config: GeneratorConfig) -> tuple[Trainer, Generator]:
    """A trainer of cGANTransfer, and the generator that it starts from."""
    source = Source(Generator(config, tiny.RESOLUTION, tiny.OLD), Discriminator(D, tiny.RESOLUTION, tiny.OLD))
    shake(source.generator.eval())
    task = Task(tiny.NEW, tiny.RESOLUTION, config, D, 0, source)
    weights = {"lambda_r": 0.7, "lambda_s": 0.3}
    method = CGANTransfer(CGANTransferConfig(name="cgantransfer", start="uniform", **weights), task)
    changes = {"optim": OptimConfig(discriminator_steps=1), "augment": AugmentConfig(), "discriminator": D}
    trainer = build_trainer(tiny.pretrain_config(config, **changes), method, World())
    for network in (trainer.generator, trainer.discriminator):
        shake(network)
    return trainer, source.generator


def compare(
    ours: Mapping[str, Tensor | None], reference: Mapping[str, Tensor | None], tolerance: float = 1e-9
) -> None:
    assert ours.keys() == reference.keys()
    for name, value in ours.items():
        expected = reference[name]
        assert value is not None, name
        assert expected is not None, name
        assert expected.any(), name
        assert (value - expected).norm() <= tolerance * expected.norm(), name


def gradients(network: nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("config", [tiny.PER_LAYER, tiny.HIERARCHICAL], ids=["per-layer", "hierarchical"])
@pytest.mark.parametrize("naive", [False, True], ids=["published", "naive"])
@pytest.mark.usefixtures("_in_float64")
def test_a_step_of_the_reference_has_our_losses_and_gradients(config: GeneratorConfig, naive: bool) -> None:
    trainer, source = transfer(config)
    reference = Reference(trainer, source, naive=naive)
    bank = trainer.bank
    assert isinstance(bank, PropagatedBank)

    tables = bank.tables()
    ours = discriminator_gradients(trainer, X_UINT8, Y, tables, 0, 0)
    in_float32 = 1e-6  # a step adds up its losses in it, for the log
    compare(ours, reference.discriminator_gradients(X_UINT8, Y, 0), in_float32)
    compare(gradients(trainer.discriminator), gradients(reference.discriminator))

    trainer.of_discriminator.update()
    reference.of_discriminator.step()
    compare(generator_gradients(trainer, 0), reference.generator_gradients(0), in_float32)
    compare(gradients(bank), gradients_by_bank(bank, reference.generator.sites))


@pytest.mark.parametrize("classes", [1, 3])
def test_both_formulations_of_the_propagation_agree(classes: int) -> None:
    widths = [5, 3, 3, 5]
    bank = propagation.block(widths, 4, classes).double()
    y_B = torch.arange(7) % classes
    grads = [torch.randn(7, width, dtype=torch.float64) for width in widths for _ in range(2)]
    assert propagation.disagreement(bank, y_B, grads) < 1e-12


def test_times_of_what_differs_are_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "propagation.py",
        "--model",
        "32",
        "--source-classes",
        "3",
        "--classes",
        "2",
        "--batch",
        "4",
        "--turns",
        "1",
    ]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(measuring, "COPIED", 8)
    propagation.main()
    assert "32 px, 3, 2" in capsys.readouterr().out

    right = propagation.per_sample

    def wrong(*arguments: object) -> propagation.Made:
        return lambda y_B: [made_BC * (1 + 1e-5) for made_BC in right(*arguments)(y_B)]

    monkeypatch.setattr(propagation, "per_sample", wrong)
    with pytest.raises(SystemExit, match="differ by 1.0e-05"):
        propagation.main()
    assert not capsys.readouterr().out
