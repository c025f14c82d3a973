"""Features of real pictures, kept on this machine: the same pictures are measured against again and again.

A file holds a rank's share, and its name is a hash over all that its bits depend on. It is written whole or
not at all; the files read longest ago make room for new ones. All of them may be deleted at any time.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cgt.errors import RunError, UserError
from cgt.files import replacing_file
from cgt.metrics.features.base import Features

LIMIT = 10 * 10**9
"""Bytes."""
VERSION = "1"


def cache_folder() -> Path:
    """$CGT_CACHE, or the folder `cgt` where the system keeps caches."""
    if given := os.environ.get("CGT_CACHE"):
        return Path(given)
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "cgt"
    try:
        return Path.home() / ".cache" / "cgt"
    except RuntimeError:  # a container's user may have none
        return Path(tempfile.gettempdir()) / "cgt"


class FeatureCache:
    """The files of one folder.

    Args:
        folder: is made when something is kept.
        limit: bytes that all files may take; what is larger by itself is not kept.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder = folder / "features"
        self.limit = limit

    def path(self, facts: Mapping[str, object]) -> Path:
        """The file for what these facts name."""
        told = "\n".join([VERSION, *(f"{name}={value!r}" for name, value in sorted(facts.items()))])
        return self.folder / f"{hashlib.sha256(told.encode()).hexdigest()}.safetensors"

    def load(self, facts: Mapping[str, object], device: torch.device) -> tuple[Features, Tensor] | None:
        """Features and labels, on `device`; None where there are none, or a damaged file."""
        path = self.path(facts)
        try:
            tensors = load_file(path, device=str(device))
            found = Features(tensors["pooled"], tensors.get("logits")), tensors["labels"]
        except (OSError, SafetensorError, KeyError):
            return None
        with contextlib.suppress(OSError):  # another user's file may be read, yet not touched
            os.utime(path)
        return found

    def keep(self, facts: Mapping[str, object], features: Features, y_N: Tensor) -> None:
        """Write them, if there is room; a disk that is full or closed to us is no reason to stop."""
        tensors = {"pooled": features.pooled_ND, "labels": y_N}
        if features.logits_NK is not None:
            tensors["logits"] = features.logits_NK
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > self.limit:
            return
        try:
            self._make_room(size)
            with replacing_file(self.path(facts)) as temporary:
                save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        except (OSError, UserError, RunError):
            return

    def _make_room(self, size: int) -> None:
        kept = sorted((file.stat().st_mtime, file) for file in self.folder.glob("*.safetensors"))
        used = size + sum(file.stat().st_size for _, file in kept)
        for _, file in kept:
            if used <= self.limit:
                return
            used -= file.stat().st_size
            file.unlink(missing_ok=True)
