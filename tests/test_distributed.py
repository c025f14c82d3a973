"""Where verbs compute."""

import pytest
import torch

from cgt import distributed


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
