"""Methods on tiny networks, for the tests of each."""

from dataclasses import replace
from typing import Any

from cgt import catalog
from cgt.distributed import World
from cgt.models.biggan import GeneratorConfig
from cgt.models.layers import plain
from cgt.training.step import fetch, train_step
from cgt.training.trainer import Trainer, build_trainer, snapshot
from cgt.transfer.base import Method, Source
from tests import tiny

FITTING: dict[str, dict[str, Any]] = {
    "freezed": {"frozen_blocks": 1},
    "gefilter": {"generator_blocks": 1, "discriminator_blocks": 1},
    "ppgn": {"iterations": 3},
}
"""Options without which the smallest networks won't do, or take long."""


def make(
    name: str, config: GeneratorConfig, classes: tuple[str, ...] = tiny.NEW, **options: Any
) -> Method[Any]:
    """The method of that name; "minegan finetune" goes on from a finished transfer."""
    name, _, stage = name.partition(" ")
    kind = catalog.load("cgt.transfer", name, kind="method").METHOD
    task = tiny.task(config, classes)
    if stage:
        trainer, _ = trained(make(name, config, classes))
        task = replace(task, source=Source(snapshot(trainer), plain(trainer.discriminator).eval()))
        options = {"stage": stage, **options}
    return kind(kind.Config(name=name, **{**FITTING.get(name, {}), **options}), task)


def trained(method: Method[Any], steps: int = 2, **changes: Any) -> tuple[Trainer, list[dict[str, float]]]:
    """Its trainer after some steps, and their losses."""
    config = tiny.transfer_config(method.config, **{"steps": steps, **changes})
    trainer = build_trainer(config, method, World(cpu=True))
    batches = tiny.MemoryPictures(method.task.classes).batches(8, seed=0)
    return trainer, fetch({step: train_step(trainer, batches, step) for step in range(steps)})
