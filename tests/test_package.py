"""What comes out of a wheel, installed apart from the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from cgt import __version__

ROOT = Path(__file__).parents[1]
PACKAGING = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs programs of a virtual environment with cgt's wheel, and with this interpreter's other packages."""
    folder = tmp_path_factory.mktemp("package")
    sources = folder / "sources"
    for name in ("cgt", "configs", "launch"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    build = "import sys, setuptools.build_meta as backend; print(backend.build_wheel(sys.argv[1]))"
    wheel = subprocess.run(
        [sys.executable, "-c", build, folder], cwd=sources, capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]

    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", folder / wheel], check=True)
    (site,) = (environment / "lib").glob("*/site-packages")
    (site / "packages_of_the_tests.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [environment / "bin" / program, *words]
        return subprocess.run(command, cwd=elsewhere, env=clean, capture_output=True, text=True, check=False)

    return run


def shipped_files(folder: str, suffix: str) -> list[str]:
    return sorted(path.relative_to(ROOT / folder).as_posix() for path in (ROOT / folder).rglob(f"*.{suffix}"))


def answer(installed: Run, code: str) -> object:
    """What `code` leaves in `answer`."""
    result = installed("python", "-c", f"import json\n{code}\nprint(json.dumps(answer))")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_wheel_is_what_is_imported_not_the_checkout(installed: Run) -> None:
    found = answer(
        installed, "import cgt, cgt.configs, cgt.launch\nanswer = [cgt.__file__, *cgt.configs.__path__]"
    )
    assert isinstance(found, list)
    assert all("environment" in path and str(ROOT) not in path for path in found)


def test_the_command_runs(installed: Run) -> None:
    version = installed("cgt", "--version")
    assert (version.returncode, version.stdout) == (0, f"cgt {__version__}\n")
    assert installed("cgt", "--help").returncode == 0
    refused = installed("cgt", "pretrain", "no/such/config")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: there is no config 'no/such/config'")


def test_every_config_is_found(installed: Run) -> None:
    names = [name.removesuffix(".yaml") for name in shipped_files("configs", "yaml")]
    assert answer(installed, "from cgt.config import shipped\nanswer = shipped()") == names


@pytest.mark.parametrize(("folder", "suffix"), [("configs", "txt"), ("launch", "yaml"), ("launch", "sbatch")])
def test_every_list_of_classes_and_every_launch_file_is_found(
    folder: str, suffix: str, installed: Run
) -> None:
    names = shipped_files(folder, suffix)
    code = f"""
from importlib.resources import files
answer = [name for name in {names!r} if files("cgt.{folder}").joinpath(name).is_file()]
"""
    assert names
    assert answer(installed, code) == names


def test_the_package_says_that_it_is_typed_and_carries_its_licence(installed: Run) -> None:
    code = """
from importlib.metadata import files
answer = [str(path) for path in files("cgt")]
"""
    found = answer(installed, code)
    assert isinstance(found, list)
    assert "cgt/py.typed" in found
    assert any(path.endswith("licenses/LICENSE") for path in found)


def test_every_package_folder_is_listed() -> None:
    """One that is not would be missing from the wheel, yet work in the checkout."""
    folders = {
        ".".join([package, *path.parent.relative_to(ROOT / folder).parts])
        for folder, package in (("cgt", "cgt"), ("configs", "cgt.configs"), ("launch", "cgt.launch"))
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(PACKAGING["tool"]["setuptools"]["packages"]) == folders


@pytest.mark.parametrize("folder", ["cgt", "configs", "launch"])
def test_every_folder_with_files_is_a_package(folder: str) -> None:
    for path in (ROOT / folder).rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py"


@pytest.mark.parametrize("name", ["single", "cpu"])
@pytest.mark.slow
def test_the_launch_files_start_a_process(name: str, tmp_path: Path) -> None:
    config = ROOT / "launch" / "accelerate" / f"{name}.yaml"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    result = subprocess.run(
        [*launcher, "-m", "cgt", "doctor", "--json", tmp_path / "found.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "found.json").read_text())["cgt"] == __version__
