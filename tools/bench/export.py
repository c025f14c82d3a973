"""Time of a batch of pictures by what a model can be exported as, with ratios to the model as it was trained.

    python tools/bench/export.py [--resolution 32|128] [--batch N ...] [--turns N] [--only ROW ...]

32 px: ch 64, per-layer tables; 128 px: ch 96, a shared embedding, hierarchical z and attention at 64 px; 1000
classes each, of random weights. "Unfolded" is the generator as a training run saves it, in eval mode, whose
every forward pass has a power iteration and a division in each layer and makes the class tables anew. "Plain
layout" is folded, but without convolutions laid out channels_last. All run in inference mode, on the CPU.
Rows are timed in turns, and each counts with its best; the second ratio is of CPU-seconds. On a machine that
has other work the first one misleads, for rows wait differently for threads that are kept from their cores:
leave cores free by `--threads`.
"""

import argparse
import contextlib
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import Times, in_turns, positive
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cgt import rng
from cgt.export import onnx, torch_export
from cgt.export.base import Model, Options
from cgt.export.graphs import folded
from cgt.models.biggan import Generator, GeneratorConfig

SHAPES = {
    32: GeneratorConfig(ch=64, dim_z=128),
    128: GeneratorConfig(ch=96, dim_z=120, shared_dim=128, hierarchical=True, attention=(64,)),
}
CLASSES = [f"class {number}" for number in range(1000)]
Call = Callable[[Tensor, Tensor], object]


def exported_onnx(model: Model, folder: Path) -> Call:
    """In onnxruntime, with as many threads as torch has."""
    import onnxruntime

    onnx.export(model, folder, Options(verify=False))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(folder / onnx.FILE), options)
    return lambda z, y: session.run(["images"], {"z": z.numpy(), "y": y.numpy()})


def exported_program(model: Model, folder: Path) -> Call:
    """A torch.export program, read again."""
    torch_export.export(model, folder, Options(verify=False))
    return torch_export.opened(folder / torch_export.FILE)


def plain_layout(model: Model) -> Call:
    """Folded, with weights in torch's default memory layout."""
    generator: Call = folded(model.generator).to(memory_format=torch.contiguous_format)
    return generator


def compiled(model: Model) -> Call:
    """Folded and compiled; the turns that warm up, which compile, do not count."""
    call: Call = torch.compile(folded(model.generator))
    return call


def measure(calls: dict[str, Call], model: Model, batch: int, turns: int) -> dict[str, Times]:
    """Of a batch for each row, in its best turn."""
    z_NZ = rng.normal((batch, model.generator.dim_z), 0, "bench")
    y_N = rng.integers(batch, len(CLASSES), 0, "bench classes")
    return in_turns({name: functools.partial(call, z_NZ, y_N) for name, call in calls.items()}, turns)


def _cell(unfolded: Times, row: Times) -> str:
    by_clock, by_cpu = unfolded.seconds / row.seconds, unfolded.cpu / row.cpu
    return f"{row.seconds * 1000:,.1f} ({by_clock:.2f}, {by_cpu:.2f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resolution", type=int, choices=SHAPES, default=32)
    parser.add_argument("--batch", type=positive, nargs="+", default=[1, 8])
    parser.add_argument("--turns", type=positive, default=3)
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", default=[], help="rows to measure beside the first, by name")
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    size = words.resolution
    with rng.seeded_globally(0, "bench"):
        generator = Generator(SHAPES[size], size, CLASSES).eval().requires_grad_(False)
    model = Model(Path("random"), generator, None, {})
    with contextlib.ExitStack() as stack:

        def folder() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory()))

        rows: dict[str, Callable[[], Call]] = {
            "unfolded": lambda: generator,
            "folded": lambda: folded(generator),
            "plain-layout": lambda: plain_layout(model),
            "compiled": lambda: compiled(model),
            "onnxruntime": lambda: exported_onnx(model, folder()),
            "torch-export": lambda: exported_program(model, folder()),
        }
        if unknown := set(words.only) - rows.keys():
            parser.error(f"no row is called {', '.join(unknown)}: there are {', '.join(rows)}")
        wanted = {
            name: make for name, make in rows.items() if not words.only or name in ("unfolded", *words.only)
        }
        calls = {name: make() for name, make in wanted.items()}
        with torch.inference_mode():
            columns = [measure(calls, model, batch, words.turns) for batch in words.batch]
    title = (
        f"{size} px, {words.threads} threads: ms a batch (times as fast as unfolded, by the clock and by CPU)"
    )
    table = Table(title, *(f"batch {batch}" for batch in words.batch))
    for name in calls:
        table.add_row(name, *(_cell(column["unfolded"], column[name]) for column in columns))
    Console().print(table)


if __name__ == "__main__":
    main()
