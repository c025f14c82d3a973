"""The model folder: what a run leaves and everything else starts from.

    config.json                   format version, architecture, classes by bank, provenance
    generator.safetensors         the generator as it was trained: raw weights, banks in their own form
    discriminator.safetensors     optional
    README.md, samples.png        a card for people

Tensor names are the modules'; a spectrally normalised `x.weight` is stored raw, with its vector `x.u` beside
it. A transfer writes every tensor of its source again, byte for byte, and adds those of the new bank: that is
what keeps the old classes what they were.

A *folded* generator (`"folded": true` in config.json) is one for use alone: weights as they are after the
norm, and no `x.u`. Its banks mostly are plain tables. Numbers may be stored as float16 or bfloat16; in memory
they are float32.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cgt.errors import UserError
from cgt.files import FolderKind, refuse_existing, replacing_folder, write_json
from cgt.models.biggan import Generator
from cgt.models.card import write_card
from cgt.models.discriminator import Discriminator
from cgt.models.mined import MinedBank
from cgt.models.naming import BankKind
from cgt.models.norm import Bank, ClassBank, EmbeddedBank
from cgt.models.record import FILE, BankRecord, DiscriminatorRecord, ModelRecord, not_a_model, read_record
from cgt.models.steered import SteeredBank

KIND = FolderKind(
    "a model folder",
    (FILE, "generator.safetensors"),
    ("discriminator.safetensors", "README.md", "samples.png"),
)

STORED_AS = (torch.float32, torch.float16, torch.bfloat16)
"""The number types that parameters may have in the files."""


def save_model(
    folder: str | Path,
    generator: Generator,
    discriminator: Discriminator | None = None,
    *,
    provenance: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
) -> None:
    """Write a model folder, whole or not at all.

    Args:
        folder: its place.
        generator: in eval mode, with banks in their stored form; folded or not, which the folder says.
        discriminator: stored beside it where later transfers shall start from it.
        provenance: plain values on how the model came to be.
        dtype: one of `STORED_AS`, which parameters are rounded to. Buffers stay float32: variances may be
            beyond what float16 can hold.
        overwrite: replace the model folder that stands there.

    Raises:
        UserError: `folder` exists, and `overwrite` is false or it is no model folder; or a number is too
            large for `dtype`.
        RunError: the disk is full; what stood there before is untouched.
    """
    folder = Path(folder)
    generator.refuse_training()  # the card's pictures would change it
    refuse_existing(folder, overwrite=overwrite, kind=KIND, option="overwrite=True")
    banks = [cast(Bank, bank) for bank in generator.banks]
    record = ModelRecord(
        resolution=generator.resolution,
        generator=generator.config,
        folded=generator.folded,
        banks=tuple(
            BankRecord(kind=_kind(bank), classes=bank.classes, options=bank.options()) for bank in banks
        ),
        discriminator=None
        if discriminator is None
        else DiscriminatorRecord(**vars(discriminator.config), classes=tuple(discriminator.classes)),
        provenance=dict(provenance),
    )
    with replacing_folder(folder) as temporary:
        save_file(_stored(generator, dtype), temporary / "generator.safetensors")
        if discriminator is not None:
            save_file(_stored(discriminator, dtype), temporary / "discriminator.safetensors")
        write_card(temporary, generator, provenance)
        write_json(temporary / FILE, record.to_json())


def load_model(folder: str | Path) -> tuple[Generator, Discriminator | None]:
    """The networks of a model folder as they were trained, in eval mode, on the CPU, in float32.

    The generator of a folded folder is `folded`. Nothing in the files is executed, and torch's global
    generator is left alone.

    Raises:
        UserError: no model folder, a damaged one, or one of another architecture or a later format.
    """
    folder = Path(folder)
    record = read_record(folder)
    generator, discriminator = _without_storage(folder, record)
    _load(generator, folder / "generator.safetensors")
    if discriminator is not None:
        _load(discriminator, folder / "discriminator.safetensors")
    generator.provenance = record.provenance
    return generator.eval(), discriminator.eval() if discriminator is not None else None


def load_generator(path: str | Path, *, fold: bool = True) -> Generator:
    """The generator of a model for use: eval mode, on the CPU, in float32, without gradients.

    A discriminator in the folder is not read, and need not be there. Nothing in the files is executed.

    Args:
        path: a model folder; or a run folder, for its best, or else its latest, model.
        fold: fix the spectral norms and bake the banks, which makes the same pictures with less work. What is
            not folded can be saved for further training.

    Raises:
        UserError: no model, a damaged one, or one of another architecture or a later format.

    >>> generator = load_generator("models/source")
    >>> generator.classes, generator.resolution
    (['tench', 'alley'], 8)
    """
    folder = find_model(path)
    record = read_record(folder)
    generator, _ = _without_storage(folder, record.model_copy(update={"discriminator": None}))
    _load(generator, folder / "generator.safetensors")
    generator.provenance = record.provenance
    return for_use(generator) if fold else generator.eval().requires_grad_(False)


def _without_storage(folder: Path, record: ModelRecord) -> tuple[Generator, Discriminator | None]:
    """The networks of a record on the meta device.

    Raises:
        UserError: the record describes none.
    """
    try:
        # Without storage until the stored tensors are known to fit: a wrong size costs nothing, and weights
        # that are read don't have to be drawn first.
        with torch.device("meta"):
            return undrawn(record)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:  # torch has all of these for sizes
        raise not_a_model(folder, [str(error).partition("\n")[0]]) from error


def for_use(generator: Generator) -> Generator:
    """The generator, changed in place to one that makes pictures and is not trained: eval mode, folded.

    Convolutions are laid out as both processors and GPUs are quickest with. Weights that are changed after
    this need another call.
    """
    generator.fold()
    generator.keep_kernels()
    generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return generator.eval().requires_grad_(False)


def find_model(path: str | Path) -> Path:
    """The model folder that MODEL means: `path` itself, or the best, then the latest, model of a run folder.

    Raises:
        UserError: neither.
    """
    path = Path(path)
    candidates = [path, path / "model", path / "best" / "model", path / "latest" / "model"]
    for candidate in candidates:
        if (candidate / FILE).is_file():
            return candidate
    if not path.exists():
        raise UserError(
            f"there is no model at {path}: the path does not exist. Name the folder that `cgt pretrain`, "
            "`cgt transfer` or `cgt convert` wrote."
        )
    if (path / "config.yaml").is_file():
        raise UserError(
            f"{path} is a run folder without a checkpoint yet: wait for its first, or name another model."
        )
    raise UserError(
        f"{path} is neither a model folder (with a config.json) nor a run folder with a checkpoint: "
        "name the folder that `cgt pretrain`, `cgt transfer` or `cgt convert` wrote."
    )


def undrawn(record: ModelRecord) -> tuple[Generator, Discriminator | None]:
    """The networks of a record, whose weights are not those of its files."""
    first, *others = record.banks
    generator = Generator(record.generator, record.resolution, first.classes)
    if first.kind != generator.last_bank.kind or first.options:
        generator.banks[0] = _undrawn_bank(first, generator)
    for bank in others:
        generator.append(_undrawn_bank(bank, generator))
    found = record.discriminator
    discriminator = Discriminator(found.config, record.resolution, found.classes) if found else None
    if record.folded:
        generator.eval().fix_norms()
    return generator, discriminator


def _kind(bank: Bank) -> BankKind:
    assert bank.kind, "a bank that is only trained is saved in its stored form"
    return bank.kind


def _undrawn_bank(record: BankRecord, generator: Generator) -> Bank:
    shape: dict[str, Any] = {"classes": record.classes, **generator.bank_shape}
    if record.kind == "mined":
        return MinedBank(**shape, dim_z=generator.dim_z, **record.options)
    if record.kind == "steered":
        return SteeredBank(**shape, **record.options)
    if record.kind == "embedding":
        return EmbeddedBank(**shape, shared=generator.config.shared_dim, **record.options)
    return ClassBank(**shape, **record.options)


def _stored(network: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state of a network, as safetensors wants it, with parameters in a number type."""
    state = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        state[name] = state[name].to(dtype)
        if not state[name].isfinite().all() and parameter.isfinite().all():
            raise UserError(
                f"{name} has numbers beyond {torch.finfo(dtype).max:g}, the largest that {dtype} holds: "
                "store the model in float32."
            )
    return state


def _load(network: nn.Module, path: Path) -> None:
    """Give a network without storage the tensors of a file."""
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        # safetensors says so of a file that it may not read, too.
        if path.exists():
            raise UserError(f"{path} can't be read: check its permissions.") from None
        raise UserError(f"{path} is missing: take a complete copy of the model folder.") from None
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} can't be read ({error}): take an unbroken copy of the model folder."
        ) from error
    problems = list(_misfits(tensors, network.state_dict()))
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise UserError(
            f"{path} does not hold the model that its config.json describes: {shown}. Use a folder whose "
            "files belong together."
        )
    network.to_empty(device="cpu")
    network.load_state_dict(tensors)


def _misfits(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    """What is wrong with the tensors of a file, for a network of this state."""
    yield from (f"{name} is missing" for name in state if name not in tensors)
    yield from (f"{name} is not of this architecture" for name in tensors if name not in state)
    for name in (name for name in state if name in tensors):
        found, wanted = tensors[name], state[name]
        if found.shape != wanted.shape:
            yield f"{name} is {tuple(found.shape)}, not {tuple(wanted.shape)}"
        elif found.dtype not in (STORED_AS if wanted.is_floating_point() else (wanted.dtype,)):
            yield f"{name} is of {found.dtype}"
        elif not found.isfinite().all():
            yield f"{name} is not finite"
