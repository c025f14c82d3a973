"""A workspace that the tests of the training verbs share, and how they read a refusal."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cgt.cli import main
from tests.tiny import SHORT_RUN, SMALL_NETWORKS


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of old and new classes at 16 px, and a pretrained run."""
    root = tmp_path_factory.mktemp("workspace")
    build = ["shards", "build", "shapes", "-"]
    sizes = ["--size", "16", "--per-class", "4"]
    assert main([*build, str(root / "old"), "--classes", "red-disk,gold-plus", *sizes]) == 0
    assert main([*build, str(root / "new"), "--classes", "red-plus,gold-disk,gold-star", *sizes]) == 0
    assert (
        main(
            [
                "pretrain",
                "shapes/pretrain",
                f"data={root / 'old'}",
                *SHORT_RUN,
                *SMALL_NETWORKS,
                "--run",
                str(root / "source"),
            ]
        )
        == 0
    )
    return root


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[[int], str]:
    """The message of a command that must have been refused as the user's mistake, given its exit code."""

    def message_of(code: int) -> str:
        message = capsys.readouterr().err
        assert code == 2, message
        assert "Traceback" not in message
        return message

    return message_of
