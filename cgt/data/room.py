"""Whether a disk has room for what will be written."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from cgt.errors import UserError

ROOM = 1.05
"""Free space asked for, as a multiple of an estimate."""


def refuse_small_disk(needed: Mapping[Path, float], remedy: str = "") -> None:
    """Refuse to begin what would not end: folders that exist, and the bytes that each will get.

    Args:
        needed: bytes by folder.
        remedy: what else can be done than to free space or to take another disk.

    Raises:
        UserError: a disk has less room than its folders need.
    """
    for folder in needed:
        disk = folder.stat().st_dev
        total = sum(size for other, size in needed.items() if other.stat().st_dev == disk)
        free = shutil.disk_usage(folder).free
        if free < total:
            raise UserError(
                f"the shards need some {total / 1e9:,.2f} GB, and the disk of {folder.parent} has "
                f"{free / 1e9:,.2f} GB free: free some space, or name an output on another disk{remedy}."
            )
