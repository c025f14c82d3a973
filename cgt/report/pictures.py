"""Sections of pictures: new and old classes beside real ones (Fig. 6 and 7), the check that old classes are
what they were, and ways from old classes to new ones.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from safetensors.torch import load_file

from cgt.errors import UserError
from cgt.files import sha256
from cgt.images import to_uint8
from cgt.models.folder import load_generator
from cgt.report.blocks import Heading, Section, Sheet, Sheets, Strip, Table, Words
from cgt.report.models import Shown, drawn, real_pictures
from cgt.wording import counted

CLASSES = 10
"""Of a section at most."""
COLUMNS = 6
"""Pictures of a class."""
CHECKED = 100
"""Old classes whose pictures are compared, at most."""
WAYS = 6
"""New classes to which a way is shown."""
STEPS = 8
"""Pictures of a way, its ends among them."""


def new_classes(shown: Sequence[Shown]) -> Section:
    """Each new class: real pictures, and those of every run."""
    section = Section("new-classes", "New classes")
    names = list(dict.fromkeys(name for one in shown for name in one.new_classes))
    if not names:
        section.blocks.append(Words("None of these runs added classes, or has a checkpoint with them."))
        return section
    _fill(section, "new", names, shown)
    return section


def old_classes(shown: Sequence[Shown]) -> Section:
    """Each old class likewise: of the pretrained model, and as extended ones still make it."""
    section = Section("old-classes", "Old classes")
    names = list(dict.fromkeys(name for one in shown for name in one.old_classes))
    if not names:
        section.blocks.append(
            Words("None of the models has old classes: these runs gave them up, or have no checkpoint.")
        )
        return section
    _fill(section, "old", names, shown)
    return section


def identity(shown: Sequence[Shown]) -> Section:
    """Whether old classes are what the source makes, tensor by tensor and picture by picture."""
    section = Section("identity", "Old classes against the source")
    rows = [[one.name, *_compared(one)] for one in shown if one.transferred]
    if not rows:
        section.blocks.append(Words("None of these runs has a source whose classes it could have changed."))
        return section
    section.blocks.append(
        Table(
            "Every tensor of the source's generator, and two pictures of each of its classes (of "
            f"{CHECKED} classes at most), compared bit by bit.",
            ["run", "tensors", "pictures", "result"],
            rows,
        )
    )
    return section


def interpolation(shown: Sequence[Shown]) -> Section:
    """From the nearest old class to each new one."""
    section = Section("interpolation", "From old classes to new ones")
    extended = [one for one in shown if one.new_classes and one.old_classes]
    if not extended:
        section.blocks.append(Words("None of the models has both old and new classes to go between."))
        return section
    section.blocks.append(
        Words(
            "Scales and shifts of two classes, mixed in equal steps: left the old class that the new one is "
            "nearest to (by its similarity scores or, where the method has none, by its tables; MineGAN has "
            "neither, and the first old class stands there), right the new one."
        )
    )
    for number, one in enumerate(extended):
        if len(extended) > 1:
            section.blocks.append(Heading(one.name))
        sheets = []
        for i, new in enumerate(one.new_classes[:WAYS]):
            old = one.strongest(new)
            strips = [Strip(f"latent {latent + 1}", _way(one, old, new, latent)) for latent in range(2)]
            sheets.append(Sheet(f"interpolation-{number}-{i}", f"{old} → {new}", strips))
        section.blocks.append(Sheets(sheets))
    return section


def _fill(section: Section, kind: str, names: Sequence[str], shown: Sequence[Shown]) -> None:
    """Sheets of the first of these classes."""
    taken = names[:CLASSES]
    if len(names) > len(taken):
        section.blocks.append(Words(f"The first {len(taken)} of {len(names)} classes."))
    real = real_pictures([one.run for one in shown], taken, COLUMNS)
    if missing := [name for name in taken if name not in real]:
        section.blocks.append(
            Words(
                f"No real pictures of {', '.join(missing)}: the shards that the runs name are not there any "
                "more, or lie behind a URL."
            )
        )
    sheets = []
    for i, name in enumerate(taken):
        strips = [Strip("real", real[name])] if name in real else []
        for one in shown:
            if name in (one.new_classes if kind == "new" else one.old_classes):
                y = one.generator.classes.index(name)
                _add(strips, Strip(one.name, drawn(one.generator, one.latents(COLUMNS), [y] * COLUMNS)))
        sheets.append(Sheet(f"{kind}-{i}", name, strips))
    section.blocks.append(Words("All generated pictures of a column come of the same latent."))
    section.blocks.append(Sheets(sheets))


def _add(strips: list[Strip], strip: Strip) -> None:
    """Add a run's pictures; where another's are the same, only its name."""
    for i, other in enumerate(strips):
        if other.label != "real" and torch.equal(other.x_K3HW, strip.x_K3HW):
            strips[i] = replace(other, label=f"{other.label}; the same: {strip.label}")
            return
    strips.append(strip)


def _compared(one: Shown) -> list[str]:
    """What is equal: tensors, pictures, and in words."""
    if not one.old_classes:
        return ["–", "–", "the method gives the old classes up"]
    if one.run.source is None:
        return ["–", "–", f"the source is not there any more: {one.run.provenance.get('source')}"]
    weights = one.run.source / "generator.safetensors"
    assert one.run.checkpoint is not None
    try:
        source = load_generator(one.run.source).to(next(one.generator.parameters()).device)
        before, after = load_file(weights), load_file(one.run.checkpoint / "model" / "generator.safetensors")
    except (UserError, OSError) as error:
        return ["–", "–", f"the source can't be read: {error}"]
    if sha256(weights) != one.run.provenance.get("source_generator_sha256"):
        return ["–", "–", "the source's folder holds another model now than the run began with"]
    same = [name for name in before if name in after and torch.equal(before[name], after[name])]
    names = source.classes[:CHECKED]
    z_KZ, y_K = one.latents(2), torch.arange(2, device=next(source.parameters()).device)
    equal = 0
    with torch.no_grad():
        for name in names:
            ids = [torch.full_like(y_K, model.classes.index(name)) for model in (source, one.generator)]
            equal += torch.equal(source(z_KZ, ids[0]), one.generator(z_KZ, ids[1]))
    whole = len(same) == len(before) and equal == len(names)
    return [
        f"{len(same)} of {len(before)} equal",
        f"{equal} of {counted(len(names), 'class')} equal",
        "identical to the bit" if whole else "CHANGED: these old classes are not the source's",
    ]


@torch.no_grad()
def _way(one: Shown, old: str, new: str, latent: int) -> torch.Tensor:
    """uint8 (STEPS, 3, R, R)."""
    generator = one.generator
    z_NZ = one.latents(latent + 1)[-1:].expand(STEPS, -1)
    share_N = torch.linspace(0, 1, STEPS, device=z_NZ.device)
    y_NJ = torch.tensor([generator.classes.index(old), generator.classes.index(new)], device=z_NZ.device)
    weight_NJ = torch.stack((1 - share_N, share_N), 1)
    return to_uint8(generator.interpolate(z_NZ, y_NJ.expand(STEPS, -1), weight_NJ)).cpu()
