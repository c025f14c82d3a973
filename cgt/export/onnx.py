"""ONNX files for onnxruntime and others: inputs `z` and `y`, output `images`."""

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.export.base import Model, Options, Written
from cgt.export.graphs import OUTPUT, facts, inputs, size_of, traceable, traced
from cgt.export.parity import measure
from cgt.files import FolderKind
from cgt.models.biggan import Generator
from cgt.models.sampling import latent_range

OPTIONS = frozenset({"classes", "mixing", "truncation"})
WITH_DISCRIMINATOR = False
FILE, MIXING = "generator.onnx", "generator_mixing.onnx"
KIND = FolderKind("an ONNX folder", (FILE,), (MIXING, f"{FILE}.data", f"{MIXING}.data", "README.md"))
LARGEST = 2_000_000_000
"""Bytes of tensors in one file: protobuf ends at 2 GiB, and the graph takes some."""


def export(model: Model, folder: Path, options: Options) -> Written:
    """Write `generator.onnx`, and with `mixing` a second file by weights; tensors beside them beyond 2 GB.

    Raises:
        UserError: a package is missing, classes that no graph can hold, or pictures that are not finite.
        RunError: a file that is read again makes other pictures.
    """
    _require("onnx", "onnxscript", *(["onnxruntime"] if options.verify else []))
    generator = traceable(model, options)
    names = (FILE, MIXING) if options.mixing else (FILE,)
    for name in names:
        _write(generator, options, folder / name, mixing=name == MIXING)
    parity = None
    if options.verify:
        calls = [_opened(folder / name, "weights" if name == MIXING else "y") for name in names]
        parity = measure(model.generator, generator.classes, *calls, truncation=options.truncation)
    return Written(
        about="An ONNX graph for any number of pictures at once, with weights and class tables fixed. The "
        "file's metadata have the class names by id (`classes`, a JSON list), `dim_z`, `resolution` and "
        "`truncation`.",
        needs="onnxruntime and numpy",
        program=_program(generator, options),
        classes=tuple(generator.classes),
        inputs=inputs(generator, options),
        parity=parity,
    )


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format onnx needs {' and '.join(missing)}: pip install 'cgt[export]'"
            + (", or add --no-verify to do without." if missing == ["onnxruntime"] else ".")
        )


def _write(generator: Generator, options: Options, path: Path, *, mixing: bool) -> None:
    # The exporter tells of operators of torchvision that are not there.
    logger, level = logging.getLogger("torch.onnx"), logging.getLogger("torch.onnx").level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
            program = torch.onnx.export(
                traced(generator, options, mixing=mixing), dynamo=True, output_names=[OUTPUT], verbose=False
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    told = facts(generator, options)
    program.model.metadata_props.update({key: json.dumps(value) for key, value in told.items()})
    program.model.producer_name = "cgt"
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # of the exporter, for debugging: larger than the graph
    program.save(path, external_data=size_of(generator) > LARGEST)


def _opened(path: Path, second: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The file as a function of tensors."""
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def call(z: Tensor, other: Tensor) -> Tensor:
        (images,) = session.run([OUTPUT], {"z": z.numpy(), second: other.numpy()})
        return torch.from_numpy(images)

    return call


def _program(generator: Generator, options: Options) -> str:
    last, (cut, factor) = len(generator.classes) - 1, latent_range(generator, options.truncation)
    redraw = "    z[far] = rng.standard_normal(far.sum(), dtype=np.float32)"
    truncate = [f"while (far := np.abs(z) > {cut:g}).any():", redraw] if cut is not None else []
    truncate += [f"z *= {factor:g}"] if factor != 1 else []
    return "\n".join(
        [
            "import numpy as np",
            "import onnxruntime",
            "",
            f'session = onnxruntime.InferenceSession("{FILE}")',
            "rng = np.random.default_rng(0)",
            f"z = rng.standard_normal((8, {generator.dim_z}), dtype=np.float32)",
            *truncate,
            f"y = np.full(8, {last}, dtype=np.int64)  # {generator.classes[last]}",
            f'(images,) = session.run(["{OUTPUT}"], {{"z": z, "y": y}})  # in [-1, 1]',
            "pixels = ((images + 1) * 127.5).round().clip(0, 255).astype(np.uint8)  # in 0..255",
            "print(pixels.shape, pixels.mean())",
        ]
    )
