"""The training loop: steps, and what happens between them (logs, evaluation, sample grids, checkpoints)."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from cgt.data import Pictures
from cgt.errors import PreemptedError, RunError, SaidElsewhereError, UserError, reworded
from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.models.folder import save_model
from cgt.models.layers import plain
from cgt.models.sampling import latent_range, write_class_grid
from cgt.progress import StepsProgress, steps_progress
from cgt.runs import RunFolder, options_of
from cgt.training.checkpoint import Checkpoints
from cgt.training.preemption import Preemption
from cgt.training.step import Losses, fetch, train_step
from cgt.training.trackers import Trackers, start_trackers
from cgt.training.trainer import Trainer, snapshot
from cgt.training.watchdog import Watch

GRID_CLASSES = 20
GRID_COLUMNS = 8


@dataclass(frozen=True)
class Evaluation:
    """How the loop measures a generator."""

    measure: Callable[[Generator], Mapping[str, float]]
    """All ranks call it together, and if it raises an error for people on one, it raises one on all."""
    best: str
    """The metric that decides which checkpoint is the best."""
    lower_is_better: bool
    how: Mapping[str, Any] = field(default_factory=dict)
    """What the scores are of, in plain values, for the model folders."""


@dataclass
class Best:
    """The best evaluation so far."""

    step: int = 0
    score: float = math.nan

    def beaten_by(self, score: float, *, lower_is_better: bool) -> bool:
        """Whether `score` is better than this, or is the first."""
        return math.isnan(self.score) or (score < self.score if lower_is_better else score > self.score)


def train(
    trainer: Trainer,
    pictures: Pictures,
    run: RunFolder,
    *,
    evaluation: Evaluation | None,
    resume: bool,
    provenance: Mapping[str, Any],
) -> Path:
    """Run (or go on with) the training that a trainer's config describes.

    Args:
        trainer: what is trained, and how, as it was built.
        pictures: the real ones; labels are the method's classes.
        run: where everything is written.
        evaluation: how to measure, or None to train without.
        resume: begin at the latest checkpoint, or at the start where none was written yet.
        provenance: written into the model folders.

    Returns:
        The last checkpoint's folder.

    Raises:
        RunError: the run diverged, the disk is full, or a rank is gone; names the last checkpoint.
        PreemptedError: SIGTERM or SIGUSR1 asked for the machine, and a checkpoint is written.
        SaidElsewhereError: on ranks that leave it to another to say what happened.
    """
    config, world = trainer.config, trainer.world
    checkpoints = Checkpoints(run.path, config.checkpoint, world)
    best, first, due = Best(), 0, False
    if resume:
        if state := checkpoints.load():
            trainer.load_state_dict(state)
            first, best, due = state["step"], Best(**state["best"]), state["due"]
        if world.is_main:
            run.forget_after(first)
    with world.together():
        configs = config.trackers if world.is_main else ()
        trackers = start_trackers(configs, run.path, options_of(config))
    aside = world.aside()
    with (
        contextlib.closing(trackers),
        _naming_last_checkpoint(checkpoints),
        Watch(aside) as watch,
        Preemption(aside) as preemption,
        checkpoints,
        _progress(trainer, first) as progress,
    ):
        watch.reached(first)
        journal = _Journal(run, trackers)
        milestones = _Milestones(trainer, journal, checkpoints, evaluation, provenance, progress)
        if due:
            best = milestones.reach(first, best, evaluate=True, save=True)
        stopped = _steps(trainer, pictures, first, best, milestones, watch, preemption)
    checkpoint = checkpoints.latest
    assert checkpoint is not None
    if stopped is None:
        return checkpoint
    if world.is_main:
        raise PreemptedError(f"asked to stop after step {stopped}: --resume goes on from {checkpoint}.")
    raise SaidElsewhereError(0, PreemptedError.CODE)


def _steps(
    trainer: Trainer,
    pictures: Pictures,
    first: int,
    best: Best,
    milestones: "_Milestones",
    watch: Watch,
    preemption: Preemption,
) -> int | None:
    """Steps from `first` on, and what comes between them, to the end or until the machine is wanted; then the
    number of the last one is returned.
    """
    config, world = trainer.config, trainer.world
    updates = trainer.batches_per_step
    batches = pictures.batches(
        config.batch_size, seed=config.seed, first=first * updates, rank=world.rank, world=world.size
    )
    waiting: dict[int, Losses] = {}
    losses: dict[str, float] = {}
    for step in range(first, config.steps):
        done = step + 1
        last = done == config.steps
        log = last or done % config.log_every == 0
        evaluate, save = last or done % config.eval_every == 0, last or done % config.save_every == 0
        with watch.step(step):
            waiting[step] = train_step(trainer, batches, step)
            stop = preemption.asked()
            # A CPU has them at once, and no GPU is waited for between what is written.
            if log or evaluate or save or stop or world.device.type == "cpu":
                losses = fetch(waiting)[-1]
                waiting.clear()
        if milestones.progress is not None:
            milestones.progress.advance(losses)
        if world.is_main and log:
            images = done * config.batch_size * updates
            skipped = {"skipped": len(pictures.skipped)} if pictures.skipped else {}
            milestones.journal.log(
                {"step": done, "images": images, **losses, **_learning_rates(trainer), **skipped}
            )
        if stop:
            milestones.put_off(done, best, due=evaluate)
            return done
        if evaluate or save:
            best = milestones.reach(done, best, evaluate=evaluate, save=save)
    return None


@dataclass(frozen=True)
class _Journal:
    """Where rank 0 writes what comes of the steps: the run folder, and trackers."""

    run: RunFolder
    trackers: Trackers

    def log(self, record: Mapping[str, Any]) -> None:
        """Keep losses or metrics of a step."""
        self.run.log(record)
        self.trackers.log(record)

    def show(self, generator: Generator, step: int, seed: int) -> None:
        """Keep a grid of what the generator makes."""
        picture = self.run.path / "samples" / f"{step:08d}.png"
        write_grid(picture, generator, seed)
        self.trackers.show(picture, step)


@dataclass(frozen=True)
class _Milestones:
    """What happens between steps: grids, measuring, saving. Rank 0 alone writes and decides."""

    trainer: Trainer
    journal: _Journal
    checkpoints: Checkpoints
    evaluation: Evaluation | None
    provenance: Mapping[str, Any]
    progress: StepsProgress | None
    """Rank 0's."""

    def reach(self, done: int, best: Best, *, evaluate: bool, save: bool) -> Best:
        """Show, measure and save the generator after `done` steps, as asked; returns the best so far."""
        world = self.trainer.world
        generator = snapshot(self.trainer)
        improved = False
        known: dict[str, Any] = {}
        if evaluate and world.is_main:
            self.journal.show(generator, done, self.trainer.config.seed)
        if evaluate and self.evaluation is not None:
            try:
                metrics = world.gather(dict(self.evaluation.measure(generator)))[0]
            except (UserError, RunError, SaidElsewhereError):
                # The steps up to here are not lost with a measurement that fails.
                self._save(generator, done, best, due=True)
                raise
            if self.progress is not None:
                self.journal.log({"step": done, **metrics})
                self.progress.report(done, metrics)
            known = {
                "scores": {name: value for name, value in metrics.items() if math.isfinite(value)},
                "measured": dict(self.evaluation.how),
            }
            score = metrics[self.evaluation.best]
            improved = best.beaten_by(score, lower_is_better=self.evaluation.lower_is_better)
            best = Best(done, score) if improved else best
        if save or improved:
            self._save(generator, done, best, known, improved=improved)
        return best

    def put_off(self, done: int, best: Best, *, due: bool) -> None:
        """Save the generator after `done` steps at once; if it is `due` to be measured, a resumed run begins
        with that.
        """
        self._save(snapshot(self.trainer), done, best, due=due)

    def _save(
        self,
        generator: Generator,
        done: int,
        best: Best,
        known: Mapping[str, Any] | None = None,
        *,
        improved: bool = False,
        due: bool = False,
    ) -> None:
        trainer = self.trainer
        with trainer.of_discriminator.whole():
            discriminator = plain(cast(Discriminator, trainer.of_discriminator.copy()))
        state: dict[str, Any] = {"step": done, "best": vars(best), "due": due, **trainer.state_dict()}
        for tensors in (generator.state_dict(), state["generator"], state["discriminator"]):
            for name, tensor in tensors.items():
                if not tensor.isfinite().all():
                    raise RunError(
                        f"after step {done} {name} is not finite, so no checkpoint was written: the run has "
                        "diverged; lower the learning rates."
                    )
        # Written while training goes on: nothing of it may be what training changes.
        generator, discriminator = generator.cpu(), discriminator.cpu()

        def write_model(folder: Path) -> None:
            provenance = {**self.provenance, "step": done, **(known or {})}
            save_model(folder, generator, discriminator, provenance=provenance)

        self.checkpoints.save(done, state, write_model, best=improved)


@contextlib.contextmanager
def _progress(trainer: Trainer, first: int) -> Iterator[StepsProgress | None]:
    """What is shown, on rank 0."""
    config = trainer.config
    if not trainer.world.is_main:
        yield None
        return
    pictures = config.batch_size * trainer.batches_per_step
    with steps_progress(config.steps, first, pictures_per_step=pictures) as progress:
        yield progress


@contextlib.contextmanager
def _naming_last_checkpoint(checkpoints: Checkpoints) -> Iterator[None]:
    """Add to an error what can be gone back to."""
    try:
        yield
    except (RunError, UserError) as error:
        good = checkpoints.latest
        back = (
            f"The last good checkpoint is {good}; --resume goes on from it."
            if good
            else "There is no checkpoint yet."
        )
        raise reworded(error, f"{error} {back}") from error


def write_grid(path: Path, generator: Generator, seed: int) -> None:
    """A PNG grid of the last bank's classes (the first 20 of them), one row a class.

    The latents are the same in every row and at every step.
    """
    first = generator.first_of_last_bank
    classes = range(len(generator.classes))[first : first + GRID_CLASSES]
    shape = (GRID_COLUMNS, generator.dim_z)
    write_class_grid(path, generator, classes, latent_range(generator, None).drawn(shape, seed, "grid"))


def _learning_rates(trainer: Trainer) -> dict[str, float]:
    return {
        "lr_generator": trainer.generator_optimiser.param_groups[0]["lr"],
        "lr_discriminator": trainer.discriminator_optimiser.param_groups[0]["lr"],
    }
