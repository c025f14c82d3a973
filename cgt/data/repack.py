"""What making shard folders out of shard folders has in common; pictures are never decoded or encoded."""

import hashlib
import json

from cgt.data import encode
from cgt.data.encode import members
from cgt.data.manifest import Manifest, ShardFolder
from cgt.data.report import Report
from cgt.data.samples import Sample
from cgt.data.sources import Picture


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
