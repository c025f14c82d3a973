"""The tensors of one checkpoint file, and putting them into a network of ours."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cgt.errors import UserError

SHOWN = 5
"""How many keys a message lists."""


@dataclass(frozen=True)
class Weights:
    """The tensors of one file, with what messages need."""

    path: Path
    tensors: Mapping[str, Tensor]
    network: str
    """What the file is expected to hold: "BigGAN-PyTorch generator"."""
    remedy: str
    """What to do when it does not fit."""

    def shape(self, key: str, dimensions: int) -> tuple[int, ...]:
        """The shape of one tensor.

        Raises:
            UserError: it is missing, or has another number of dimensions.
        """
        if key not in self.tensors:
            raise UserError(f"{self.path} has no {key!r}, as every {self.network} does: {self.remedy}.")
        shape = tuple(self.tensors[key].shape)
        if len(shape) != dimensions or 0 in shape:
            raise UserError(
                f"{self.path}: {key!r} has the shape {shape}, where a {self.network} has {dimensions} "
                f"dimensions, none of them 0: {self.remedy}."
            )
        return shape

    def fill(
        self, network: nn.Module, names: Mapping[str, str], *, needless: re.Pattern[str]
    ) -> Counter[str]:
        """Load the tensors into `network`, cast to its type.

        Args:
            network: ours, of the shape read off the file.
            names: our tensor names to theirs; may hold more than `network` has.
            needless: matches keys that may be in the file without use.

        Returns:
            The last parts of the keys without use ("sv0"), counted.

        Raises:
            UserError: keys that are missing, unknown, of another shape or not finite: all of them at once.
        """
        faults: dict[str, list[str]] = {
            "missing": [],
            "unknown": [],
            "of another shape": [],
            "not finite": [],
        }
        values = {}
        expected = network.state_dict()
        for ours, like in expected.items():
            theirs = names[ours]
            if theirs not in self.tensors:
                faults["missing"].append(theirs)
                continue
            value = self.tensors[theirs]
            # Vectors are stored as one row where the original multiplies matrices.
            values[ours] = value = value.squeeze(0) if value.shape == (1, *like.shape) else value
            if value.shape != like.shape:
                faults["of another shape"].append(
                    f"{theirs} {tuple(value.shape)} in place of {tuple(like.shape)}"
                )
            elif not torch.isfinite(value).all():
                faults["not finite"].append(theirs)
        unused = sorted(self.tensors.keys() - {names[ours] for ours in expected})
        faults["unknown"] = [key for key in unused if not needless.search(key)]
        if any(faults.values()):
            raise UserError(self._told(faults))
        network.load_state_dict(values)
        return Counter(key.rpartition(".")[2] for key in unused)

    def _told(self, faults: Mapping[str, Sequence[str]]) -> str:
        lines = [f"{self.path} is not the {self.network} that its widths suggest:"]
        for fault, keys in faults.items():
            if keys:
                more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
                lines.append(f"  - {len(keys)} {fault}: {', '.join(keys[:SHOWN])}{more}")
        return "\n".join([*lines, f"Remedy: {self.remedy}."])
