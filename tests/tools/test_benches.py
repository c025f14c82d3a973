"""Every bench of training runs, at sizes at which its numbers mean nothing, and prints its rows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHES = Path(__file__).parents[2] / "tools" / "bench"
TINY = "--ch 2 --source-classes 3 --classes 2 --batch-size 4"
RUNS = {
    f"step.py transfer {TINY} --turns 1 --threads 1 --rows reference naive fp32 bf16": [
        "reference",
        "naive",
        "ours, fp32",
        "ours, bf16",
    ],
    f"memory.py {TINY} --rows reference fp32 checkpointing": [
        "reference",
        "ours, fp32",
        "ours, checkpointing",
    ],
    "ema.py --model 32 --turns 1 --ranks 1 3": ["loop", "ours", "ours, one of 3"],
    f"scaling.py {TINY} --steps 1": ["1", "2"],
    "metrics.py --features 300 --dim 64 --kmmd 200 --prdc 100": [
        "kmmd",
        "prdc",
        "cgt",
        "torchmetrics",
        "scipy.linalg.sqrtm",
    ],
    "propagation.py --model 32 --source-classes 3 --classes 2 --turns 1": ["32 px, 3, 2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("words", RUNS)
def test_a_bench_prints_its_rows(words: str) -> None:
    program, *arguments = words.split()
    result = subprocess.run(
        [sys.executable, BENCHES / program, *arguments],
        env=os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    rows = [line.split("│")[1].strip() for line in result.stdout.splitlines() if line.startswith("│")]
    assert rows == RUNS[words]


@pytest.mark.parametrize(
    "program",
    sorted(path.name for path in BENCHES.glob("*.py") if '__name__ == "__main__"' in path.read_text("utf-8")),
)
def test_a_bench_says_how_it_is_run(program: str) -> None:
    docstring = (BENCHES / program).read_text("utf-8").split('"""')[1]
    assert f"python tools/bench/{program}" in docstring
