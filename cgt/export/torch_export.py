"""`torch.export` programs (.pt2): they load with torch alone, in eager mode or for `torch.compile`."""

import json
from pathlib import Path

import torch
from torch import nn

from cgt.export.base import Model, Options, Written
from cgt.export.graphs import facts, inputs, torch_program, traceable, traced
from cgt.export.parity import measure
from cgt.files import FolderKind

OPTIONS = frozenset({"classes", "mixing", "truncation"})
WITH_DISCRIMINATOR = False
FILE, MIXING = "generator.pt2", "generator_mixing.pt2"
KIND = FolderKind("a torch-export folder", (FILE,), (MIXING, "README.md"))
FACTS = "facts.json"


def export(model: Model, folder: Path, options: Options) -> Written:
    """Write `generator.pt2`, and with `mixing` a second program by weights.

    Raises:
        UserError: classes that no graph can hold, or pictures that are not finite.
        RunError: a program that is read again makes other pictures.
    """
    generator = traceable(model, options)
    told = {FACTS: json.dumps(facts(generator, options), ensure_ascii=False)}
    names = (FILE, MIXING) if options.mixing else (FILE,)
    for name in names:
        torch.export.save(traced(generator, options, mixing=name == MIXING), folder / name, extra_files=told)
    parity = None
    if options.verify:
        networks = [opened(folder / name) for name in names]
        parity = measure(model.generator, generator.classes, *networks, truncation=options.truncation)
    load = [
        f'facts = {{"{FACTS}": ""}}  # JSON: classes by id, and sizes',
        f'network = torch.export.load("{FILE}", extra_files=facts).module()',
        "network.to(memory_format=torch.channels_last)  # quicker, and the same pictures",
    ]
    return Written(
        about="A program of `torch.export`, for any number of pictures at once, with weights and class "
        "tables fixed. It loads with torch alone, of the version that wrote it or a later one; "
        "`torch.compile(network)` makes it faster, and `torch.export.passes.move_to_device_pass` moves it to "
        "a GPU.",
        needs=f"torch ({torch.__version__.partition('+')[0]} wrote it)",
        program=torch_program(generator, options, load, "import torch"),
        classes=tuple(generator.classes),
        inputs=inputs(generator, options),
        parity=parity,
    )


def opened(path: Path) -> nn.Module:
    """A program that was written, read again as its card says."""
    network: nn.Module = torch.export.load(path).module()
    # What is laid out so in the first place, torch.export.save warns of.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return network
