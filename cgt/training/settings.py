"""The config of a run: the keys of the files that `cgt pretrain` and `cgt transfer` read.

All lengths are in steps; a step is one generator update.
"""

from typing import Annotated, Any, Generic, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from cgt.config import Section
from cgt.data import DataConfig
from cgt.distributed import Precision
from cgt.errors import UserError
from cgt.metrics.settings import EvalConfig
from cgt.models.biggan import GeneratorConfig
from cgt.models.discriminator import DiscriminatorConfig
from cgt.training.augment import AugmentConfig
from cgt.training.checkpoint import CheckpointConfig
from cgt.training.ema import EMAConfig
from cgt.training.optim import OptimConfig
from cgt.training.strategies.choice import StrategyConfig
from cgt.training.trackers import TrackerConfig, spelled_out
from cgt.transfer.base import Method, MethodConfig
from cgt.transfer.supervised import SupervisedExtension


class RunConfig(Section):
    """What pretraining and transfer have in common."""

    data: DataConfig
    steps: int = Field(ge=1)
    """Generator updates."""
    batch_size: int = Field(50, ge=2)
    """Pictures per update, over all processes and micro-batches."""
    micro_batch: int | None = Field(None, ge=2)
    """Pictures per forward pass on each process, for less memory; None for its whole share of the batch, of
    which this must be a divisor."""
    synchronised_norm: bool = True
    """Batch norm by the pictures that all processes see at one time; else each by its own, with less waiting
    and less to learn from."""
    precision: Precision = "fp32"
    seed: int = Field(0, ge=0)
    compile: bool = False
    """Compile both networks with torch.compile."""
    gradient_checkpointing: bool = False
    """Keep each block's input alone for the backward pass, which works out the rest again: a third more work
    for much less memory."""
    log_every: int = Field(10, ge=1)
    eval_every: int = Field(1000, ge=1)
    """Steps between evaluations and sample grids; the end of the run is always evaluated."""
    save_every: int = Field(1000, ge=1)
    """Steps between checkpoints; the end of the run and every new best are always saved."""
    timeout: float = Field(600, gt=0)
    """Seconds after which a process that does not answer, or stays in one step, ends the run."""
    optim: OptimConfig = OptimConfig()
    augment: AugmentConfig = AugmentConfig()
    strategy: StrategyConfig = StrategyConfig()
    ema: EMAConfig = EMAConfig()
    eval: EvalConfig | None = None
    """How the run is measured; None to train without, the latest model then being the best."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    trackers: Annotated[tuple[TrackerConfig, ...], BeforeValidator(spelled_out)] = ()
    """Where losses, metrics and sample grids go beside metrics.jsonl: names, such as `[tensorboard, wandb]`,
    or sections with the keys `name`, `project` and `options`."""

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}: change "
                "one of them"
            )
        if self.compile and self.gradient_checkpointing:
            raise ValueError(
                "compile and gradient_checkpointing exclude each other, for torch.compile chooses by itself "
                "what to work out again: set one of them to false"
            )
        if self.optim.mode_seeking and (self.micro_batch or self.batch_size) % 2:
            raise ValueError(
                "optim.mode_seeking compares pairs of pictures: make batch_size (and micro_batch) even"
            )
        return self

    def check_share(self, processes: int) -> None:
        """Refuse a global batch that the processes can't work through evenly.

        Raises:
            UserError: naming the numbers that don't fit.
        """
        share, rest = divmod(self.batch_size, processes)
        if rest or share % (self.micro_batch or share):
            micro = f" in micro-batches of {self.micro_batch}" if self.micro_batch else ""
            raise UserError(
                f"{processes} processes can't share batch_size {self.batch_size} evenly{micro}: make it a "
                f"multiple of {processes * (self.micro_batch or 1)}."
            )
        if self.optim.mode_seeking and (self.micro_batch or share) % 2:
            raise UserError(
                f"optim.mode_seeking compares pairs of pictures, and each of {processes} processes has "
                f"{share} of them: make batch_size a multiple of {2 * processes}."
            )


class PretrainConfig(RunConfig):
    """A file of `cgt pretrain`."""

    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()


M = TypeVar("M", bound=MethodConfig)


class TransferConfig(RunConfig, Generic[M]):
    """A file of `cgt transfer`; the shapes of the networks are the source's."""

    method: M

    def check_method(self, kind: type[Method[Any]]) -> None:
        """Refuse what would do nothing where the method trains no discriminator, and ZeRO where there is too
        little to divide.

        Raises:
            UserError: naming the keys.
        """
        if not issubclass(kind, SupervisedExtension):
            return
        if {self.strategy.generator, self.strategy.of_discriminator} != {"ddp"}:
            raise UserError(
                f"strategy: the method {self.method.name} trains too little to divide among processes: set "
                "strategy=ddp."
            )
        if self.gradient_checkpointing:
            raise UserError(
                f"gradient_checkpointing: the method {self.method.name} trains none of the blocks that it is "
                "of: leave it out."
            )
        wanted = {"augment.target": self.augment.target, "optim.lecam": self.optim.lecam or None}
        keys = " and ".join(f"{key}={value}" for key, value in wanted.items() if value is not None)
        if keys:
            raise UserError(
                f"{keys}: this goes by what a discriminator says, and the method {self.method.name} trains "
                "none: leave it out."
            )

    @staticmethod
    def of(kind: type[Method[Any]]) -> "type[TransferConfig[Any]]":
        """The model of files whose `method` section is that of `kind`."""
        options: Any = kind.Config
        return TransferConfig[options]
