"""Arguments and options that several verbs share, so that they read the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

CONFIG = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG", help="A YAML file, or the name of a shipped config such as shapes/pretrain."
    ),
]
OVERRIDES = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Set a key of the config; sections as in optim.eps=1e-6."),
]
RUN = Annotated[
    Path | None,
    typer.Option(
        "--run", help="Folder of the run. [default: runs/ and the config's name]", show_default=False
    ),
]
RESUME = Annotated[bool, typer.Option("--resume", help="Go on from the run's latest checkpoint.")]
OVERWRITE_RUN = Annotated[
    bool, typer.Option("--overwrite", help="Begin the run again, deleting what it has written.")
]
MODEL = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="A model folder, or a run folder (its best, then latest, model)."),
]
OVERWRITE = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
SEED = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything that is drawn.")]
PROCESSES = Annotated[
    int | None,
    typer.Option(
        "--processes",
        min=1,
        metavar="N",
        help="Run in N processes on this machine: one on each GPU, or on the CPU where there is none.",
        show_default=False,
    ),
]
LAUNCH = Annotated[
    str | None,
    typer.Option(
        "--launch",
        metavar="FILE",
        help="Start processes as an accelerate config says: a file, or a shipped one's name such as ddp.",
        show_default=False,
    ),
]
