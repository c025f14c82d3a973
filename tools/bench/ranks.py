"""A bench's program started as the processes of one run."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from cgt.launch_files import free_port


def in_processes(program: str, arguments: Sequence[str], processes: int) -> dict[str, float] | str:
    """What the processes measured, the most of any; or what one that failed said.

    Args:
        program: a file that, given `--result FILE` after the arguments, writes numbers by name to it as JSON.
        arguments: of each process.
        processes: how many.
    """
    shared = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_PORT": free_port()}
    cpu = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
    with tempfile.TemporaryDirectory() as folder:
        results = [Path(folder) / f"{rank}.json" for rank in range(processes)]
        ranks = [
            subprocess.Popen(
                [sys.executable, program, *arguments, "--result", str(result)],
                env=os.environ
                | {"MASTER_ADDR": "127.0.0.1", **cpu}
                | {name: str(value) for name, value in shared.items()}
                | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, result in enumerate(results)
        ]
        said = [rank.communicate()[1] for rank in ranks]
        for rank, text in zip(ranks, said, strict=True):
            if rank.returncode:
                return text.strip()
        found = [json.loads(result.read_text(encoding="utf-8")) for result in results]
    return {name: max(of_rank[name] for of_rank in found) for name in found[0]}
