"""The generator as a function that can be traced: fixed weights, and ids that are checked inside.

Shapes: N pictures, S classes, Z latent size, R resolution.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from cgt.errors import UserError
from cgt.export.base import Input, Model, Options
from cgt.models.banks import banks_of, with_classes
from cgt.models.biggan import Generator
from cgt.models.folder import for_use
from cgt.models.mixing import mixed
from cgt.models.sampling import latent_range

OUTPUT = "images"
EXAMPLES = 3
"""Pictures of the batch that is traced: neither 0 nor 1, which tracing takes for fixed."""


def folded(generator: Generator, classes: Iterable[str] | None = None) -> Generator:
    """A copy for use alone, with these classes (None for all)."""
    copied = for_use(copy.deepcopy(generator))
    return copied if classes is None else with_classes(copied, set(classes))


def traceable(model: Model, options: Options) -> Generator:
    """`folded`, of a model that a graph can hold.

    Raises:
        UserError: a bank looks for its pictures by gradient steps.
    """
    latent_range(model.generator, options.truncation)  # refuses what it has no statistics for
    generator = folded(model.generator, options.classes)
    # A graph for any number of pictures is traced as for one, and holds no kernels that it never uses.
    generator.keep_kernels(pictures=1)
    # What is laid out otherwise, torch.export.save warns of.
    generator.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stubs lack it
    for bank in banks_of(generator):
        if bank.kind == "steered":
            raise UserError(
                f"the classes {', '.join(bank.classes)} are steered (ppgn): each picture takes gradient "
                "steps inside the forward pass, which no graph can hold. Export the others with --classes, "
                "or all with --format safetensors."
            )
    return generator


class ByClass(nn.Module):
    """Pictures of z and class ids. An id that there is not gives a picture of NaN: never another class."""

    def __init__(self, generator: Generator, level: float) -> None:
        super().__init__()
        self.generator = generator
        self.level = level
        self.classes = len(generator.classes)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Pictures (N, 3, R, R) in [-1, 1] of z (N, Z) and ids y (N,)."""
        known = (y >= 0) & (y < self.classes)
        images: Tensor = self.generator(z, torch.where(known, y, 0), truncation=self.level)
        return torch.where(known[:, None, None, None], images, torch.nan)


class ByWeights(nn.Module):
    """Pictures of z and a weight for every class."""

    def __init__(self, generator: Generator, level: float) -> None:
        super().__init__()
        self.generator = generator
        self.level = level

    def forward(self, z: Tensor, weights: Tensor) -> Tensor:
        """Pictures (N, 3, R, R) in [-1, 1] of z (N, Z) and weights (N, S)."""
        return mixed(self.generator, z, weights, truncation=self.level)


def traced(generator: Generator, options: Options, *, mixing: bool = False) -> ExportedProgram:
    """The generator as a graph for any number of pictures, by class id or by weights.

    Of statistics that go by truncation it has those of the options'.
    """
    z = torch.zeros(EXAMPLES, generator.dim_z)
    second = "weights" if mixing else "y"
    number = torch.full((EXAMPLES, len(generator.classes)), 1.0) if mixing else torch.zeros(EXAMPLES).long()
    batch = Dim("batch", min=1)
    network = (ByWeights if mixing else ByClass)(generator, generator.level(options.truncation)).eval()
    with torch.no_grad():
        program = torch.export.export(
            network, (z, number), dynamic_shapes={"z": {0: batch}, second: {0: batch}}, strict=False
        )
    for node in program.graph.nodes:  # the lines of code behind each, with their paths on this machine
        node.meta.pop("stack_trace", None)
    return program


def inputs(generator: Generator, options: Options) -> tuple[Input, ...]:
    """What goes into a graph, and what comes out."""
    n, size = len(generator.classes), generator.resolution
    cut, factor = latent_range(generator, options.truncation)
    drawn = "any; N(0, 1) in training, and nearer to 0 for less variety and better pictures"
    if cut is not None:
        drawn = f"N(0, 1) within {-cut:g} and {cut:g}: draw again what is beyond"
    if factor != 1:
        drawn += f"; then multiplied by {factor:g}, for which the batch-norm statistics are"
    rows = [
        Input(name="z", shape=f"float32 (N, {generator.dim_z})", meaning=drawn),
        Input(
            name="y",
            shape="int64 (N,)",
            meaning=f"class ids, 0 to {n - 1}; any other gives a picture of NaN, never another class's",
        ),
    ]
    if options.mixing:
        rows.append(
            Input(
                name="weights",
                shape=f"float32 (N, {n})",
                meaning="in place of y, in the second file: of each class, from 0 to 1 with the sum 1; "
                "beyond that they extrapolate",
            )
        )
    return (*rows, Input(name=OUTPUT, shape=f"float32 (N, 3, {size}, {size})", meaning="RGB in [-1, 1]"))


def facts(generator: Generator, options: Options) -> Mapping[str, object]:
    """What a program needs to know of a graph, as plain values."""
    return {
        "classes": list(generator.classes),
        "dim_z": generator.dim_z,
        "resolution": generator.resolution,
        "truncation": options.truncation,
    }


def torch_program(generator: Generator, options: Options, lines: Sequence[str], package: str) -> str:
    """Lines that load what was exported as `network`, and then draw z and make eight pictures of a class."""
    size, last = generator.dim_z, len(generator.classes) - 1
    cut, factor = latent_range(generator, options.truncation)
    z = f"torch.randn(8, {size})"
    if cut is not None:
        z = f"torch.nn.init.trunc_normal_(torch.empty(8, {size}), a={-cut:g}, b={cut:g})"
    if factor != 1:
        z += f" * {factor:g}"
    return "\n".join(
        [
            package,
            "",
            *lines,
            f"z = {z}",
            f"y = torch.full((8,), {last})  # {generator.classes[last]}",
            "images = network(z, y)  # in [-1, 1]",
            "pixels = ((images + 1) * 127.5).round().clamp(0, 255).byte()  # in 0..255",
            "print(tuple(pixels.shape), pixels.float().mean().item())",
        ]
    )


def size_of(generator: Generator) -> int:
    """Bytes of all its tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in generator.state_dict().values())
