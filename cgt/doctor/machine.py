"""What this machine has: processors, GPUs, room on its disks, and SLURM."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cgt.distributed import backends
from cgt.launching import cores
from cgt.metrics.features.inception_tf import WEIGHTS

PATIENCE = 5.0
"""Seconds for SLURM's controller to answer."""


def machine() -> dict[str, Any]:
    """Processors, GPUs, the ways for processes to talk, room on the disk, and SLURM."""
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
        "slurm": slurm(),
        "disk": {"folder": str(Path.cwd()), "free_gib": free_gib(Path.cwd())},
        "torch_hub": {
            "folder": str(hub),
            "free_gib": free_gib(hub),
            "inception_tf": WEIGHTS.cached() is not None,
        },
    }


def slurm(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Whether there are SLURM's commands here, what its controller says, and the job this process is part of.

    Returns:
        Its `commands`, `version`, `partitions` with their numbers of nodes, `problem` (why these are not
        known, or None) and `job` (None outside of one).
    """
    found: dict[str, Any] = {
        "commands": [name for name in ("sinfo", "sbatch", "srun") if shutil.which(name)],
        "version": None,
        "partitions": [],
        "problem": None,
        "job": None,
    }
    if "SLURM_JOB_ID" in environ:
        found["job"] = {
            "id": environ["SLURM_JOB_ID"],
            "nodes": environ.get("SLURM_JOB_NODELIST"),
            "tasks": int(environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", "1"))),
        }
    if "sinfo" in found["commands"]:
        try:
            found["version"] = _said_by("sinfo", "--version")
            lines = _said_by("sinfo", "--noheader", "--format=%D %P").splitlines()
        except (subprocess.SubprocessError, OSError) as error:
            found["problem"] = _reason(error)
        else:
            for line in lines:
                nodes, name = line.split(maxsplit=1)
                found["partitions"].append(
                    {"name": name.rstrip("*"), "nodes": int(nodes), "default": "*" in name}
                )
    return found


def free_gib(folder: Path) -> float:
    """Free room on the disk where `folder` is, or would be."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return round(shutil.disk_usage(there).free / 2**30, 1)


def _said_by(*words: str) -> str:
    result = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return result.stdout.strip()


def _reason(error: Exception) -> str:
    """Why sinfo gave no answer."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no answer within {error.timeout:g} s"
    if isinstance(error, subprocess.CalledProcessError):
        said = error.stderr.strip().splitlines()
        return said[-1].removeprefix("sinfo: ") if said else f"exit code {error.returncode}"
    return str(error)
