"""Metrics at full size: time of the Frechet distance beside two other routes, and memory of all pairs.

    python tools/bench/metrics.py [--features N] [--dim D] [--kmmd N] [--prdc N] [--turns N] [--threads N]

The Frechet distance is timed from the features on: statistics of both sides, given in batches as an
evaluation gives them to torchmetrics' and to ours, and the distance. Features are drawn, with a spectrum that
falls as Inception's does. Memory is the most that a process of its own held, torch and the features
included. At the sizes given by default (those of published results) it takes some ten minutes a core; `0`
leaves a part out.
"""

import argparse
import multiprocessing
import time
import warnings
from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch
from measuring import forget_peak, peak
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from cgt import rng
from cgt.metrics.features.base import Features
from cgt.metrics.fid import FrechetDistance
from cgt.metrics.kmmd import kernel_mmd
from cgt.metrics.prdc import precision_recall_density_coverage

BATCH = 64
FACTORS = 64


def drawn(n: int, dim: int, kind: str) -> Tensor:
    """Features (n, dim), float32: some common factors and noise, of falling variance."""
    scale_D = torch.logspace(0, -2, dim)
    factors_FD = rng.normal((FACTORS, dim), 0, "bench factors") / FACTORS**0.5
    x_ND = rng.normal((n, FACTORS), 0, f"bench {kind}") @ factors_FD
    return x_ND.add_(rng.normal((n, dim), 1, f"bench {kind}")).mul_(scale_D).add_(0.1 * len(kind))


class Given(torch.nn.Module):
    """What torchmetrics takes for an extractor, whose pictures are features already."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_features = dim

    def forward(self, x_ND: Tensor) -> Tensor:
        """The same."""
        return x_ND


def by_ours(real_ND: Tensor, fake_ND: Tensor) -> float:
    """The Frechet distance by `cgt`."""
    metric = FrechetDistance(real_ND.shape[1])
    for real, x_ND in ((True, real_ND), (False, fake_ND)):
        for part in x_ND.split(BATCH):
            metric.update(Features(part), torch.zeros(len(part), dtype=torch.long), real=real)
    return metric.compute()["fid"]


def by_torchmetrics(real_ND: Tensor, fake_ND: Tensor) -> float:
    """The same by torchmetrics."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = FrechetInceptionDistance(feature=Given(real_ND.shape[1]))
    for real, x_ND in ((True, real_ND), (False, fake_ND)):
        for part in x_ND.split(BATCH):
            metric.update(part, real=real)
    return float(metric.compute())


def by_scipy(real_ND: Tensor, fake_ND: Tensor) -> float:
    """The same as the first programs computed it: numpy's covariances and the matrix square root."""
    x, y = real_ND.double().numpy(), fake_ND.double().numpy()
    covariance_x, covariance_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(covariance_x @ covariance_y).real
    means = np.sum((x.mean(0) - y.mean(0)) ** 2)
    return float(means + np.trace(covariance_x) + np.trace(covariance_y) - 2 * np.trace(root))


def frechet(n: int, dim: int, turns: int) -> Table:
    """The table of the Frechet distance; each route counts with its best turn.

    CPU-seconds compare on a busy machine, too; seconds are what several threads gain.
    """
    real_ND, fake_ND = drawn(n, dim, "real"), drawn(n, dim, "generated")
    routes = {"cgt": by_ours, "torchmetrics": by_torchmetrics, "scipy.linalg.sqrtm": by_scipy}
    wall, cpu = dict.fromkeys(routes, float("inf")), dict.fromkeys(routes, float("inf"))
    values: dict[str, float] = {}
    for _ in range(turns):
        for name, route in routes.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            values[name] = route(real_ND, fake_ND)
            wall[name] = min(wall[name], time.perf_counter() - start)
            cpu[name] = min(cpu[name], time.process_time() - cpu_start)
    title = f"Frechet distance, 2 x {n:,} x {dim}"
    table = Table(title, "s", "times cgt's", "CPU-s", "times cgt's", "off by")
    for name in routes:
        times = [
            text
            for seconds in (wall, cpu)
            for text in (f"{seconds[name]:.1f}", f"{seconds[name] / seconds['cgt']:.2f}")
        ]
        table.add_row(name, *times, f"{abs(values[name] / values['cgt'] - 1):.1e}")
    return table


def kmmd(real_ND: Tensor, fake_ND: Tensor) -> None:
    """What the memory of KMMD is measured by."""
    kernel_mmd(real_ND, fake_ND)


def prdc(real_ND: Tensor, fake_ND: Tensor) -> None:
    """What the memory of precision and recall is measured by."""
    precision_recall_density_coverage(real_ND, fake_ND)


def alone(function: Callable[[Tensor, Tensor], None], n: int, dim: int, threads: int) -> tuple[float, ...]:
    """Seconds that `function` takes, MiB that the process held before and at most, on Linux."""
    torch.set_num_threads(threads)
    features = drawn(n, dim, "real"), drawn(n, dim, "generated")
    forget_peak()  # what drawing them took at most
    before = peak()
    start = time.perf_counter()
    function(*features)
    return time.perf_counter() - start, before / 2**20, peak() / 2**20


def pairs(sizes: dict[str, int], dim: int, threads: int) -> Table:
    """The table of the metrics over pairs, each in a process of its own."""
    table = Table(f"all pairs, {dim} dimensions", "pictures", "s", "MiB before", "MiB at most")
    for function in (kmmd, prdc):
        n = sizes[function.__name__]
        if n:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, before, most = pool.apply(alone, (function, n, dim, threads))
            table.add_row(
                function.__name__, f"{n:,} x {n:,}", f"{seconds:.1f}", f"{before:,.0f}", f"{most:,.0f}"
            )
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--features", type=int, default=50_000, help="of either side, for the Frechet distance"
    )
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--kmmd", type=int, default=50_000, help="pictures of either side")
    parser.add_argument("--prdc", type=int, default=10_000, help="pictures of either side")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    console = Console()
    if words.kmmd or words.prdc:
        console.print(pairs({"kmmd": words.kmmd, "prdc": words.prdc}, words.dim, words.threads))
    if words.features:
        console.print(frechet(words.features, words.dim, words.turns))


if __name__ == "__main__":
    main()
