"""The section of nearest neighbours: whether generated pictures are copies of training ones.

Shapes: K generated pictures of a class, P training pictures, D features.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from cgt.data import DataConfig, Pictures, open_pictures
from cgt.errors import RunError, UserError
from cgt.metrics.features.base import FeatureExtractor, load_extractor
from cgt.metrics.features.weights import DOWNLOAD
from cgt.metrics.memorisation import nearest_neighbours
from cgt.report.blocks import Heading, Section, Sheet, Sheets, Strip, Words
from cgt.report.models import Shown, drawn

CLASSES = 10
"""Of a run at most."""
COLUMNS = 6
"""Generated pictures of a class."""
TRAINING = 5000
"""Training pictures that are compared, at most."""
PARTS = 100
"""Of a larger set, from each of which as many pictures are taken."""
AT_ONCE = 64


def neighbours(shown: Sequence[Shown]) -> Section:
    """Generated pictures above the training pictures that are nearest to them."""
    section = Section("neighbours", "Nearest neighbours")
    if not shown:
        section.blocks.append(Words("No run has a checkpoint to generate with."))
        return section
    section.blocks.append(
        Words(
            "Below each generated picture the training picture, of any class, that is nearest to it in the "
            "space of the features the run was measured by. A generator that copies shows the same picture "
            "twice, at a distance far below that between training pictures. Of more than "
            f"{TRAINING:,} training pictures so many are compared, from all parts of the set; the metric "
            "memorisation compares all."
        )
    )
    for number, one in enumerate(shown):
        if len(shown) > 1:
            section.blocks.append(Heading(one.name))
        try:
            x_P3RR, extractor = _training_pictures(one), _extractor(one)
            section.blocks.append(_sheets(one, number, x_P3RR, extractor))
        except (UserError, RunError) as error:
            section.blocks.append(Words(f"Not shown: {error}"))
    return section


@torch.no_grad()
def _sheets(one: Shown, number: int, x_P3RR: Tensor, extractor: FeatureExtractor) -> Sheets:
    real_PD = _features(extractor, x_P3RR)
    among_real = nearest_neighbours(real_PD).distance_N if len(real_PD) > 1 else torch.tensor([torch.nan])
    typical = float(among_real.median())
    names = (one.new_classes or one.old_classes)[:CLASSES]
    sheets = []
    for i, name in enumerate(names):
        y = one.generator.classes.index(name)
        x_K3RR = drawn(one.generator, one.latents(COLUMNS), [y] * COLUMNS)
        nearest_K, distance_K = nearest_neighbours(_features(extractor, x_K3RR), real_PD)
        told = ", ".join(f"{distance:.3g}" for distance in distance_K.tolist())
        note = f"distances {told}; from training pictures to their nearest: {typical:.3g} (median)"
        strips = [Strip("generated", x_K3RR), Strip("nearest training pictures", x_P3RR[nearest_K.cpu()])]
        sheets.append(Sheet(f"neighbours-{number}-{i}", name, strips, note))
    return Sheets(sheets)


def _features(extractor: FeatureExtractor, x_N3RR: Tensor) -> Tensor:
    return torch.cat([extractor.take(part).pooled_ND for part in x_N3RR.split(AT_ONCE)])


def _training_pictures(one: Shown) -> Tensor:
    """uint8 (P, 3, R, R).

    Raises:
        UserError: they are not there any more, others are, or they can't be read.
    """
    options: dict[str, Any] = dict(one.run.config.get("data") or {})
    place = one.run.located(options.get("shards"))
    if place is None:
        raise UserError(f"the training pictures, {options.get('shards')}, are not there any more.")
    known = DataConfig.model_fields
    config = {key: value for key, value in options.items() if key in known}
    try:
        data = DataConfig.model_validate(config | {"shards": str(place), "workers": 0})
    except ValidationError as error:
        wrong = error.errors()[0]
        key = ".".join(map(str, ("data", *wrong["loc"])))
        raise UserError(f"{key} of the run's config.yaml is not to be read: {wrong['msg']}.") from None
    pictures = open_pictures(data)
    if pictures.digest != one.run.provenance.get("data_sha256", pictures.digest):
        raise UserError(f"{place} holds other pictures now than the run was trained on.")
    return spread(pictures, TRAINING)


def spread(pictures: Pictures, most: int) -> Tensor:
    """Pictures of all parts of a set, uint8 (P, 3, R, R): all of them, where there are no more than `most`.

    Else the first few of each part, so that not the whole set is read.
    """
    if len(pictures) <= most:
        return torch.cat([x_N3RR for x_N3RR, _ in pictures.once(AT_ONCE)])
    parts = []
    for part in range(PARTS):
        batches = pictures.once(most // PARTS, rank=part, world=PARTS)
        parts += [x_N3RR for x_N3RR, _ in itertools.islice(batches, 1)]
    return torch.cat(parts)


def _extractor(one: Shown) -> FeatureExtractor:
    """The run's.

    Raises:
        UserError: it was not measured, or the extractor is not there.
    """
    evaluation = one.run.config.get("eval")
    if not evaluation:
        raise UserError("the run was not measured (eval), so it names no features to compare by.")
    name = str(evaluation.get("features"))
    place = one.run.located(name)
    device = one.generator.output_affine.gain.device
    weights = evaluation.get("weights")
    return load_extractor(str(place or name), None if weights == DOWNLOAD else weights, device)
