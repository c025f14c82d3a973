"""`cgt pretrain`: train a BigGAN from nothing."""

from pathlib import Path

from cgt.cli.options import CONFIG, LAUNCH, OVERRIDES, OVERWRITE_RUN, PROCESSES, RESUME, RUN


def pretrain(
    config: CONFIG,
    overrides: OVERRIDES = None,
    run: RUN = None,
    resume: RESUME = False,
    overwrite: OVERWRITE_RUN = False,
    processes: PROCESSES = None,
    launch: LAUNCH = None,
) -> None:
    """Train a class-conditional BigGAN on shards.

    CONFIG is a YAML file or the name of a shipped config; every key can be set on the command line, as in

        cgt pretrain shapes/pretrain data=shards/source steps=2000 optim.generator_lr=1e-4
    """
    from cgt.launching import spread

    overrides = [*spread(processes, launch), *(overrides or [])]
    from cgt.cli.training_run import execute, meet, place_of, task_of
    from cgt.config import load
    from cgt.data import open_pictures
    from cgt.runs import RunFolder
    from cgt.training.settings import PretrainConfig
    from cgt.transfer.base import Method, MethodConfig

    settings = load(PretrainConfig, config, overrides)
    place = place_of(config, run)
    RunFolder.check_place(place, resume=resume, overwrite=overwrite, inputs=[Path(settings.data.shards)])
    world = meet(settings)
    with world.together():
        pictures = open_pictures(settings.data)
        task = task_of(settings, pictures, settings.generator, settings.discriminator)
        method = Method(MethodConfig(name="pretraining"), task)
    execute(
        settings,
        method,
        pictures,
        place,
        world,
        resume=resume,
        overwrite=overwrite,
        provenance={"config": config},
    )
