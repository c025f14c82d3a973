"""`cgt doctor`: what is installed here, what the machine has, and what is missing for what."""

import importlib.metadata
import platform
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.text import Text

EXTRAS = {
    "deepspeed": "training with DeepSpeed ZeRO",
    "export": "ONNX files",
    "trackers": "TensorBoard and Weights & Biases logs",
    "digits": "the built-in digits",
    "imagenet": "shards from ImageNet with the official devkit",
    "parquet": "shards from Parquet files and saved data sets",
    "jpeg": "JPEG shards read twice as fast",
    "s3": "shards on Amazon S3 and the like",
    "gs": "shards on Google Cloud Storage",
    "dev": "tests, lint and types",
}
"""What each extra of the package is for."""


def doctor(
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write it all as JSON to FILE, or to stdout for -."),
    ] = None,
) -> None:
    """Show versions, devices and backends, and what is missing for what."""
    findings = {**packages(), **machine()}
    if json is None:
        _show(findings)
    elif json == Path("-"):
        import sys
        from json import dumps

        sys.stdout.write(dumps(findings, indent=2) + "\n")
    else:
        from cgt.files import write_json

        write_json(json, findings)


def packages() -> dict[str, Any]:
    """The versions that the package's metadata asks for, beside those that are installed."""
    from cgt import __version__

    try:
        requirements = importlib.metadata.requires("cgt") or []
    except importlib.metadata.PackageNotFoundError:  # imported from a folder that nothing was installed from
        requirements = []
    needs = {extra: list(_needs(requirements, extra)) for extra in ("", *EXTRAS)}
    return {
        "cgt": __version__,
        "python": platform.python_version(),
        "packages": needs.pop(""),
        "extras": [
            {
                "name": extra,
                "for": EXTRAS[extra],
                "missing": [f"{need['name']}{need['wanted']}" for need in found if not need["fits"]],
            }
            for extra, found in needs.items()
        ],
    }


def machine() -> dict[str, Any]:
    """Processors, GPUs, the ways for processes to talk, and room on the disk."""
    import torch

    from cgt.distributed import backends
    from cgt.launching import cores
    from cgt.metrics.features.inception_tf import SAME_WEIGHTS, WEIGHTS

    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    hub = Path(torch.hub.get_dir(), "checkpoints")
    return {
        "system": platform.platform(),
        "cpu": {"cores": cores(), "torch_threads": torch.get_num_threads()},
        "cuda": {
            "runtime": torch.version.cuda,
            "gpus": [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
        },
        "mps": torch.backends.mps.is_available(),
        "backends": backends(),
        "disk": {"folder": str(Path.cwd()), "free_gib": _free_gib(Path.cwd())},
        "torch_hub": {
            "folder": str(hub),
            "free_gib": _free_gib(hub),
            "inception_tf": any((hub / name).is_file() for name in (WEIGHTS, SAME_WEIGHTS)),
        },
    }


def _needs(requirements: Iterable[str], extra: str) -> Iterable[dict[str, Any]]:
    """What `extra` (or, for "", the core) asks for, and what there is of it."""
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        asked = marker is None or marker.evaluate({"extra": extra})
        asked_by_core = marker is None or marker.evaluate({"extra": ""})
        if not asked or (extra and asked_by_core):
            continue
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            installed = None
        fits = installed is not None and requirement.specifier.contains(installed, prereleases=True)
        yield {
            "name": requirement.name,
            "wanted": str(requirement.specifier),
            "installed": installed,
            "fits": fits,
        }


def _free_gib(folder: Path) -> float:
    """Free room on the disk where `folder` is, or would be."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return round(shutil.disk_usage(there).free / 2**30, 1)


def _show(findings: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    versions = Table("package", "installed", "wanted", box=None, pad_edge=False)
    versions.add_row("cgt", findings["cgt"])
    versions.add_row("python", findings["python"])
    for need in findings["packages"]:
        versions.add_row(need["name"], _state(need["fits"], need["installed"] or "missing"), need["wanted"])

    here = Table("machine", "", box=None, pad_edge=False)
    for name, value in _machine_lines(findings):
        here.add_row(name, _state(None, value))

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


def _state(fine: bool | None, text: str) -> "Text":
    """`text` as it stands (brackets are no markup), coloured by whether all is well."""
    from rich.text import Text

    return Text(text, style={None: "", True: "green", False: "yellow"}[fine])


def _machine_lines(findings: dict[str, Any]) -> Iterable[tuple[str, str]]:
    cpu, cuda, disk, hub = (findings[part] for part in ("cpu", "cuda", "disk", "torch_hub"))
    gpus = [f"{gpu['name']}, {gpu['memory_gib']} GiB" for gpu in cuda["gpus"]]
    no_gpu = "none" if cuda["runtime"] else "none, and this torch is built without CUDA"
    yield "system", findings["system"]
    yield "CPU", f"{cpu['cores']} cores, {cpu['torch_threads']} torch threads"
    yield "CUDA GPUs", "\n".join(gpus) or no_gpu
    yield "Apple GPU (MPS)", "yes" if findings["mps"] else "none"
    yield "processes talk by", ", ".join(findings["backends"]) or "nothing: one process only"
    yield "disk here", f"{disk['free_gib']} GiB free in {disk['folder']}"
    yield "torch hub's downloads", f"{hub['free_gib']} GiB free in {hub['folder']}"
    weights = "there" if hub["inception_tf"] else "not there: give their file, or use features of your own"
    yield "weights of inception-tf", weights
