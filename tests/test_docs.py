"""What README, docs and docstrings show: programs run, and command lines are ones that `cgt` takes.

A snippet that can't run here has a line `<!-- not run: REASON -->` in front. Fences that are called "python"
are run in a folder with tiny models; in the others every line that begins with `cgt ` is parsed, and those of
verbs that are quick on such models are run.
"""

import doctest
import importlib
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

from cgt import cli, rng
from cgt.models.biggan import Generator, GeneratorConfig
from cgt.models.folder import load_generator, save_model

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = {"sample", "banks"}
"""Verbs that take moments where models are tiny."""
BANKS = {
    "source": [("tench", "alley")],
    "new": [("tench", "goldfish", "lion"), ("alley", "arch")],
    "birds": [("tench", "alley"), ("robin", "wren", "finch")],
    "fish": [("tench", "alley"), ("pike", "carp")],
    "trees": [("tench", "alley"), ("robin", "wren", "finch"), ("oak",)],
}
"""Classes of the models that the pages speak of, bank by bank."""


class Snippet(NamedTuple):
    """A fence of a page."""

    place: str
    language: str
    text: str
    not_run: str | None


def snippets() -> Iterator[Snippet]:
    fence = re.compile(r"^(?:<!-- not run: (.+) -->\n+)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in fence.finditer(text):
            line = text.count("\n", 0, found.start(3)) + 1
            yield Snippet(f"{page.relative_to(ROOT)}:{line}", found[2], found[3], found[1])


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every line of a fence that begins with `cgt `, as words."""
    for snippet in snippets():
        if snippet.language in ("", "sh", "bash") and snippet.not_run is None:
            for line in snippet.text.replace("\\\n", " ").splitlines():
                if line.startswith("cgt "):
                    yield snippet.place, shlex.split(line, comments=True)[1:]


PROGRAMS = [snippet for snippet in snippets() if snippet.language == "python" and snippet.not_run is None]
COMMANDS = list(commands())
QUICK = [(place, words) for place, words in COMMANDS if words[0] in RUN]
DOCUMENTED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "cgt").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs that the pages speak of."""
    root = tmp_path_factory.mktemp("models")
    with rng.seeded_globally(0, "models of the pages"):
        generator = Generator(GeneratorConfig(channels=(12, 8, 8), dim_z=6), 8, BANKS["source"][0])
        for name, banks in BANKS.items():
            if name == "new":
                extended = Generator(GeneratorConfig(channels=(12, 8, 8), dim_z=6), 8, banks[0])
            else:
                extended = Generator(generator.config, 8, banks[0])
                extended.load_state_dict(generator.state_dict())
            for classes in banks[1:]:
                extended.append(extended.new_class_bank(classes))
            save_model(root / "runs" / name / "latest" / "model", extended.eval(), provenance={})
    shutil.copytree(root / "runs" / "source" / "latest" / "model", root / "models" / "source")
    return root


@pytest.fixture
def place(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, where the test is."""
    shutil.copytree(models, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


@pytest.mark.parametrize("snippet", PROGRAMS, ids=lambda snippet: snippet.place)
@pytest.mark.usefixtures("place")
def test_a_program_runs(snippet: Snippet) -> None:
    exec(compile(snippet.text, snippet.place, "exec"), {"__name__": "snippet"})


def test_programs_say_what_comes_out(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first one of the page, whose last line has the answer beside it."""
    (program,) = (snippet for snippet in PROGRAMS if "print(images.shape, images.dtype)" in snippet.text)
    exec(program.text, {})
    assert capsys.readouterr().out == "torch.Size([16, 3, 8, 8]) torch.uint8\n"


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{page} {words[0]}" for page, words in COMMANDS])
def test_a_command_line_is_one_that_cgt_takes(page: str, words: list[str]) -> None:
    parse([word for word in words if word not in ("...", "[options]")])


@pytest.mark.parametrize(
    "words", [["sample", "runs/new", "--outt", "grid.png"], ["banks", "shoe", "runs/new"]]
)
def test_a_command_line_that_cgt_does_not_take_is_noticed(words: list[str]) -> None:
    with pytest.raises(Exception, match="No such"):
        parse(words)


def parse(words: list[str]) -> None:
    """Let the verb's own parser take a command line, and run nothing."""
    group: Any = cli._parser(words[:1])
    context = group.make_context("cgt", list(words))
    while hasattr(group, "commands"):
        name, group, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        context = group.make_context(name, rest, parent=context)


@pytest.mark.parametrize(("page", "words"), QUICK, ids=[f"{page} {' '.join(words)}" for page, words in QUICK])
def test_a_quick_command_runs(page: str, words: list[str], place: Path) -> None:
    assert cli.main(words) == 0


@pytest.mark.parametrize(
    "snippet", [snippet for snippet in snippets() if snippet.language == "yaml"], ids=lambda one: one.place
)
def test_a_config_is_yaml_with_keys(snippet: Snippet) -> None:
    assert isinstance(yaml.safe_load(snippet.text), dict)


@pytest.mark.parametrize("module", DOCUMENTED)
@pytest.mark.usefixtures("place")
def test_the_examples_of_a_module_come_out_as_written(module: str) -> None:
    """They may use `generator`, which is that of models/source."""
    globs = {"generator": load_generator("models/source"), "torch": torch}
    result = doctest.testmod(importlib.import_module(module), extraglobs=globs, optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert not result.failed


def test_every_page_is_linked_from_the_readme() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f"(docs/{page.name}" in readme, page.name


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    import cgt

    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in cgt.__all__:
        assert re.search(rf"`{name}\b", page), name
