"""The state of a run as files: torch.distributed.checkpoint's tensors in safetensors, and the rest as JSON.

DCP shares replicated tensors out among the ranks, has owners write sharded ones, and puts them together again
for any number of ranks. Of its formats the one for Hugging Face is read without unpickling anything.
"""

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from cgt.distributed import World
from cgt.files import write_text

warnings.filterwarnings("ignore", "torch.distributed is (unavailable or uninitialized|disabled)", UserWarning)

TREE = "state.json"


def taken_apart(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """A tree of dicts, lists, tuples, tensors and plain values as JSON, and copies of its tensors by name.

    Tensors are copied to the CPU, of a DTensor this rank's part.
    """
    tensors: dict[str, Tensor] = {}
    return _plain(state, (), tensors), tensors


def write_state(folder: Path, tree: Any, tensors: dict[str, Tensor], world: World) -> None:
    """Write what `taken_apart` made into the folder; all ranks together, each its part."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    # Tensors are on the CPU. To copy some ahead from a GPU it would wait for the one that threads begin with,
    # the first, which need not be the one of this rank.
    writer.per_thread_copy_ahead = 0
    with _first_failure():
        save(tensors, storage_writer=writer, process_group=world.group, no_dist=world.size == 1)
    if world.is_main:
        write_text(folder / TREE, json.dumps(tree))


def read_state(folder: Path) -> Any:
    """What was taken apart, whole, on the CPU; each rank reads it by itself.

    Raises:
        Exception: of any kind, where files are damaged.
    """
    tensors = read_tensors(folder)
    return _built(json.loads((folder / TREE).read_text(encoding="utf-8")), tensors)


def read_tensors(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors whose names are `wanted`, keys joined by dots, on the CPU; no others are read.

    Raises:
        Exception: of any kind, where files are damaged.
    """
    reader = HuggingFaceStorageReader(str(folder))
    tensors = {
        name: torch.empty(found.size, dtype=found.properties.dtype)
        for name, found in reader.read_metadata().state_dict_metadata.items()
        if isinstance(found, TensorStorageMetadata) and wanted(name)
    }
    with _first_failure():
        load(tensors, storage_reader=reader, no_dist=True)
    return tensors


@contextlib.contextmanager
def _first_failure() -> Iterator[None]:
    """Raise what went wrong: a CheckpointException is no Exception, and holds the failures of all ranks."""
    try:
        yield
    except CheckpointException as error:
        failure, _ = next(iter(error.failures.values()))
        raise failure from error


def _plain(value: Any, path: Sequence[str], tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor) and not value.dim():
        return {"scalar": value.item(), "dtype": _name(value.dtype)}
    if isinstance(value, Tensor):
        name = ".".join(path)
        channels_last = value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
        tensors[name] = _copied(value.detach())
        return {"tensor": name, "channels_last": channels_last}
    if isinstance(value, dict):
        return {"dict": [[key, _plain(inner, (*path, str(key)), tensors)] for key, inner in value.items()]}
    if isinstance(value, list | tuple):
        items = [_plain(inner, (*path, str(i)), tensors) for i, inner in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    assert value is None or isinstance(value, bool | int | float | str), type(value)
    return value


def _copied(tensor: Tensor) -> Tensor:
    """On the CPU in the usual order of memory, the only one that safetensors has."""
    return tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)


def _built(node: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        layout = torch.channels_last if node["channels_last"] else torch.contiguous_format
        return tensors[node["tensor"]].contiguous(memory_format=layout)
    if "scalar" in node:
        return torch.tensor(node["scalar"], dtype=_dtype(node["dtype"]))
    if "dict" in node:
        return {key: _built(inner, tensors) for key, inner in node["dict"]}
    kind, items = next(iter(node.items()))
    return {"list": list, "tuple": tuple}[kind](_built(inner, tensors) for inner in items)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name} is no dtype")
    return dtype
