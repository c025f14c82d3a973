"""Where verbs compute, and what they take for a connection that is lost."""

import pytest
import torch

from cgt import distributed
from cgt.errors import RunError


@pytest.mark.parametrize(
    ("there", "flag", "expected"),
    [
        (True, None, "cuda"),
        (True, "false", "cuda"),
        (True, "true", "cpu"),
        (True, "1", "cpu"),
        (False, None, "cpu"),
    ],
)
def test_a_gpu_is_used_where_there_is_one_unless_the_cpu_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, there: bool, flag: str | None, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    if flag:
        monkeypatch.setenv("ACCELERATE_USE_CPU", flag)
    assert distributed.device() == torch.device(expected)


def test_a_world_stays_on_the_cpu_where_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class State:
        num_processes = 1

        def __init__(self, cpu: bool, timeout: object) -> None:
            self.device = torch.device("cpu" if cpu else "cuda")

    monkeypatch.setattr(distributed, "PartialState", State)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    assert distributed.World().device.type == "cuda"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert distributed.World().device.type == "cpu"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Read error"), True),
        (RuntimeError("Application timeout caused pair closure"), True),
        (torch.distributed.DistNetworkError("connection reset"), True),
        (RunError("runs/igloo/latest could not be written: no room on the disk"), False),
        (RuntimeError("CUDA out of memory"), False),
    ],
)
def test_only_what_the_connection_itself_says_means_that_it_is_lost(error: Exception, expected: bool) -> None:
    assert distributed.lost_touch(error) is expected
