"""Which strategy trains which network."""

import importlib.util
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from cgt.config import Section
from cgt.distributed import World
from cgt.errors import UserError
from cgt.training.strategies.base import Trainable
from cgt.training.strategies.replicated import Replicated
from cgt.training.strategies.zero import Zero

Strategy = Literal["ddp", "zero1", "zero2", "zero3"]


class StrategyConfig(Section):
    """How several processes train a network together; `strategy: zero2` is for both.

    ddp: each process has everything. zero1, zero2, zero3 (DeepSpeed): they divide the optimiser's state, the
    gradients too, the weights too.
    """

    shorthand: ClassVar[str | None] = "generator"

    generator: Strategy = "ddp"
    discriminator: Strategy | None = None
    """None: the generator's."""

    @property
    def of_discriminator(self) -> Strategy:
        """The discriminator's, whether it is named or the generator's."""
        return self.discriminator or self.generator


def trainable(strategy: Strategy) -> Callable[..., Trainable]:
    """What makes a `Trainable` of that strategy of the arguments that all strategies take."""
    if strategy == "ddp":
        return Replicated
    stage = int(strategy[-1])

    def make(*arguments: Any) -> Trainable:
        return Zero(stage, *arguments)

    return make


def check(config: StrategyConfig, world: World, *, compiled: bool) -> None:
    """Refuse what can't be trained that way.

    Raises:
        UserError: ZeRO with one process, without its packages, or with weights divided under torch.compile.
    """
    chosen = {"generator": config.generator, "discriminator": config.of_discriminator}
    zero = [f"strategy.{network}={strategy}" for network, strategy in chosen.items() if strategy != "ddp"]
    if not zero:
        return
    if world.size == 1:
        raise UserError(
            f"{' and '.join(zero)}: ZeRO divides the training state among processes, and there is one: start "
            "more with --processes, or set strategy=ddp."
        )
    missing = [name for name in ("deepspeed", "transformers") if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(
            f"{' and '.join(zero)}: ZeRO needs {' and '.join(missing)}, which is not installed: "
            'pip install "cgt[deepspeed]", or set strategy=ddp.'
        )
    if compiled and "zero3" in chosen.values():
        raise UserError("zero3 divides the weights behind torch.compile's back: set compile=false, or zero2.")
