"""Class tables of all sites, forward and backward: our block, per class, beside the same per sample.

    python tools/bench/propagation.py [--model 32|128|256] [--source-classes N] [--classes M] [--batch B]

"Per class" builds the tables of the M new classes once, by one product for each distinct width, and looks up
each sample's rows; "per sample" multiplies scores and prior for every sample of the batch at every site. Both
end in scale and shift of every sample at every site, and take the same gradients back. Before anything is
timed the two must agree in float64, tables and all gradients.

What bounds the first is memory: the prior is read for the tables, read again for the scores' gradient, and
its own gradient is written, with 2 M operations on each number each time. So its bytes, counted from the
shapes, by its time are shown against a copy's, which is measured in the same run. (Where a processor is slow
for its memory these operations bound it, too.) The second does B / M times as much arithmetic, which bounds
it.
"""

import argparse
import functools
import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from measuring import Call, copy, device, in_turns, machine
from reference_sites import Site, gradients_by_bank, sites_of
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cgt import rng
from cgt.models.layouts import GeneratorConfig
from cgt.models.norm import ClassTables
from cgt.transfer.propagation import PropagatedBank

CH = {32: 64, 128: 96, 256: 96}
"""Channel multipliers of the published models."""
Made = Callable[[Tensor], list[Tensor]]


def widths_of(resolution: int) -> list[int]:
    """C of every site of BigGAN, from the image's far end to the near one."""
    widths = GeneratorConfig(ch=CH[resolution]).widths(resolution)
    return [width for pair in itertools.pairwise(widths) for width in pair]


def block(widths: Sequence[int], source_classes: int, classes: int) -> PropagatedBank:
    """A propagation block of random numbers, none of which is 0."""
    draws = itertools.count()

    def drawn(*shape: int) -> Tensor:
        return rng.normal(shape, 0, "bench", next(draws))

    prior = ClassTables(*(tuple(0.1 * drawn(source_classes, width) for width in widths) for _ in range(2)))
    scores_L2NM = drawn(len(widths), 2, source_classes, classes) / source_classes**0.5
    bank = PropagatedBank([f"class {i}" for i in range(classes)], prior, widths[-1], scores_L2NM)
    with torch.no_grad():
        for residual_GMC in bank.residuals:
            residual_GMC.copy_(0.1 * drawn(*residual_GMC.shape))
    return bank


def per_class(bank: PropagatedBank) -> Made:
    """Scale and shift (B, C) of all samples y at all sites, by our block."""

    def made(y_B: Tensor) -> list[Tensor]:
        tables = bank.tables()
        return [
            made_BC
            for scale_MC, shift_MC in zip(tables.scale, tables.shift, strict=True)
            for made_BC in (1 + F.embedding(y_B, scale_MC), F.embedding(y_B, shift_MC))
        ]

    return made


def per_sample(sites: Sequence[Site], classes: int) -> Made:
    """The same, by the literal formulation."""

    def made(y_B: Tensor) -> list[Tensor]:
        one_hot_BM = F.one_hot(y_B, classes).to(sites[0].scale.prior_CN.dtype)
        return [made_BC for site in sites for made_BC in site.conditions(one_hot_BM, None)]

    return made


def forward_and_backward(made: Made, parameters: Sequence[Tensor], y_B: Tensor, grads: list[Tensor]) -> None:
    """One forward, and one backward pass to gradients of their own."""
    for parameter in parameters:
        parameter.grad = None
    torch.autograd.backward(made(y_B), grads)


def disagreement(bank: PropagatedBank, y_B: Tensor, grads: Sequence[Tensor]) -> float:
    """The largest relative difference between both formulations in a table or a gradient, in float64."""
    sites = sites_of(bank, eps=1e-5)
    tables = []
    for made in (per_class(bank), per_sample(sites, len(bank.classes))):
        made_by_it = made(y_B)
        torch.autograd.backward(made_by_it, list(grads))
        tables.append([made_BC.detach() for made_BC in made_by_it])
    expected = gradients_by_bank(bank, sites)
    own = {name: parameter.grad for name, parameter in bank.named_parameters()}
    assert own.keys() == expected.keys()
    pairs = [*zip(*tables, strict=True), *((own[name], expected[name]) for name in expected)]
    return max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs)


def bytes_moved(bank: PropagatedBank, batch: int) -> int:
    """What the block, per class, can't but read and write in a forward and a backward pass."""
    prior, scores, residuals = (
        sum(int(parameter.nbytes) for parameter in group)
        for group in (bank.prior, bank.scores, bank.residuals)
    )
    rows = batch * residuals // len(bank.classes)
    # Forward: read all three, write tables, read and write rows. Backward: read rows' gradients, write and
    # read the tables', write the three's, read prior and scores again.
    return (prior + scores + residuals) + residuals + 2 * rows + rows + 3 * residuals + 2 * (prior + scores)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=int, choices=CH, nargs="+", default=[128], help="whose widths")
    parser.add_argument("--source-classes", type=int, nargs="+", default=[1000], help="N")
    parser.add_argument("--classes", type=int, nargs="+", default=[20], help="M")
    parser.add_argument("--batch", type=int, default=256, help="B")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    where = device()
    copying, copied = copy()
    table = Table(
        "BigGAN, N, M", "off by", "per class, ms", "per sample, ms", "times (CPU)", "MB", "GB/s (copy)"
    )
    for model, n, m in itertools.product(words.model, words.source_classes, words.classes):
        widths = widths_of(model)
        bank = block(widths, n, m).to(where)
        y_B = rng.integers(words.batch, m, 0, "bench classes").to(where)
        grads = [
            rng.normal((words.batch, width), i, "bench gradients").to(where)
            for i, width in enumerate(width for width in widths for _ in range(2))
        ]
        off = disagreement(bank.double(), y_B, [grad.double() for grad in grads])
        if not off <= 1e-6:
            raise SystemExit(f"the two formulations differ by {off:.1e} in float64: nothing is timed.")
        sites = sites_of(bank.float(), eps=1e-5)
        of_sites = [parameter for site in sites for parameter in site.parameters()]
        calls: dict[str, Call] = {
            "class": functools.partial(
                forward_and_backward, per_class(bank), list(bank.parameters()), y_B, grads
            ),
            "sample": functools.partial(forward_and_backward, per_sample(sites, m), of_sites, y_B, grads),
            "copy": copying,
        }
        times = in_turns(calls, words.turns)
        ours, literal, ceiling = times["class"], times["sample"], copied / times["copy"].seconds
        moved = bytes_moved(bank, words.batch)
        table.add_row(
            f"{model} px, {n:,}, {m}",
            f"{off:.0e}",
            f"{ours.seconds * 1000:.2f}",
            f"{literal.seconds * 1000:.2f}",
            f"{literal.seconds / ours.seconds:.2f} ({literal.cpu / ours.cpu:.2f})",
            f"{moved / 1e6:.0f}",
            f"{moved / ours.seconds / 1e9:.1f} ({ceiling / 1e9:.1f})",
        )
    console = Console()
    console.print(f"batch {words.batch}, forward and backward, float32; {machine()}", highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
