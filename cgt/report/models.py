"""What the runs of a report generate, and the real pictures beside it.

Shapes: K pictures of a class, M new classes, N source classes, L sites, C channels, R resolution.
"""

import contextlib
import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from cgt.data.manifest import open_shards
from cgt.data.selection import Selection
from cgt.data.sheet import first_pictures
from cgt.distributed import device
from cgt.errors import RunError, UserError
from cgt.images import to_uint8
from cgt.models.biggan import Generator
from cgt.models.folder import load_generator
from cgt.models.norm import Bank, ClassBank, ClassTables, tables_of_all
from cgt.models.record import read_record
from cgt.models.sampling import PICTURES_AT_ONCE, latent_range
from cgt.report.runs import Group, ReadRun
from cgt.training.state_files import read_tensors
from cgt.transfer.propagation import PropagatedBank

SEED = 0
"""Of the latents: the same for all runs, so that their pictures compare."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A group of runs, of which one has a checkpoint: the one whose pictures are shown."""

    group: Group
    generator: Generator
    """Folded, in eval mode."""

    @property
    def run(self) -> ReadRun:
        """The one shown."""
        return self.group.shown

    @property
    def name(self) -> str:
        """Of the group, and of the run's seed where there are several."""
        several = len(self.group.runs) > 1
        return f"{self.group.name}, seed {self.run.seed}" if several else self.group.name

    @property
    def transferred(self) -> bool:
        """Whether the classes of its last bank came by a transfer."""
        return self.run.method != "pretraining"

    @property
    def new_classes(self) -> list[str]:
        """Those that a transfer brought."""
        return self.generator.classes[self.generator.first_of_last_bank :] if self.transferred else []

    @property
    def old_classes(self) -> list[str]:
        """Those of the source; of a pretrained model all."""
        if not self.transferred:
            return self.generator.classes
        return self.generator.classes[: self.generator.first_of_last_bank]

    @functools.cached_property
    def bank(self) -> PropagatedBank | None:
        """The block that propagated the new classes' tables, as it is averaged in the checkpoint; None for
        other methods, and after fine-tuning, which has no use for scores.

        Raises:
            UserError: the checkpoint's state is damaged or gone.
        """
        options = self.run.config.get("method") or {}
        if options.get("name") != "cgantransfer" or options.get("stage") == "finetune":
            return None
        assert self.run.checkpoint is not None
        number = len(self.generator.banks) - 1
        prefix = f"generator.banks.{number}."
        state = self.run.checkpoint / "state"
        try:
            tensors = read_tensors(state, lambda name: name.startswith(prefix) or name == "ema.average")
            average = tensors.pop("ema.average")
            old = [cast(Bank, bank) for bank in self.generator.banks[:-1]]
            new = self.generator.last_bank
            n_source = self.generator.first_of_last_bank
            bank = PropagatedBank(
                new.classes,
                tables_of_all(old),
                self.generator.output_affine.gain.numel(),
                torch.zeros(2, n_source, len(new.classes)),
                bias=options.get("start") == "official",
                tunable_prior=options.get("prior") != "frozen",
                residuals=options.get("residuals", True),
                shared_scores=options.get("scores") == "shared",
            )
            bank.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
            trained = [parameter for parameter in bank.parameters() if parameter.requires_grad]
            parts = average.split([parameter.numel() for parameter in trained])
            for parameter, part in zip(trained, parts, strict=True):
                parameter.data.copy_(part.view(parameter.shape))
        except Exception as error:
            # What is damaged fails in every way there is.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{state} can't be read ({reason}).") from error
        return bank.requires_grad_(False).to(self.generator.output_affine.gain.device)

    def strongest(self, name: str) -> str:
        """The old class that a new one is nearest to: by its scores, else by its tables; else the first."""
        place, bank = self.new_classes.index(name), None
        with contextlib.suppress(UserError):  # the section of the scores says that they can't be read
            bank = self.bank
        if bank is not None:
            return self.old_classes[int(bank.similarity().abs().sum((0, 1))[:, place].argmax())]
        banks = [cast(Bank, bank) for bank in self.generator.banks]
        if not all(isinstance(bank, ClassBank) for bank in banks):
            return self.old_classes[0]
        tables = tables_of_all(banks)
        rows_NC = torch.cat(tables.of_classes, 1)
        first = self.generator.first_of_last_bank
        distances = (rows_NC[:first] - rows_NC[first + place]).square().sum(1)
        return self.old_classes[int(distances.argmin())]

    def alone(self, classes: Sequence[str], tables: ClassTables) -> Generator:
        """This generator with one bank: of these classes and tables, with the new classes' statistics."""
        generator, last = copy.deepcopy(self.generator), self.generator.last_bank
        bank = ClassBank(classes, **self.generator.bank_shape)
        for own, given in zip(bank.tables(), tables, strict=True):
            for parameter, value in zip(own, given, strict=True):
                parameter.data.copy_(value)
        bank.take_statistics(last)
        bank.to(self.generator.output_affine.gain.device).eval().requires_grad_(False)
        generator.banks = torch.nn.ModuleList([bank])
        return generator

    def latents(self, count: int) -> Tensor:
        """z (K, Z): of every class the same, and more of them begin with the fewer ones."""
        shape = (PICTURES_AT_ONCE, self.generator.dim_z)
        z_KZ = latent_range(self.generator, None).drawn(shape, SEED, "sample", 0)
        return z_KZ[:count].to(self.generator.output_affine.gain.device)


def shown(group: Group) -> Shown:
    """A group whose run has a checkpoint, with its model.

    Raises:
        UserError: the model is damaged.
    """
    checkpoint = group.shown.checkpoint
    assert checkpoint is not None
    return Shown(group, load_generator(checkpoint / "model").to(device()))


@torch.no_grad()
def drawn(generator: Generator, z_NZ: Tensor, y_N: Sequence[int]) -> Tensor:
    """Pictures of these classes from these latents, uint8 (N, 3, R, R), on the CPU."""
    ids = torch.tensor(y_N, device=z_NZ.device)
    parts = zip(z_NZ.split(PICTURES_AT_ONCE), ids.split(PICTURES_AT_ONCE), strict=True)
    return torch.cat([to_uint8(generator(z, y)).cpu() for z, y in parts])


def real_pictures(runs: Sequence[ReadRun], classes: Sequence[str], count: int) -> dict[str, Tensor]:
    """The first real pictures of each class, uint8 (K, 3, R, R), from whatever shards of the runs are there.

    Classes that none of them has are missing.
    """
    found: dict[str, Tensor] = {}
    for place in _shard_folders(runs):
        try:
            folder = open_shards(str(place))
            wanted = [name for name in classes if name in folder.manifest.classes and name not in found]
            selection = Selection(folder.manifest, tuple(wanted), count)
            pictures: dict[str, list[Tensor]] = {}
            for row, x_3RR in first_pictures(folder, selection) if wanted else ():
                pictures.setdefault(wanted[row], []).append(x_3RR)
        except (UserError, RunError):
            continue  # gone, or damaged since: the page says what is missing
        found |= {name: torch.stack(of_class) for name, of_class in pictures.items()}
    return found


def _shard_folders(runs: Sequence[ReadRun]) -> list[Path]:
    """Where the runs took pictures from, as far as it is there: to train, of their sources, to measure."""
    training, sources, measuring = [], [], []
    for run in runs:
        training.append(run.located((run.config.get("data") or {}).get("shards")))
        if run.source is not None:
            with contextlib.suppress(UserError):  # damaged since
                sources.append(run.located(read_record(run.source).provenance.get("data")))
        measuring.append(run.located((run.config.get("eval") or {}).get("data")))
    return list(dict.fromkeys(place for place in (*training, *sources, *measuring) if place is not None))
