"""Models to export, and what was exported of them, once for all tests."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cgt.cli import main
from cgt.models.folder import save_model
from tests import tiny
from tests.models.extended import extended

CONFIGS = {"flat": tiny.PER_LAYER, "hierarchical": tiny.HIERARCHICAL, "deep": tiny.DEEP}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of generators with three banks, one of them mined; of both conditionings."""
    root = tmp_path_factory.mktemp("models")
    for name, config in CONFIGS.items():
        pair = tiny.source(config)
        save_model(root / name, extended(config), pair.discriminator, provenance={"step": 3})
    return {name: root / name for name in CONFIGS}


@pytest.fixture(scope="session")
def exported(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder that `cgt export` makes of a model, made when it is first asked for."""
    root = tmp_path_factory.mktemp("exports")

    def export(model: str, target: str, *words: str) -> Path:
        out = root / "-".join([model, target, *words]).replace("/", "_")
        if not out.exists():
            assert main(["export", str(models[model]), str(out), "--format", target, *words]) == 0
        return out

    return export


@pytest.fixture
def run_card() -> Callable[[Path], str]:
    """Runs the program of a folder's export card there, with no cgt of the checkout; gives what it prints."""

    def run(folder: Path, *, with_cgt: bool = False) -> str:
        card = (folder / "README.md").read_text(encoding="utf-8").partition("# Exported as")[2]
        (program,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        assert len([line for line in program.splitlines() if line]) <= 11
        path = {"PYTHONPATH": str(Path(__file__).parents[2])} if with_cgt else {}
        if not with_cgt:
            program += "\nimport sys\nassert 'cgt' not in sys.modules"
        result = subprocess.run(
            [sys.executable, "-c", program],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", **path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run
