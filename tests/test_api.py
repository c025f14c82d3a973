"""What `import cgt` gives."""

import subprocess
import sys

import pytest

import cgt


def test_every_public_name_is_there() -> None:
    for name in cgt.__all__:
        assert getattr(cgt, name) is not None


def test_the_networks_are_the_ones_of_the_models() -> None:
    from cgt.models.biggan import Generator
    from cgt.models.folder import load_generator

    assert cgt.Generator is Generator
    assert cgt.load_generator is load_generator


def test_an_unknown_name_is_refused_as_of_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'cgt' has no attribute 'generator'"):
        _ = cgt.generator  # type: ignore[attr-defined]


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, cgt; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
