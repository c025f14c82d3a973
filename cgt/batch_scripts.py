"""SLURM jobs of the verbs that run on many machines: the shipped batch scripts, filled in.

The scripts (`launch/slurm/VERB.sbatch`) work by themselves, too; what they take from the environment and from
their arguments is written into a copy here.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from cgt.errors import RunError, UserError

TRAINING = "pretrain", "transfer"
VERBS = *TRAINING, "eval", "doctor"
DIRECTIVE = "#SBATCH "


@dataclass(frozen=True)
class Job:
    """What a job asks of SLURM, and where its command finds itself."""

    options: Mapping[str, str | int | None]
    """Of sbatch, by name; those that are None stay as the script has them, but for GPUs: none then."""
    more: Sequence[str] = ()
    """Of sbatch, as `--qos=high`."""
    setup: Path | None = None
    container: str | None = None


def check(command: Sequence[str]) -> None:
    """Refuse a command that can't be started on many machines.

    Raises:
        UserError: another verb, or one that is to start processes itself.
    """
    if command[0] not in VERBS:
        raise UserError(f"{command[0]!r} can't be launched: the verbs that can are {', '.join(VERBS)}.")
    twice = [word for word in command if re.fullmatch(r"--(processes|launch)(=.*)?", word)]
    if twice:
        raise UserError(
            f"{twice[0]} starts processes on one machine, and the job starts them on all: leave it out."
        )


def script(command: Sequence[str], job: Job) -> str:
    """The shipped script of the command's verb with the job's options and the command's arguments in it.

    Raises:
        UserError: as `check` does; or there is no such file to set up the environment.
    """
    check(command)
    if job.setup is not None and not job.setup.is_file():
        raise UserError(f"there is no file {job.setup} to source: name another with --setup.")
    verb, *arguments = command
    content = files("cgt.launch").joinpath("slurm", f"{verb}.sbatch").read_text(encoding="utf-8")
    lines = content.splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    head = [line for line in lines[:first] if _kept(line, job.options)]
    at = 1 + max(i for i, line in enumerate(head) if line.startswith(DIRECTIVE))
    options = [f"--{name}={value}" for name, value in job.options.items() if value is not None]
    head[at:at] = [DIRECTIVE + shlex.quote(option) for option in (*options, *job.more)]
    return "\n".join([*head, *_settings(verb, arguments, job), "", *lines[first:]]) + "\n"


def submit(text: str, *, test_only: bool = False) -> str:
    """Hand a script to sbatch; what sbatch says.

    Raises:
        UserError: there is no sbatch here, or it does not take the script.
    """
    words = ["sbatch", *(["--test-only"] if test_only else [])]
    try:
        result = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(
            "there is no sbatch here: run this on a login node of the cluster, or add --dry-run and take "
            "the script there."
        ) from None
    said = (result.stdout + result.stderr).strip()
    if result.returncode:
        unreachable = "Unable to contact" in said
        raise (RunError if unreachable else UserError)(f"sbatch does not take the job: {said}")
    return said


def _kept(line: str, options: Mapping[str, str | int | None]) -> bool:
    """Whether the shipped line stays: not an option that the job sets, and no GPUs for a job without."""
    if not line.startswith(DIRECTIVE):
        return True
    name = line.removeprefix(f"{DIRECTIVE}--").partition("=")[0]
    return options.get(name) is None and name != "gpus-per-node"


def _settings(verb: str, arguments: Sequence[str], job: Job) -> list[str]:
    """The script's variables and arguments, as shell commands."""
    run = None
    if verb in TRAINING:
        arguments, run = _without_run(arguments)
    variables = {
        "RUN": run,
        "SETUP": None if job.setup is None else str(job.setup.absolute()),
        "CONTAINER": job.container,
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in variables.items() if value is not None]
    if job.setup is None and job.container is None:
        lines.append(
            f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH  # where cgt was called from"
        )
    return [*lines, f"set -- {shlex.join(arguments)}"]


def _without_run(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments without `--run FOLDER`, and the folder: the script must know where a run goes on."""
    rest, run = list(arguments), None
    for i in range(len(rest) - 1, -1, -1):
        if rest[i] == "--run" and i + 1 < len(rest):
            found = rest[i + 1]
            del rest[i : i + 2]
        elif rest[i].startswith("--run="):
            found = rest.pop(i).removeprefix("--run=")
        else:
            continue
        run = run or found
    return rest, run
