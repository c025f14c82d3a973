"""The training loop: steps, and what happens between them (logs, evaluation, sample grids, checkpoints)."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from cgt import rng
from cgt.data import Pictures
from cgt.distributed import World
from cgt.errors import RunError
from cgt.images import save_grid, to_uint8
from cgt.models.biggan import Generator
from cgt.models.folder import save_model
from cgt.models.norm import Bank, SiteStatistics
from cgt.progress import steps_progress
from cgt.runs import RunFolder
from cgt.training.checkpoint import Checkpoints
from cgt.training.ema import EMA
from cgt.training.optim import ParameterGroup, adam
from cgt.training.settings import RunConfig
from cgt.training.step import Losses, Trainer, train_step
from cgt.transfer.base import Method

GRID_CLASSES = 20
GRID_COLUMNS = 8


@dataclass(frozen=True)
class Evaluation:
    """How the loop measures a generator."""

    measure: Callable[[Generator], Mapping[str, float]]
    best: str
    """The metric that decides which checkpoint is the best."""
    lower_is_better: bool


@dataclass
class Best:
    """The best evaluation so far."""

    step: int = 0
    score: float = math.nan

    def beaten_by(self, score: float, *, lower_is_better: bool) -> bool:
        """Whether `score` is better than this, or is the first."""
        return math.isnan(self.score) or (score < self.score if lower_is_better else score > self.score)


def build_trainer(config: RunConfig, method: Method[Any], world: World) -> Trainer:
    """The networks of `method` on this rank's device, with their optimisers and the average."""
    method.class_lr_scale = config.optim.class_lr_scale
    generator, discriminator = method.networks()
    for network in (generator, discriminator):
        network.train().to(world.device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    groups = method.trainable(generator)
    if config.compile:
        generator.compile()
        discriminator.compile()
    return Trainer(
        config=config,
        method=method,
        world=world,
        generator=generator,
        discriminator=discriminator,
        generator_optimiser=adam(groups, config.optim.generator_lr, config.optim),
        discriminator_optimiser=adam(
            [ParameterGroup(list(discriminator.parameters()))], config.optim.discriminator_lr, config.optim
        ),
        generator_scaler=world.scaler(),
        discriminator_scaler=world.scaler(),
        ema=EMA([parameter for group in groups for parameter in group.parameters], config.ema),
    )


def train(
    config: RunConfig,
    method: Method[Any],
    pictures: Pictures,
    run: RunFolder,
    *,
    world: World,
    evaluation: Evaluation | None,
    resume: bool,
    provenance: Mapping[str, Any],
) -> Path:
    """Run (or go on with) the training that `config` describes.

    Args:
        config: lengths, rates and so on.
        method: what is trained, and how.
        pictures: the real ones; labels are the method's classes.
        run: where everything is written.
        world: this process's place.
        evaluation: how to measure, or None to train without.
        resume: begin at the latest checkpoint, or at the start where none was written yet.
        provenance: written into the model folders.

    Returns:
        The last checkpoint's folder.

    Raises:
        RunError: a loss is not finite, or the disk is full; names the last checkpoint.
    """
    trainer = build_trainer(config, method, world)
    checkpoints = Checkpoints(run.path, config.checkpoint)
    best, first = Best(), 0
    if resume:
        if state := checkpoints.load():
            first, best = restore(trainer, state)
        run.forget_after(first)
    share = config.optim.discriminator_steps
    batches = pictures.batches(
        config.batch_size, seed=config.seed, first=first * share, rank=world.rank, world=world.size
    )
    with steps_progress(config.steps, first, pictures_per_step=config.batch_size * share) as progress:
        for step in range(first, config.steps):
            try:
                losses = train_step(trainer, batches, step)
            except RunError as error:
                good = checkpoints.latest
                raise RunError(f"{error} The last good checkpoint is {good or 'none yet'}.") from error
            done = step + 1
            progress.advance(losses)
            last = done == config.steps
            if last or done % config.log_every == 0:
                run.log(
                    {
                        "step": done,
                        "images": done * config.batch_size * share,
                        **losses,
                        **_learning_rates(trainer),
                    }
                )
            evaluate, save = last or done % config.eval_every == 0, last or done % config.save_every == 0
            if not (evaluate or save):
                continue
            generator = snapshot(trainer)
            improved = False
            if evaluate:
                write_grid(run.path / "samples" / f"{done:08d}.png", generator, config.seed)
                if evaluation is not None:
                    metrics = dict(evaluation.measure(generator))
                    run.log({"step": done, **metrics})
                    progress.report(done, metrics)
                    score = metrics[evaluation.best]
                    improved = best.beaten_by(score, lower_is_better=evaluation.lower_is_better)
                    best = Best(done, score) if improved else best
            if save or improved:
                _save(checkpoints, trainer, generator, done, best, provenance, improved=improved)
    checkpoint = checkpoints.latest
    assert checkpoint is not None
    return checkpoint


@torch.no_grad()
def snapshot(trainer: Trainer) -> Generator:
    """The averaged generator with statistics that fit it, as a plain generator in eval mode; training is not
    disturbed.
    """
    with trainer.ema.applied():
        generator = copy.deepcopy(trainer.generator)
    if batches := trainer.config.ema.standing_batches:
        _accumulate_statistics(trainer, generator, batches)
    return trainer.method.finished(generator).eval()


def restore(trainer: Trainer, state: dict[str, Any]) -> tuple[int, Best]:
    """Put a saved state into `trainer`; returns the steps done and the best so far."""
    trainer.generator.load_state_dict(state["generator"])
    trainer.discriminator.load_state_dict(state["discriminator"])
    trainer.generator_optimiser.load_state_dict(state["generator_optimiser"])
    trainer.discriminator_optimiser.load_state_dict(state["discriminator_optimiser"])
    trainer.generator_scaler.load_state_dict(state["generator_scaler"])
    trainer.discriminator_scaler.load_state_dict(state["discriminator_scaler"])
    trainer.ema.load_state_dict(state["ema"])
    return state["step"], Best(**state["best"])


def write_grid(path: Path, generator: Generator, seed: int) -> None:
    """A PNG grid of the last bank's classes (the first 20 of them), one row a class, the same latents in
    every row and at every step.
    """
    device = next(generator.parameters()).device
    classes = len(cast(Bank, generator.banks[-1]).classes)
    rows = min(classes, GRID_CLASSES)
    z_KZ = rng.normal((GRID_COLUMNS, generator.dim_z), seed, "grid").to(device)
    y_R = torch.arange(rows, device=device) + len(generator.classes) - classes
    with torch.no_grad():
        x = torch.cat([to_uint8(generator(z_KZ, y.expand(GRID_COLUMNS))).cpu() for y in y_R])
    save_grid(
        path,
        x,
        GRID_COLUMNS,
        labels=[generator.classes[y] for y in y_R.tolist()],
        zoom=max(1, 64 // generator.resolution),
    )


def _accumulate_statistics(trainer: Trainer, generator: Generator, batches: int) -> None:
    """Standing statistics: the plain average over `batches` batches at fixed weights (Brock et al., 2019)."""
    bank = cast(Bank, generator.banks[-1])
    statistics = [cast(SiteStatistics, site) for site in bank.statistics]
    first, classes = len(generator.classes) - len(bank.classes), len(bank.classes)
    size, seed = trainer.config.batch_size, trainer.config.seed
    generator.train()
    for i in range(batches):
        for site in statistics:
            site.momentum = 1 / (i + 1)
        z_NZ = rng.normal((size, generator.dim_z), seed, "standing latents", i).to(trainer.world.device)
        y_N = rng.integers(size, classes, seed, "standing labels", i).to(trainer.world.device) + first
        generator(z_NZ, y_N)


def _save(
    checkpoints: Checkpoints,
    trainer: Trainer,
    generator: Generator,
    done: int,
    best: Best,
    provenance: Mapping[str, Any],
    *,
    improved: bool,
) -> None:
    state = {
        "step": done,
        "best": vars(best),
        "generator": trainer.generator.state_dict(),
        "discriminator": trainer.discriminator.state_dict(),
        "generator_optimiser": trainer.generator_optimiser.state_dict(),
        "discriminator_optimiser": trainer.discriminator_optimiser.state_dict(),
        "generator_scaler": trainer.generator_scaler.state_dict(),
        "discriminator_scaler": trainer.discriminator_scaler.state_dict(),
        "ema": trainer.ema.state_dict(),
    }

    def write_model(folder: Path) -> None:
        save_model(folder, generator, trainer.discriminator, provenance={**provenance, "step": done})

    checkpoints.save(done, state, write_model, best=improved)


def _learning_rates(trainer: Trainer) -> Losses:
    return {
        "lr_generator": trainer.generator_optimiser.param_groups[0]["lr"],
        "lr_discriminator": trainer.discriminator_optimiser.param_groups[0]["lr"],
    }
