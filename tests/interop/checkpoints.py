"""Small checkpoints of every format, and what may be wrong with their files."""

import os
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[1] / "golden"

FORMATS = {
    "biggan-pytorch": ("biggan_pytorch_cifar32", "biggan_pytorch_hier64", "biggan_pytorch_deep64"),
    "cgantransfer": ("cgantransfer_cifar32", "cgantransfer_hier64"),
    "hf-biggan": ("hf_biggan_deep32",),
}
"""Folders in GOLDEN by format, the smallest first, each with what the original program gave in io.npz."""
FOLDERS = [(format_name, GOLDEN / folder) for format_name, folders in FORMATS.items() for folder in folders]


def weight_files(folder: Path) -> list[str]:
    """The names of the files with tensors."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix in (".pth", ".bin") and not path.name.startswith("state_dict")
    )


WEIGHT_FILES = [
    (format_name, GOLDEN / folders[0], file)
    for format_name, folders in FORMATS.items()
    for file in weight_files(GOLDEN / folders[0])
]
"""Format, smallest folder, and file in it, of every file with tensors."""


class Attack:
    """A pickle that makes a folder when it is executed."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)
