"""AOTInductor packages (.pt2), experimental: machine code for the processor of this machine, from C++.

Torch calls the format beta, and a package is of one torch version and one kind of processor.
"""

import platform
import shutil
from pathlib import Path

import torch

from cgt.errors import UserError
from cgt.export.base import Model, Options, Written
from cgt.export.graphs import inputs, torch_program, traceable, traced
from cgt.export.parity import measure
from cgt.files import FolderKind

OPTIONS = frozenset({"classes", "truncation"})
WITH_DISCRIMINATOR = False
FILE = "generator.aoti.pt2"
KIND = FolderKind("an AOTInductor folder", (FILE,), ("README.md",))


def export(model: Model, folder: Path, options: Options) -> Written:
    """Write `generator.aoti.pt2`.

    Raises:
        UserError: there is no C++ compiler, classes that no graph can hold, or pictures that are not finite.
        RunError: a package that is read again makes other pictures.
    """
    found = compiler()
    generator = traceable(model, options)
    path = str((folder / FILE).resolve())
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(traced(generator, options), package_path=path)
    parity = None
    if options.verify:
        network = torch._inductor.aoti_load_package(path)
        parity = measure(model.generator, generator.classes, network, truncation=options.truncation)
    load = [f'network = torch._inductor.aoti_load_package("{FILE}")']
    return Written(
        about="**Experimental.** Machine code of AOTInductor for any number of pictures at once, with "
        "weights and class tables fixed: for programs in C++ (`torch::inductor::AOTIModelPackageLoader`), "
        "or in Python. It runs with the torch version that wrote it, on processors of this kind.",
        needs=f"torch {torch.__version__}, on {platform.machine()}",
        program=torch_program(generator, options, load, "import torch, torch._inductor"),
        classes=tuple(generator.classes),
        inputs=inputs(generator, options),
        parity=parity,
        notes={"compiler": found},
    )


def compiler() -> str:
    """The C++ compiler that torch will call.

    Raises:
        UserError: there is none.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        found = shutil.which(get_cpp_compiler())
    except (InvalidCxxCompiler, RuntimeError):
        found = None
    if found is None:
        raise UserError(
            "--format aoti needs a C++ compiler, and none is found (torch looks for $CXX, then g++): install "
            "one such as g++, set CXX to it, or choose --format torch-export, which needs none."
        )
    return found
