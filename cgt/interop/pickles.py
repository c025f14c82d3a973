"""Reading what `torch.save` wrote without executing anything in it."""

import io
import pickle
import re
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgt.errors import UserError

HARMLESS = frozenset(
    {
        ("_codecs", "encode"),
        ("argparse", "Namespace"),
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("copyreg", "_reconstructor"),
        ("functools", "partial"),
        ("pathlib", "PosixPath"),
        *(
            (module, name)
            for module in ("builtins", "__builtin__")
            for name in ("dict", "list", "object", "set")
        ),
    }
)
"""Of Python's own library, what a dict of options may hold."""
PLAIN = (bool, int, float, str, type(None))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a checkpoint file, on the CPU.

    Raises:
        UserError: no such file; or it is incomplete, or something else, or holds more than tensors (which is
            refused, not executed).
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}: name a checkpoint file, or the folder that holds it.")
    try:
        with warnings.catch_warnings():
            # A pickle of an unusual protocol is refused below; torch's advice to report it helps nobody.
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise UserError(f"{path} can't be read ({error.strerror}): check its permissions.") from error
    except Exception as error:
        # A damaged file fails in every way there is; each means the same to the reader.
        raise UserError(_refusal(path, error)) from None
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise UserError(
            f"{path} holds {_described(content)}, not a state dict (names and tensors): "
            "name the file that holds a network's weights."
        )
    return {str(key): value for key, value in content.items()}


def read_plain_values(path: Path) -> dict[str, Any]:
    """The numbers, texts and nested dicts of a pickled dict; everything else in it is left out, unexecuted.

    BigGAN-PyTorch's `state_dict.pth` is such a file. Its config holds pickled activation modules, so that
    `weights_only=True` refuses it.

    Raises:
        UserError: not a pickled dict.
    """
    try:
        content = _load_inert(path.read_bytes())
    except Exception as error:
        raise UserError(
            f"{path} is not a pickled dict of options, or is incomplete ({_first_line(error)}); nothing in "
            "it was executed."
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {_described(content)}, not a dict.")
    try:
        return _plain(content)
    except RecursionError:
        raise UserError(f"{path} holds dicts without end: get an unbroken copy.") from None


class _Inert:
    """Stands for every object that a pickle asks for: takes anything, does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    extend = add = append


class _InertUnpickler(pickle.Unpickler):
    """Builds numbers, texts, lists and dicts; each global becomes `_Inert`, so that none can run.

    What no config needs of Python itself is refused all the same: somebody meant harm.
    """

    def find_class(self, module: str, name: str) -> Any:
        standard = module.partition(".")[0] in sys.stdlib_module_names
        if standard and (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which could run code")
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _Inert

    def persistent_load(self, _: Any) -> Any:
        return _Inert


def _load_inert(content: bytes) -> Any:
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            return _InertUnpickler(io.BytesIO(archive.read(name))).load()
    stream = io.BytesIO(content)
    # torch before 1.6: a magic number, the protocol's version, system information, then the object.
    for _ in range(3):
        _InertUnpickler(stream).load()
    return _InertUnpickler(stream).load()


def _plain(values: dict[Any, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            kept[str(key)] = _plain(value)
        elif isinstance(value, PLAIN):
            kept[str(key)] = value
    return kept


def _refusal(path: Path, error: Exception) -> str:
    asks = (
        re.search(r"GLOBAL (\S+)|function (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError)
        else None
    )
    if asks:
        return (
            f"{path} holds more than tensors: it asks for {asks[1] or asks[2]}, which could run code. It was "
            "refused, and nothing in it was executed. Get a file that holds names and tensors alone."
        )
    return f"{path} is not a PyTorch checkpoint, or is incomplete: copy it again, or name another file."


def _described(content: Any) -> str:
    if isinstance(content, dict):
        other = sorted({type(value).__name__ for value in content.values() if not isinstance(value, Tensor)})
        return f"a dict of {', '.join(other)}" if other else "an empty dict"
    return f"a {type(content).__name__}"


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:120] if text else type(error).__name__
