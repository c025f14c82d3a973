"""What the original program made of some inputs: an .npz file to check a conversion by.

    z                                    (N, Z)         latents
    y                                    (N,)           its own labels, integers from 0
    eval_images                          (N, 3, R, R)   its pictures of them in eval mode, in [-1, 1]

and, to check the discriminator too, either or both of

    eval_logits_fake                     (N,), (N, 1)   what its discriminator says of eval_images and y
    x, eval_logits_real                                 pictures like eval_images, and what it says of x and y
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cgt.errors import UserError
from cgt.models.biggan import Generator
from cgt.models.discriminator import Discriminator
from cgt.models.folder import for_use, load_model

LIMIT = 1e-4
"""The largest difference that rounding may make, of pictures in [-1, 1] and of logits of 1 or less; of larger
logits it is that part of the largest."""
BATCH = 8

NEEDED = {"z": 2, "y": 1, "eval_images": 4}
JUDGED = {"eval_logits_fake": "eval_images", "eval_logits_real": "x"}
"""Logits, and the pictures that they are of."""


@dataclass(frozen=True)
class Originals:
    """Inputs and outputs of the original program: float32, but for y."""

    path: Path
    z_NZ: Tensor
    y_N: Tensor
    images_N3RR: Tensor
    judged: Mapping[str, tuple[Tensor, Tensor]]
    """By the name of the logits: pictures (N, 3, R, R), and the logits (N,) of them."""


class Difference(NamedTuple):
    """Between what a converted model and the original program make of the same."""

    largest: float
    limit: float
    """What it may be."""


def read_originals(path: Path) -> Originals:
    """The content of the file.

    Raises:
        UserError: no such file, or one that holds something else; Python objects are refused unexecuted.
    """
    arrays = _read_arrays(path)
    if missing := [name for name in NEEDED if name not in arrays]:
        raise UserError(
            f"{path} has no {', '.join(missing)} (there is: {', '.join(sorted(arrays)) or 'nothing'}): save "
            "the original program's z, y and eval_images with numpy.savez."
        )
    tensors = {name: _tensor(path, name, arrays[name]) for name in [*NEEDED, "x", *JUDGED] if name in arrays}
    y_N, images = tensors["y"], tensors["eval_images"]
    if y_N.dim() != 1:
        raise UserError(
            f"{path}: y has the shape {tuple(y_N.shape)}, and must have 1 dimension: save one label for each "
            "picture."
        )
    judged = {}
    for logits, pictures in JUDGED.items():
        if logits in tensors and pictures in tensors:
            tensors[logits] = tensors[logits].flatten()
            judged[logits] = (tensors[pictures], tensors[logits])
            _require(path, logits, tensors[logits], 1, len(y_N))
            _require(path, pictures, tensors[pictures], 4, len(y_N))
    for name, dimensions in NEEDED.items():
        _require(path, name, tensors[name], dimensions, len(y_N))
    return Originals(path, tensors["z"], y_N, images, judged)


def compare(folder: Path, originals: Originals) -> dict[str, Difference]:
    """The largest differences between what a converted model folder makes of the inputs and the outputs.

    The labels are those of the generator's last bank. What is compared is called "pictures", or by the name
    of the logits.

    Raises:
        UserError: the inputs are of another model, or a difference is above the limit.
    """
    generator, discriminator = load_model(folder)
    for_use(generator)
    _require_inputs_of(generator, originals)
    differences = {"pictures": Difference(_of_pictures(generator, originals), LIMIT)}
    if discriminator is not None:
        for name, (pictures, logits) in originals.judged.items():
            largest = _of_logits(discriminator, pictures, originals.y_N, logits)
            differences[name] = Difference(largest, LIMIT * max(1.0, float(logits.abs().max())))
    if above := {name: found for name, found in differences.items() if not found.largest <= found.limit}:
        told = ", ".join(
            f"{name} by {found.largest:.2g} (allowed: {found.limit:.2g})" for name, found in above.items()
        )
        raise UserError(
            f"the converted model is not the one that made {originals.path}: they differ in {told}. Check "
            "that the outputs are of this file (G_ema.pth or G.pth) and of eval mode, with z as the program "
            "got it."
        )
    return differences


def _read_arrays(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"there is no file {path}: name an .npz file with z, y and eval_images.")
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except PermissionError as error:
        raise UserError(f"{path} can't be read ({error.strerror}): check its permissions.") from error
    except Exception as error:
        # A damaged archive fails in every way there is; each means the same to the reader.
        if isinstance(error, ValueError) and "allow_pickle" in str(error):
            raise UserError(
                f"{path} holds Python objects, which could run code: it was refused, and nothing in it was "
                "executed. Save arrays of numbers alone."
            ) from None
        raise UserError(
            f"{path} is not an .npz file of arrays, or is incomplete: save it with numpy.savez, or copy it "
            "again."
        ) from None


def _tensor(path: Path, name: str, array: Any) -> Tensor:
    whole = name == "y"
    if array.dtype.kind not in ("iu" if whole else "f"):
        wanted = "integers" if whole else "floating-point numbers"
        raise UserError(f"{path}: {name} holds {array.dtype}, and must hold {wanted}: save it again.")
    tensor = torch.from_numpy(array.astype(np.int64 if whole else np.float32))
    if not torch.isfinite(tensor).all():
        raise UserError(f"{path}: {name} holds numbers that are not finite: save it again.")
    return tensor


def _require(path: Path, name: str, tensor: Tensor, dimensions: int, count: int) -> None:
    if tensor.dim() != dimensions or len(tensor) != count or 0 in tensor.shape:
        raise UserError(
            f"{path}: {name} has the shape {tuple(tensor.shape)}, and must have {dimensions} dimensions, the "
            f"first of them {count} as y has, and none 0: save what the program got and gave in one run."
        )


def _require_inputs_of(generator: Generator, originals: Originals) -> None:
    size = generator.resolution
    faults = []
    if (width := originals.z_NZ.shape[1]) != generator.dim_z:
        faults.append(f"z has {width} numbers a picture, and this generator takes {generator.dim_z}")
    count = len(generator.last_bank.classes)
    if outside := sorted({int(y) for y in originals.y_N if not 0 <= y < count}):
        faults.append(
            f"y has the labels {', '.join(map(str, outside[:5]))}, and the {count} classes that the program "
            f"labels are 0 to {count - 1}"
        )
    shapes = {"eval_images": originals.images_N3RR}
    shapes |= {JUDGED[name]: pictures for name, (pictures, _) in originals.judged.items()}
    for name, pictures in shapes.items():
        if pictures.shape[1:] != (3, size, size):
            got = " x ".join(map(str, pictures.shape[1:]))
            faults.append(f"{name} is {got}, and this generator makes 3 x {size} x {size}")
    if faults:
        raise UserError(
            f"{originals.path} is of another model: {'; '.join(faults)}. Name the outputs of the one "
            "converted."
        )


@torch.no_grad()
def _of_pictures(generator: Generator, originals: Originals) -> float:
    y_N = originals.y_N + generator.first_of_last_bank
    return _largest(
        generator(z, y) - images
        for z, y, images in zip(
            *(part.split(BATCH) for part in (originals.z_NZ, y_N, originals.images_N3RR)), strict=True
        )
    )


@torch.no_grad()
def _of_logits(discriminator: Discriminator, x_N3RR: Tensor, y_N: Tensor, logits_N: Tensor) -> float:
    return _largest(
        discriminator(x, y) - logits
        for x, y, logits in zip(*(part.split(BATCH) for part in (x_N3RR, y_N, logits_N)), strict=True)
    )


def _largest(differences: Iterator[Tensor]) -> float:
    return float(torch.stack([part.abs().max() for part in differences]).max())
