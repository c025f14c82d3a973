"""The section of settings and provenance: what was run, on what, by which code."""

import json
from collections.abc import Sequence

import yaml

from cgt.report.blocks import Listing, Section, Table, Words
from cgt.report.runs import Group, ReadRun


def settings(groups: Sequence[Group]) -> Section:
    """A line a run, and all its options and records folded away."""
    section = Section("settings", "Settings and provenance")
    section.blocks.append(
        Table(
            "The runs",
            [
                "run",
                "method",
                "seed",
                "updates",
                "best at",
                "batch",
                "size",
                "classes",
                "old classes, as the run has it",
            ],
            [_row(group, run) for group in groups for run in group.runs],
        )
    )
    missing = [str(run.path) for group in groups for run in group.runs if not run.checkpoint]
    if missing:
        section.blocks.append(
            Words(
                f"Without a checkpoint, so that nothing can be shown of what they generate: "
                f"{', '.join(missing)}."
            )
        )
    for group in groups:
        for run in group.runs:
            seed = f", seed {run.seed}" if len(group.runs) > 1 else ""
            name = f"{group.name}{seed} ({run.path})"
            config = yaml.safe_dump(dict(run.config), sort_keys=False)
            section.blocks.append(Listing(f"config.yaml of {name}", config))
            provenance = json.dumps(dict(run.provenance), indent=2, ensure_ascii=False)
            section.blocks.append(Listing(f"provenance.json of {name}", provenance))
    return section


def _row(group: Group, run: ReadRun) -> list[str]:
    done = int(max((record["step"] for record in run.records), default=0))
    planned, best, model = run.config.get("steps"), run.best(), run.model
    classes = "–"
    if model is not None:
        last = model.banks[-1]
        before = sum(len(bank.classes) for bank in model.banks[:-1])
        classes = f"{before} old, {len(last.classes)} new" if before else str(len(last.classes))
    return [
        group.name,
        run.method,
        str(run.seed),
        f"{done:,}" if done == planned else f"{done:,} of {planned:,}" if planned else f"{done:,}",
        f"{best['step']:,.0f}" if best else "–",
        str(run.config.get("batch_size", "–")),
        f"{model.resolution} px" if model else "–",
        classes,
        str(run.provenance.get("old_classes", "–")) if model is not None else "–",
    ]
