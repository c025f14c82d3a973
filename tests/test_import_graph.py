"""The shape of the code: which part may import which, how long and how named its files are."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "cgt").rglob("*.py"))
}

LEVELS = [
    ["cgt.__main__"],
    ["cgt.cli"],
    ["cgt.doctor", "cgt.report"],
    ["cgt.training", "cgt.metrics", "cgt.interop", "cgt.export", "cgt.data"],
    ["cgt.transfer"],
    ["cgt.training.losses", "cgt.training.ema", "cgt.training.optim"],
    ["cgt.models"],
    ["cgt.runs", "cgt.progress", "cgt.distributed", "cgt.launching", "cgt.batch_scripts"],
    ["cgt.config", "cgt.images", "cgt.launch_files"],
    ["cgt.catalog", "cgt.files", "cgt.rng", "cgt.threads", "cgt.wording"],
    ["cgt.errors", "cgt"],
]
"""A module imports from its own part and from parts on lower levels."""

SIDEWAYS = {
    ("cgt.training", "cgt.data"),
    ("cgt.training", "cgt.metrics"),
    ("cgt.metrics", "cgt.data"),
    ("cgt.export", "cgt.interop"),  # what a format calls its tensors is the same on the way in and back
}
"""Who may use whom on one level."""

MODELS_MAY_USE = {
    "cgt.models.card": {"cgt", "cgt.files", "cgt.rng", "cgt.wording"},
    "cgt.models.films": {"cgt.images"},
    "cgt.models.folder": {"cgt.errors", "cgt.files"},
    "cgt.models.hub": {"cgt.errors"},
    "cgt.models.interface": {"cgt", "cgt.errors"},
    "cgt.models.mixes": {"cgt.errors"},
    "cgt.models.naming": {"cgt.catalog", "cgt.errors"},
    "cgt.models.record": {"cgt.errors"},
    "cgt.models.sampling": {"cgt.errors", "cgt.images", "cgt.rng"},
}
"""Beside `cgt.models` itself: networks import torch alone."""


def part_of(module: str) -> str:
    """The entry of LEVELS that `module` belongs to: the longest name it begins with."""
    parts = [part for level in LEVELS for part in level if module == part or module.startswith(f"{part}.")]
    best = max(parts, key=len)
    assert best != "cgt" or module == "cgt", f"{module} has no level: give it one in LEVELS"
    return best


def level_of(part: str) -> int:
    return next(index for index, level in enumerate(LEVELS) if part in level)


def imports(module: str) -> Iterator[str]:
    """The modules that `module` names in its import statements, wherever these stand."""
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            source = node.module or ""
            inner = [f"{source}.{alias.name}" for alias in node.names if f"{source}.{alias.name}" in SOURCES]
            yield from inner
            if len(inner) < len(node.names):
                yield source


def own_imports(module: str) -> set[str]:
    """Of cgt's own modules. The package itself hands on the networks, and imports them only when asked."""
    return set() if module == "cgt" else {name for name in imports(module) if name in SOURCES}


@pytest.mark.parametrize("module", list(SOURCES))
def test_imports_point_down(module: str) -> None:
    part = part_of(module)
    for target in own_imports(module):
        other = part_of(target)
        down = level_of(other) > level_of(part)
        assert other == part or down or (part, other) in SIDEWAYS, f"{module} must not import {target}"


@pytest.mark.parametrize("module", [name for name in SOURCES if part_of(name) == "cgt.models"])
def test_networks_depend_on_torch_alone(module: str) -> None:
    allowed = MODELS_MAY_USE.get(module, set())
    for target in own_imports(module):
        assert part_of(target) == "cgt.models" or target in allowed, f"{module} must not import {target}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graphlib.TopologicalSorter({module: own_imports(module) - {module} for module in SOURCES}).prepare()


@pytest.mark.parametrize("module", [name for name in SOURCES if name != "cgt.distributed"])
def test_only_one_module_knows_of_other_processes(module: str) -> None:
    for name in imports(module):
        known = r"(accelerate(?!\.tracking\b)|torch\.distributed(?!\.checkpoint)|torch\.nn\.parallel)\b"
        assert not re.match(known, name), name
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) != "torch.distributed", f"line {node.lineno}"


@pytest.mark.parametrize("module", [name for name in SOURCES if name not in ("cgt.catalog", "cgt.cli")])
def test_modules_are_chosen_by_name_in_one_place(module: str) -> None:
    source = SOURCES[module].read_text(encoding="utf-8")
    assert "import_module" not in source
    assert "__import__" not in source


def test_every_module_can_be_imported_first() -> None:
    """One process: what is not ours stays imported, what is ours is imported anew for every module."""
    code = f"""
import importlib, sys, traceback
failed = []
for module in {list(SOURCES)!r}:
    if module == "cgt.__main__":
        continue
    for name in [name for name in sys.modules if name.partition(".")[0] == "cgt"]:
        del sys.modules[name]
    try:
        importlib.import_module(module)
    except Exception:
        failed.append(module)
        traceback.print_exc()
sys.exit(", ".join(failed) or None)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


PYTHON_FILES = [
    path
    for folder in ("cgt", "tests", "tools", "launch", "configs")
    for path in (ROOT / folder).rglob("*.py")
]


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_named_for_what_it_holds_and_is_short(path: Path) -> None:
    assert not re.search(r"(^|_)(utils?|helpers?|misc|common)(_|$)", path.stem)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_nothing_that_is_tracked_leans_on_folders_outside_the_checkout() -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    outside = re.compile(r"/[w]ork\b|\.\./[s]hared\b|/[r]oot\b|/[h]ome/\w|file:/[/]/")
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            found = outside.search(content.decode("utf-8", errors="replace"))
            assert found is None, f"{name} mentions {found and found.group()}"
