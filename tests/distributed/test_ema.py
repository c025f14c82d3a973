"""The average in parts, against the average in one piece."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # what DTensor will import: once here, not seconds in every rank
import torch.distributed.checkpoint as dcp
import torch.distributed.tensor
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cgt.distributed import World
from cgt.errors import UserError
from cgt.training.ema import EMA, EMAConfig
from tests.distributed.ranks import run_ranks

SHAPES = [(3, 5, 3, 3), (7,), (), (4, 6), (2, 3, 1, 1), (11, 13)]
NUMBERS = 316
STEPS = 4


def _weights(step: int, *, channels_last: bool = True) -> list[nn.Parameter]:
    """What is trained, as it is after a step, on any rank."""
    torch.manual_seed(step)
    tensors = [torch.randn(shape) for shape in SHAPES]
    if channels_last:
        tensors = [
            tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
            for tensor in tensors
        ]
    return [nn.Parameter(tensor) for tensor in tensors]


def _move(parameters: list[nn.Parameter], step: int) -> None:
    for parameter, new in zip(parameters, _weights(step), strict=True):
        parameter.data.copy_(new.data)


def _trained(config: EMAConfig, *, channels_last: bool = True) -> EMA:
    """The average of a short run."""
    parameters = _weights(0, channels_last=channels_last)
    ema = EMA(parameters, config, World())
    for step in range(STEPS):
        _move(parameters, step + 1)
        ema.update(step)
    return ema


def _applied(ema: EMA) -> list[Tensor]:
    with ema.applied():
        return [parameter.detach().clone() for parameter in ema.parameters]


CONFIG = EMAConfig(decay=0.9, start=1)


def _average(channels_last: bool) -> tuple[list[Tensor], int, list[Tensor]]:
    """The average, this rank's bytes of it, and the weights after it was applied."""
    ema = _trained(CONFIG, channels_last=channels_last)
    average = _applied(ema)
    storages = {view.untyped_storage().data_ptr(): view.untyped_storage().nbytes() for view in ema.average}
    return average, sum(storages.values()), [parameter.detach() for parameter in ema.parameters]


def _by_recurrence() -> list[Tensor]:
    average = [parameter.detach() for parameter in _weights(1)]
    for step in range(1, STEPS):
        for mean, live in zip(average, _weights(step + 1), strict=True):
            mean.lerp_(live.detach(), 1 - 0.9)
    return average


@pytest.mark.parametrize(
    ("world", "channels_last"), [(1, True), (1, False), (2, True), (3, False), (5, True)]
)
def test_parts_add_up_to_the_average_of_one_process_to_the_bit(world: int, channels_last: bool) -> None:
    found = run_ranks(_average, world, channels_last)
    expected = _by_recurrence()
    for average, _, after in found:
        assert all(torch.equal(*pair) for pair in zip(average, expected, strict=True))
        assert all(torch.equal(*pair) for pair in zip(after, _weights(STEPS), strict=True))
    assert sum(held for _, held, _ in found) == 4 * NUMBERS


def _few_numbers() -> list[float]:
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    ema = EMA([parameter], EMAConfig(decay=0.5, start=0), World())
    parameter.data.add_(1)
    ema.update(0)
    return _applied(ema)[0].tolist()


def test_ranks_without_a_number_take_part() -> None:
    assert run_ranks(_few_numbers, 4) == [[1.5, 2.5]] * 4


class _NewMemory(TorchDispatchMode):
    """Counts the bytes of what operators make."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        ours = {
            tensor.untyped_storage().data_ptr()
            for tensor in torch.utils._pytree.tree_leaves((args, kwargs))
            if isinstance(tensor, Tensor)
        }
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in ours:
                self.bytes += tensor.untyped_storage().nbytes()
        return result


def _new_memory() -> int:
    ema = _trained(CONFIG)
    with _NewMemory() as made:
        ema.update(STEPS)
        if World().size == 1:
            with ema.applied():
                pass
    return made.bytes


@pytest.mark.parametrize("world", [1, 2])
def test_update_and_on_one_process_a_look_at_the_average_copy_nothing(world: int) -> None:
    assert run_ranks(_new_memory, world) == [0] * world


def _save(folder: Path) -> None:
    dcp.save({"ema": _trained(CONFIG).state_dict()}, checkpoint_id=folder)


def _load_and_save(source: Path, target: Path | None) -> tuple[list[Tensor], list[Tensor]]:
    """The average found in a checkpoint, and after one more step."""
    parameters = _weights(STEPS)
    ema = EMA(parameters, CONFIG, World())
    state = {"ema": ema.state_dict()}
    dcp.load(state, checkpoint_id=source)
    ema.load_state_dict(state["ema"])
    if target:
        dcp.save(state, checkpoint_id=target)
    found = _applied(ema)
    _move(parameters, STEPS + 1)
    ema.update(STEPS)
    return found, _applied(ema)


def test_average_that_2_ranks_saved_goes_on_with_3_and_then_1(tmp_path: Path) -> None:
    run_ranks(_save, 2, tmp_path / "2")
    on_three = run_ranks(_load_and_save, 3, tmp_path / "2", tmp_path / "3")
    on_one = run_ranks(_load_and_save, 1, tmp_path / "3", None)
    expected = _by_recurrence()
    further = [
        average.lerp(live.detach(), 1 - 0.9)
        for average, live in zip(expected, _weights(STEPS + 1), strict=True)
    ]
    for found, after in on_three + on_one:
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
        assert all(torch.equal(*pair) for pair in zip(after, further, strict=True))


def _load_plain(vector: Tensor) -> list[Tensor]:
    ema = EMA(_weights(0), CONFIG, World())
    ema.load_state_dict({"average": vector})
    return _applied(ema)


def test_whole_vector_is_taken_by_any_number_of_ranks() -> None:
    vector = _trained(CONFIG).state_dict()["average"]
    assert vector.shape == (NUMBERS,)
    for average in run_ranks(_load_plain, 2, vector):
        assert all(torch.equal(*pair) for pair in zip(average, _by_recurrence(), strict=True))


def test_average_of_other_networks_is_refused() -> None:
    with pytest.raises(UserError, match=r"shape \(315,\), and what is trained here has 316 numbers"):
        EMA(_weights(0), CONFIG, World()).load_state_dict({"average": torch.zeros(NUMBERS - 1)})
