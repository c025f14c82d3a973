"""What is said of long work where there is no terminal."""

import pytest

from cgt import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that `progress` reads, in seconds."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_work_says_speed_and_time_left_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """What an earlier process did, 100 of 1,000 pictures, does not count as speed."""
    with progress.work_progress("pictures") as work:
        for done, clock[0] in ((100, 0.0), (110, 5.0), (160, 30.0), (170, 35.0), (220, 60.0)):
            work.reach(done, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "160 of 1,000 pictures, 2.0/s  7.0 min left",
        "220 of 1,000 pictures, 2.0/s  6.5 min left",
    ]


def test_steps_say_their_losses_and_pictures_a_second(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.steps_progress(500, 200, pictures_per_step=64) as steps:
        for clock[0] in (10.0, 20.0, 30.0):
            steps.advance({"d_loss": 1.23456})
        steps.report(203, {"fid": 12.0})
    assert capsys.readouterr().err.splitlines() == [
        "203 of 500 steps, 0.1/s  6 pictures/s  d loss 1.235  49.5 min left",
        "step 203: fid 12",
    ]
