"""The card of a model folder: README.md with the hub's metadata, and the grid of pictures that it shows.

It says what the provenance says and what the networks are, and no more. What only people know (the licence,
what the model is meant for) is left to them, and marked.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from cgt.files import write_text
from cgt.models.biggan import Generator
from cgt.models.naming import listed
from cgt.models.norm import Bank
from cgt.models.sampling import latent_range, write_class_grid
from cgt.wording import counted

CLASSES = 10
"""Rows of the grid."""
COLUMNS = 8
LISTED = 1000
"""Classes of a bank that are named; config.json has all."""
UNKNOWN = "unknown"

SAID_ELSEWHERE = {"license", "scores", "measured", "method", "method_options", "old_classes", "data", "step"}
"""Keys of the provenance that have a place of their own in the card."""


def write_card(folder: Path, generator: Generator, provenance: Mapping[str, Any]) -> None:
    """Write README.md and samples.png.

    Args:
        folder: of the model.
        generator: in eval mode.
        provenance: as the model folder has it. `license` is shown as the licence; `scores`, numbers by
            metric, as what was measured, with `measured` for how.
    """
    classes = generator.classes
    shown = torch.linspace(0, len(classes) - 1, min(len(classes), CLASSES)).round().long()
    z_KZ = latent_range(generator, None).drawn((COLUMNS, generator.dim_z), 0, "model card")
    write_class_grid(folder / "samples.png", generator, shown.tolist(), z_KZ)
    write_text(folder / "README.md", card(generator, provenance))


def card(generator: Generator, provenance: Mapping[str, Any]) -> str:
    """The text of README.md."""
    return (
        "\n\n".join(
            [
                _metadata(provenance),
                f"# {architecture(generator)}, {generator.resolution} px, "
                f"{counted(len(generator.classes), 'class')}",
                *_summary(generator),
                *_how_to_sample(generator),
                *_classes(generator),
                *_training(provenance),
                *_scores(provenance),
                *_use_and_limits(generator, provenance),
                *_licence(provenance),
                *_provenance(provenance),
            ]
        )
        + "\n"
    )


def architecture(generator: Generator) -> str:
    """What kind of generator it is, as its paper calls it."""
    return "BigGAN-deep" if generator.config.deep else "BigGAN"


def _metadata(provenance: Mapping[str, Any]) -> str:
    tags = ["biggan", "gan", "class-conditional", "image-generation"]
    if method := provenance.get("method"):
        tags += ["transfer-learning", str(method)]
    licence = provenance.get("license", UNKNOWN)
    return "\n".join(
        [
            "---",
            "library_name: cgt",
            "pipeline_tag: unconditional-image-generation",
            f"license: {_yaml(licence)}" + ("  # fill in" if licence == UNKNOWN else ""),
            "tags:",
            *(f"- {_yaml(tag)}" for tag in tags),
            "---",
        ]
    )


def _summary(generator: Generator) -> Iterator[str]:
    parameters = sum(p.numel() for p in generator.parameters())
    folded = ", folded for inference: no place to train all of it from" if generator.folded else ""
    size = generator.resolution
    yield (
        f"A class-conditional image generator: {architecture(generator)} (Brock et al., 2019) of "
        f"{parameters:,} parameters{folded}. It makes RGB pictures of {size} x {size} pixels from "
        f"{generator.dim_z} numbers of N(0, 1) and a class."
    )
    yield "![samples, one row a class](samples.png)"


def _how_to_sample(generator: Generator) -> Iterator[str]:
    names = json.dumps(generator.classes[-2:], ensure_ascii=False)
    size = generator.resolution
    count = 4 * min(2, len(generator.classes))
    yield "## How to sample"
    yield "\n".join(
        [
            "```python",
            "import cgt",
            "",
            'generator = cgt.load_generator(".")  # this folder; for the hub, Generator.from_pretrained',
            f"images = generator.sample({names}, n=4, truncation=0.7, seed=0)",
            f"print(images.shape)  # ({count}, 3, {size}, {size}), uint8 in 0..255",
            "```",
        ]
    )
    yield "Or `cgt sample . --out grid.png`. Nothing in the files is executed when they are loaded."


def _classes(generator: Generator) -> Iterator[str]:
    banks: Sequence[Bank] = [cast(Bank, bank) for bank in generator.banks]
    yield "## Classes"
    yield "\n".join(
        f"- bank {i}: {counted(len(bank.classes), 'class')}: {listed(bank.classes, LISTED)}"
        for i, bank in enumerate(banks)
    )


def _training(provenance: Mapping[str, Any]) -> Iterator[str]:
    facts = {
        "method": provenance.get("method"),
        "options of the method": provenance.get("method_options"),
        "old classes": provenance.get("old_classes"),
        "data": provenance.get("data"),
        "steps": provenance.get("step"),
    }
    yield "## Training"
    yield _list(facts) or "How it was trained is not recorded here: fill in."


def _scores(provenance: Mapping[str, Any]) -> Iterator[str]:
    yield "## Metrics"
    scores = provenance.get("scores")
    if not isinstance(scores, Mapping) or not scores:
        yield "None are recorded here. `cgt eval` measures a model."
        return
    rows = [f"| {_cell(name)} | {value:.6g} |" for name, value in scores.items() if _is_number(value)]
    yield "\n".join(["| metric | score |", "|---|---|", *rows])
    measured = provenance.get("measured")
    if isinstance(measured, Mapping):
        yield _list(measured)
    yield "Scores compare only where features, data, classes and numbers of pictures are the same."


def _use_and_limits(generator: Generator, provenance: Mapping[str, Any]) -> Iterator[str]:
    yield "## Intended use, and limits"
    limits = [
        "- What it is meant for: fill in. Where nothing is said, take it for research on image generation.",
        "- Its pictures are no photographs, and no evidence of anything. What is rare, missing or skewed in "
        "the training pictures is so in these, and what they show may come back in parts.",
        f"- It knows the {'class' if len(generator.classes) == 1 else 'classes'} above and "
        f"{generator.resolution} px, nothing else.",
    ]
    if str(provenance.get("old_classes", "")).startswith("given up"):
        limits.append("- Classes of the source that are not above were given up by the transfer.")
    yield "\n".join(limits)


def _licence(provenance: Mapping[str, Any]) -> Iterator[str]:
    yield "## Licence"
    licence = provenance.get("license", UNKNOWN)
    yield _list(
        {
            "model": "unknown: fill in" if licence == UNKNOWN else licence,
            "training pictures": "unknown: fill in",
        }
    )


def _provenance(provenance: Mapping[str, Any]) -> Iterator[str]:
    if text := _list({key: value for key, value in provenance.items() if key not in SAID_ELSEWHERE}):
        yield "## Provenance"
        yield text


def _list(facts: Mapping[str, Any]) -> str:
    """A line for each fact that there is."""
    lines = []
    for key, value in facts.items():
        if value is None or value in ({}, []):
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        lines.append(f"- {key.replace('_', ' ')}: {' '.join(text.split())}")
    return "\n".join(lines)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|")


def _yaml(value: Any) -> str:
    """A text as YAML reads it back, whatever signs it has: JSON is YAML."""
    return json.dumps(str(value), ensure_ascii=False)
