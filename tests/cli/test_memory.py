"""`cgt launch memory` as a person types it; what it computes is tested with `cgt.training.memory`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgt.cli import main
from tests.tiny import SMALL_NETWORKS

Refusal = Callable[[int], str]
TINY = ["shapes/pretrain", "batch_size=32", *SMALL_NETWORKS]


def rows(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main(["launch", "memory", *words, "--json", "-"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_every_strategy_has_a_row_for_each_number_of_processes(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TINY, "--classes", "4", "--resolution", "16", "--processes", "1,2,4"]
    found = rows(capsys, *words)
    places = [(row["processes"], row["strategy"]) for row in found]
    zeros = ["zero1", "zero2", "zero3"]
    assert places == [(1, "ddp"), *((n, name) for n in (2, 4) for name in ("ddp", *zeros))]
    kinds = ("weights", "gradients", "adam", "ema", "buffers", "activations")
    assert all(row["total"] == sum(row[kind] for kind in kinds) for row in found)
    assert main(["launch", "memory", *words]) == 0
    table = capsys.readouterr().out
    assert "4 classes at 16 px, batch 32, fp32" in table
    assert table.count("zero3") == 2


def test_classes_and_size_are_those_of_the_shards(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = rows(capsys, *TINY, "--classes", "3", "--resolution", "16")
    assert rows(capsys, *TINY, f"data={workspace / 'new'}") == told
    fewer = rows(capsys, *TINY, f"data={workspace / 'new'}", "data.classes=[red-plus]")
    assert fewer[0]["weights"] < told[0]["weights"]


@pytest.mark.parametrize("method", ["cgantransfer", "bsa", "scratch"])
def test_a_transfer_holds_the_optimiser_s_state_of_what_it_trains_alone(
    method: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"shapes/{method}", "--source", str(workspace / "source"), "--classes", "3", "batch_size=8"]
    (found,) = rows(capsys, *words, "--processes", "1")
    both = found["adam"] / 2 / found["weights"]
    assert both > 0.9 if method == "scratch" else both < 0.8


def test_recomputing_and_half_precision_need_less(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TINY, "--classes", "4", "--resolution", "16", "--processes", "1", "batch_size=64"]
    plain, half, recomputed = (
        rows(capsys, *words, *more)[0]["activations"]
        for more in ([], ["precision=fp16"], ["gradient_checkpointing=true"])
    )
    assert half < 0.8 * plain
    assert recomputed < 0.9 * plain


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (TINY, "name the shards with data=SHARDS, or say it with --classes and --resolution"),
        ([*TINY, "--classes", "4"], "name the shards with data=SHARDS"),
        ([*TINY, "data=nowhere"], "there is no shard folder nowhere"),
        ([*TINY, "--processes", "two"], "--processes is 'two', and must be numbers"),
        ([*TINY, "--classes=4", "--resolution=16", "--processes=3"], "3 processes can't share batch_size 32"),
        ([*TINY, "--classes=4", "--resolution=18"], "the networks don't fit 4 classes at 18 px"),
        (["shapes/bsa", "--classes=4", "--resolution=16"], "a transfer's: name what it starts from with --s"),
        ([*TINY, "--source", "nowhere"], "there is no model at nowhere"),
    ],
)
def test_what_can_not_be_computed_is_refused(words: list[str], said: str, refusal: Refusal) -> None:
    message = refusal(main(["launch", "memory", *words]))
    assert said in message
