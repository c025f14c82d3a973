"""What making shard folders out of shard folders has in common; pictures are never decoded or encoded."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from cgt.data import encode
from cgt.data.encode import members
from cgt.data.manifest import Manifest, ShardFolder
from cgt.data.report import Report
from cgt.data.samples import Sample
from cgt.data.sources import Picture
from cgt.errors import UserError


class NoReport(Report):
    """Takes no notes: whoever built the pictures did."""

    def __init__(self) -> None:
        super().__init__((), strict=False, whole=False)

    def keep(self, picture: Picture, digest: bytes) -> None:
        """Forget it."""


def relabelled(
    folder: ShardFolder, sample: Sample, label: int, digest: bytes
) -> tuple[Picture, encode.Sample]:
    """A stored sample, as it is written with the class number `label`; `digest` goes to the log."""
    manifest = folder.manifest
    tar = members(sample.key, {"cls": str(label).encode(), manifest.encoding: sample.encoded})
    return Picture(sample.key, manifest.classes[sample.cls], None), encode.Sample(tar, digest)


def fingerprint(manifest: Manifest) -> str:
    """SHA-256, hexadecimal, of all that a manifest says."""
    return hashlib.sha256(json.dumps(manifest.to_json(), sort_keys=True).encode()).hexdigest()


def refuse_small_disk(needed: Mapping[Path, float]) -> None:
    """Refuse to begin what would not end: folders that exist, and the bytes that each will get.

    Raises:
        UserError: a disk has less room than its folders need.
    """
    for folder in needed:
        disk = folder.stat().st_dev
        total = sum(size for other, size in needed.items() if other.stat().st_dev == disk)
        free = shutil.disk_usage(folder).free
        if free < total:
            raise UserError(
                f"the shards need {total / 1e9:,.2f} GB, and the disk of {folder.parent} has "
                f"{free / 1e9:,.2f} GB free: free some space, or name an output on another disk."
            )
