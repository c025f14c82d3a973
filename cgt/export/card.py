"""README.md of an exported folder: what it holds, how it is run, and how near it is to the model."""

from collections.abc import Iterator
from pathlib import Path

from cgt import __version__
from cgt.export.base import Model, Written
from cgt.export.parity import LIMIT, batch_sizes, compared_banks
from cgt.files import write_text
from cgt.models.banks import banks_of
from cgt.models.card import architecture
from cgt.models.naming import listed
from cgt.wording import counted

FILE = "README.md"


def write_card(folder: Path, target: str, model: Model, written: Written) -> None:
    """Write the card of what a target has put into `folder`; where it has one already, below it."""
    before = folder / FILE
    own = before.read_text(encoding="utf-8").rstrip() + "\n\n" if before.exists() else ""
    files = sorted(path for path in folder.iterdir() if path != before)
    write_text(before, own + "\n".join(_lines(files, target, model, written)))


def _lines(files: list[Path], target: str, model: Model, written: Written) -> Iterator[str]:
    size = model.generator.resolution
    yield f"# Exported as {target}"
    yield ""
    of = f"{architecture(model.generator)}, {size} px, {counted(len(written.classes), 'class')}"
    yield f"A class-conditional image generator: {of}."
    yield written.about
    yield ""
    for path in files:
        yield f"- `{path.name}`: {path.stat().st_size:,} bytes"
    if written.inputs:
        yield from ("", "## Inputs and output", "", "| name | shape | meaning |", "|---|---|---|")
        for row in written.inputs:
            yield f"| `{row.name}` | {row.shape} | {row.meaning} |"
    yield from ("", "## How to run it", "", f"In this folder, with {written.needs}:", "")
    yield from ("```python", written.program, "```", "", "## Agreement with the model", "")
    yield from _agreement(model, written)
    yield from ("", "## Classes", "", "| id | class |", "|---|---|")
    for number, name in enumerate(written.classes):
        yield f"| {number} | {_escaped(name)} |"
    yield from ("", "## Origin", "", f"- model: {model.folder}", f"- exported by: cgt {__version__}")
    yield from (f"- {what}: {fact}" for what, fact in written.notes.items())
    yield ""


def _agreement(model: Model, written: Written) -> Iterator[str]:
    parity = written.parity
    if parity is None:
        yield "Not measured (`--no-verify`)."
        return
    *sizes, last = map(str, batch_sizes(model.generator.resolution))
    yield (
        f"Greatest difference from what {written.compared_with} makes, in values of [-1, 1], by batches of "
        f"{', '.join(sizes)} and {last} (what differs by more than {LIMIT:g} is not written):"
    )
    yield from ("", "| pictures | greatest difference |", "|---|---|")
    exported = set(written.classes)
    banks = banks_of(model.generator)
    numbers = compared_banks(model.generator, exported)
    for bank, difference in zip([banks[number] for number in numbers], parity.by_bank, strict=True):
        names = [name for name in bank.classes if name in exported]
        yield f"| {_escaped(listed(names, 3))} | {difference:.1e} |"
    if parity.mixing is not None:
        yield f"| mixes of classes | {parity.mixing:.1e} |"
    steered = [name for bank in banks if bank.kind == "steered" for name in bank.classes]
    if left := [name for name in steered if name in exported]:
        yield ""
        yield (
            f"Not compared: {_escaped(listed(left, 3))}, whose pictures are looked for by gradient steps, "
            "which magnify the rounding of the last bits."
        )


def _escaped(name: str) -> str:
    """A class name as it can stand in a Markdown table."""
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]<>|~#!&" else sign for sign in name)
