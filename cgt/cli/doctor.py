"""`cgt doctor`: what is installed, what the machine has, what is missing for what, and how ranks talk."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cgt.cli.options import LAUNCH, PROCESSES

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def doctor(
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write it all as JSON to FILE, or to stdout for -."),
    ] = None,
    processes: PROCESSES = None,
    launch: LAUNCH = None,
) -> None:
    """Show versions, devices and backends, and what is missing for what.

    In several processes, also check that they reach each other, and how fast: with --processes or --launch
    here, and with `cgt launch slurm -- doctor` or `torchrun -m cgt doctor` on many machines.
    """
    import os

    from cgt.launching import spread

    spread(processes, launch)
    from cgt.doctor.installed import packages
    from cgt.doctor.machine import machine

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        _tell({**packages(), **machine(), "launch": None}, json)
        return
    from cgt.doctor.ranks import check, raise_if_wrong

    rank = int(os.environ["RANK"])
    launched = check()
    if rank == 0:
        _tell({**packages(), **machine(), "launch": launched}, json)
    raise_if_wrong(launched, rank)


def _tell(findings: dict[str, Any], json: Path | None) -> None:
    """Show the findings, or write them where they were asked for."""
    if json is None:
        _show(findings)
    else:
        from cgt.files import put_json

        put_json(json, findings)


def _show(findings: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    versions = Table("package", "installed", "wanted", box=None, pad_edge=False)
    versions.add_row("cgt", findings["cgt"])
    versions.add_row("python", findings["python"])
    for need in findings["packages"]:
        versions.add_row(need["name"], _state(need["fits"], need["installed"] or "missing"), need["wanted"])

    here = _pairs("machine", _machine_lines(findings))

    extras = Table("extra", "for", "missing (give these to pip install)", box=None, pad_edge=False)
    for extra in findings["extras"]:
        missing = " ".join(f"'{need}'" for need in extra["missing"])
        extras.add_row(extra["name"], extra["for"], _state(not missing, missing or "nothing"))

    console = Console()
    for table in (versions, here, extras) if findings["packages"] else (here,):
        console.print(table, "")
    if not findings["packages"]:
        console.print(
            "What cgt needs is unknown, since pip did not install it: run `make install`.", soft_wrap=True
        )
    launched = findings["launch"]
    if launched is None:
        console.print(
            "Whether processes reach each other: cgt doctor --processes N, or on many machines "
            "cgt launch slurm --nodes N -- doctor.",
            soft_wrap=True,
        )
        return
    console.print(_ranks(launched["ranks"]), "")
    console.print(_pairs("connection", _connection_lines(launched)))
    for warning in launched["warnings"]:
        console.print(_state(False, f"warning: {warning}"), soft_wrap=True)


def _state(fine: bool | None, text: str) -> "Text":
    """`text` as it stands (brackets are no markup), coloured by whether all is well."""
    from rich.text import Text

    return Text(text, style={None: "", True: "green", False: "yellow"}[fine])


def _pairs(title: str, lines: Iterable[tuple[str, str]]) -> "Table":
    from rich.table import Table

    table = Table(title, "", box=None, pad_edge=False)
    for name, value in lines:
        table.add_row(name, _state(None, value))
    return table


def _ranks(ranks: Sequence[dict[str, Any]]) -> "Table":
    """A row for each rank; of disks, what is free."""
    from rich.table import Table

    table = Table(
        "rank", "host", "device", "torch", "cgt", "disk here", "temp folder", box=None, pad_edge=False
    )
    for number, rank in enumerate(ranks):
        gpu, commit = rank["gpu"], rank["commit"]
        table.add_row(
            str(number),
            rank["host"],
            f"{rank['device']} {gpu['name']}, {gpu['free_gib']} GiB free" if gpu else rank["device"],
            rank["torch"],
            f"{rank['cgt']} {commit[:7]}" if commit else rank["cgt"],
            *(f"{rank[disk]['free_gib']} GiB" for disk in ("disk", "temporary")),
        )
    return table


def _machine_lines(findings: dict[str, Any]) -> Iterable[tuple[str, str]]:
    cpu, cuda, disk, hub = (findings[part] for part in ("cpu", "cuda", "disk", "torch_hub"))
    gpus = [f"{gpu['name']}, {gpu['memory_gib']} GiB" for gpu in cuda["gpus"]]
    no_gpu = "none" if cuda["runtime"] else "none, and this torch is built without CUDA"
    yield "system", findings["system"]
    yield "CPU", f"{cpu['cores']} cores, {cpu['torch_threads']} torch threads"
    yield "CUDA GPUs", "\n".join(gpus) or no_gpu
    yield "Apple GPU (MPS)", "yes" if findings["mps"] else "none"
    yield "processes talk by", ", ".join(findings["backends"]) or "nothing: one process only"
    yield "SLURM", "\n".join(_slurm_lines(findings["slurm"]))
    yield "disk here", f"{disk['free_gib']} GiB free in {disk['folder']}"
    yield "torch hub's downloads", f"{hub['free_gib']} GiB free in {hub['folder']}"
    weights = "there" if hub["inception_tf"] else "not there: give their file, or use features of your own"
    yield "weights of inception-tf", weights


def _slurm_lines(slurm: dict[str, Any]) -> Iterable[str]:
    if not slurm["commands"]:
        yield "not found"
    elif slurm["problem"]:
        yield f"{', '.join(slurm['commands'])} found, but sinfo says: {slurm['problem']}"
    else:
        missing = [name for name in ("sinfo", "sbatch", "srun") if name not in slurm["commands"]]
        yield f"{slurm['version'] or 'found'}{', without ' * bool(missing)}{', '.join(missing)}"
    if slurm["partitions"]:
        yield "partitions: " + ", ".join(
            f"{part['name']} ({part['nodes']} nodes{', the default' * part['default']})"
            for part in slurm["partitions"]
        )
    if job := slurm["job"]:
        yield f"job {job['id']}, nodes {job['nodes']}, {job['tasks']} tasks"


def _connection_lines(launched: dict[str, Any]) -> Iterable[tuple[str, str]]:
    connection, folder = launched["connection"], launched["shared_folder"]
    large, small, wrong = connection["large"], connection["small"], connection["wrong_on"]
    yield "backend", connection["backend"]
    yield "sum over the ranks", f"wrong on ranks {', '.join(map(str, wrong))}" if wrong else "right"
    yield (
        f"all-reduce of {large['bytes'] / 2**20:g} MiB",
        f"{large['seconds'] * 1e3:.3g} ms: {large['algorithm_gb_per_s']:.3g} GB/s (algorithm), "
        f"{large['bus_gb_per_s']:.3g} GB/s (bus)",
    )
    yield f"all-reduce of {small['bytes']} bytes", f"{small['seconds'] * 1e3:.3g} ms"
    shared = "the same for all ranks" if not folder["missing_on"] else "not shared by all ranks"
    yield "working folder", f"{folder['folder']}, {shared}"
