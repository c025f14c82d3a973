"""What `cgt pretrain` and `cgt transfer` share: from a checked config to a finished run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cgt import rng
from cgt.data import Pictures
from cgt.distributed import World, launched_world
from cgt.errors import UserError
from cgt.metrics.feature_cache import FeatureCache, cache_folder
from cgt.metrics.features.base import load_extractor
from cgt.metrics.settings import lower_is_better
from cgt.metrics.suite import Evaluator
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.discriminator import Discriminator, DiscriminatorConfig
from cgt.models.naming import listed
from cgt.progress import stderr_console
from cgt.runs import RunFolder, options_of, versions
from cgt.training.loop import Evaluation, train
from cgt.training.settings import RunConfig
from cgt.training.strategies.choice import check
from cgt.training.trackers import check_trackers
from cgt.training.trainer import build_trainer
from cgt.transfer.base import Method, Source, Task
from cgt.wording import counted

PICTURES_AT_ONCE = 256


def place_of(config: str, run: Path | None) -> Path:
    """The run folder: the one that was named, or runs/ and the config's name."""
    if run is not None:
        return run
    return Path("runs") / (Path(config).stem if Path(config).is_file() else config)


def meet(settings: RunConfig) -> World:
    """This process's place among those of the run, which must be able to train together as it says.

    Raises:
        UserError: they can't share the batch, can't train by that strategy, or a tracker is not installed.
    """
    world = launched_world(settings.precision, timeout=settings.timeout)
    with world.together():
        settings.check_share(world.size)
        check(settings.strategy, world, compiled=settings.compile)
        if world.is_main:
            check_trackers(settings.trackers)
    return world


def task_of(
    settings: RunConfig,
    pictures: Pictures,
    generator: GeneratorConfig,
    discriminator: DiscriminatorConfig,
    source: Source | None = None,
    device: torch.device | str = "cpu",
) -> Task:
    """What the method is to learn from `pictures`.

    Raises:
        UserError: networks of that shape can't make pictures of that size.
    """
    try:
        with torch.device("meta"):
            Generator(generator, pictures.resolution, pictures.classes)
            Discriminator(discriminator, pictures.resolution, pictures.classes)
    except ValueError as error:
        raise UserError(f"the networks don't fit the pictures of {settings.data.shards}: {error}.") from error
    return Task(
        classes=pictures.classes,
        resolution=pictures.resolution,
        generator=generator,
        discriminator=discriminator,
        seed=settings.seed,
        source=source,
        pictures=lambda: pictures.once(PICTURES_AT_ONCE),
        extractor=lambda name: load_extractor(name, device=device),
        device=str(device),
    )


def execute(
    settings: RunConfig,
    method: Method[Any],
    pictures: Pictures,
    run: Path,
    world: World,
    *,
    resume: bool,
    overwrite: bool,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Train in the run folder `run`, whose place was checked, and say where the model is.

    All processes of `world` call this together.

    Returns:
        The last checkpoint's folder.
    """
    provenance = {**(provenance or {}), "data": settings.data.shards, "data_sha256": pictures.digest}
    options = {f"option {key}": str(value) for key, value in options_of(settings).items()}
    facts = {name: str(value) for name, value in provenance.items()}
    world.agree({**options, "choice of --resume": str(resume), **_code(), **facts})
    with world.together():
        evaluation = _evaluation(settings, pictures, world)
    with world.together():
        if world.is_main and resume:
            folder = RunFolder.reopen(run, settings, provenance)
    # Before the folder is made or cleared: a method may refuse its source here.
    trainer = build_trainer(settings, method, world)
    with world.together():
        if world.is_main and not resume:
            # That took its time, in which another run may have been begun, and ended, there.
            RunFolder.check_place(run, resume=False, overwrite=overwrite)
            folder = RunFolder.create(run, settings, provenance)
    with world.together():
        if not world.is_main:
            folder = RunFolder.join(run)
    checkpoint = train(
        trainer,
        pictures,
        folder,
        evaluation=evaluation,
        resume=resume,
        provenance=provenance,
    )
    if not world.is_main:
        return checkpoint
    console = stderr_console()
    best = run / "best"
    console.print(f"model: {(best if best.exists() else checkpoint) / 'model'}")
    if pictures.skipped:
        first = next(iter(pictures.skipped.values()))
        count = f"{len(pictures.skipped):,} of the pictures"
        console.print(f"skipped {count}, which could not be read. The first: {first}", markup=False)
    if lost := method.given_up:
        named = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
        console.print(
            f"this method gives up {counted(len(lost), 'class')} of its source ({named}): the model makes "
            "those it was trained on alone.",
            highlight=False,
        )
    elif old := provenance.get("old_classes"):
        console.print(f"old classes: {old}", highlight=False)
    return checkpoint


def _code() -> dict[str, str]:
    """What of the code must be the same on all ranks."""
    found = versions()
    return {"commit": str(found["commit"])} | {
        f"version of {name}": version for name, version in found["packages"].items()
    }


def _evaluation(settings: RunConfig, pictures: Pictures, world: World) -> Evaluation | None:
    """How the run is measured: the classes it trains, against `eval.data` or the training pictures."""
    from cgt.metrics.statistics import open_reference

    config = settings.eval
    if config is None:
        return None
    lower = lower_is_better(config.best, config.metrics)
    extractor = load_extractor(config.features, config.weights, world.device)
    classes = pictures.classes if config.classes is None else config.classes
    reference = pictures if config.data is None else open_reference(config.data, classes)
    # Other latents than `cgt eval` draws: what a model is reported by did not choose it.
    seed = rng.key(settings.seed, "choice of the best")
    measure = Evaluator(
        reference,
        extractor,
        config.metrics,
        config.images,
        seed,
        config.batch_size,
        classes,
        rank=world.rank,
        world=world.size,
        together=world.together,
        cache=FeatureCache(cache_folder()) if config.cache else None,
    )
    measure.check_images()
    if measure.resolution not in (None, pictures.resolution):
        raise UserError(
            f"eval.data {config.data} has pictures of {measure.resolution} px, and the run trains on "
            f"{pictures.resolution} px: build it with --size {pictures.resolution}."
        )
    how = {
        "data": config.data or settings.data.shards,
        "classes": listed(measure.classes),
        "features": config.features,
        "generated_pictures": config.images,
    }
    return Evaluation(measure, config.best, lower, how)
