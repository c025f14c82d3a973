"""What every target promises, whichever files there are."""

from dataclasses import fields
from pathlib import Path

import pytest

from cgt import catalog
from cgt.export.base import Options
from cgt.files import FolderKind

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
TARGETS = catalog.names("cgt.export")


@pytest.mark.parametrize("target", TARGETS)
def test_it_says_what_it_takes_and_what_it_writes(target: str) -> None:
    module = catalog.load("cgt.export", target, kind="export format")
    assert {option.name for option in fields(Options)} - {"verify"} >= module.OPTIONS
    assert isinstance(module.KIND, FolderKind)
    assert callable(module.export)


@pytest.mark.parametrize("target", TARGETS)
def test_it_is_on_the_page(target: str) -> None:
    assert f"| `{target}` |" in PAGE
