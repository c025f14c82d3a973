"""A model folder for use alone: folded, with the classes that are wanted, and in half precision if so asked.

The discriminator is left out: nothing but training needs it.
"""

from pathlib import Path

import torch

from cgt.export.base import Model, Options, Written
from cgt.export.graphs import folded, torch_program
from cgt.export.parity import Parity, difference, measure
from cgt.files import FolderKind, sha256
from cgt.models import folder as model_folder
from cgt.models.biggan import Generator
from cgt.models.record import FILE, read_record

OPTIONS = frozenset({"classes", "half"})
WITH_DISCRIMINATOR = False


class _ExportKind(FolderKind):
    """A model folder that an export made: what was trained is not there for others to replace."""

    def misfit(self, folder: Path) -> str | None:
        """Also for one that is of a training, or of a conversion."""
        if found := super().misfit(folder):
            return found
        if "exported_from" not in read_record(folder).provenance:
            return "is a model that was trained or converted, and no export of one"
        return None


KIND = _ExportKind("an exported model folder", (FILE, "generator.safetensors"), ("README.md", "samples.png"))


def export(model: Model, folder: Path, options: Options) -> Written:
    """Write the model folder.

    Raises:
        UserError: a number that float16 can't hold, or pictures that are not finite.
        RunError: what is read again makes other pictures.
    """
    generator = folded(model.generator, options.classes)
    names = model.generator.classes[: model.generator.first_of_last_bank]
    of_old = not set(names).isdisjoint(generator.classes)
    provenance = {
        **{key: value for key, value in model.provenance.items() if key != "old_classes" or of_old},
        "exported_from": str(model.folder),
        "exported_generator_sha256": sha256(model.folder / "generator.safetensors"),
    }
    dtype = torch.float16 if options.half else torch.float32
    model_folder.save_model(folder, generator, provenance=provenance, dtype=dtype)
    parity, notes = None, {}
    if options.verify:
        again = model_folder.load_generator(folder)
        reference = _rounded(model.generator, dtype) if options.half else model.generator
        parity = measure(reference, generator.classes, again)
        if options.half:
            notes["rounding to float16"] = _effect(difference(model.generator, generator.classes, again))
    return Written(
        about="A model folder for use alone: `cgt.load_generator`, `cgt sample` and `cgt eval` take it like "
        "any other. Spectral norms are fixed and class tables worked out, so that it is smaller and quicker. "
        + ("Numbers are stored as float16, and are float32 in memory. " if options.half else "")
        + "It has no discriminator, and the weights that were trained can't be had back from it: further "
        "classes are added to the model that it was exported from.",
        needs="cgt",
        program=torch_program(
            generator, options, ['network = cgt.load_generator(".")'], "import cgt\nimport torch"
        ),
        classes=tuple(generator.classes),
        parity=parity,
        compared_with="the model rounded to float16" if options.half else "the model",
        notes=notes,
    )


def _rounded(generator: Generator, dtype: torch.dtype) -> Generator:
    """What storing in a number type is to make of a generator: it is folded, and then rounded."""
    rounded = folded(generator)
    for parameter in rounded.parameters():
        parameter.copy_(parameter.to(dtype))
    return model_folder.for_use(rounded)


def _effect(parity: Parity) -> str:
    greatest = parity.greatest
    return f"moves pictures by up to {greatest:.1e} in [-1, 1], which is {greatest * 127.5:.2f} of 255"
