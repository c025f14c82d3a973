"""Batch scripts without a SLURM: `srun` and `scontrol` are scripts that note what they are asked for."""

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAINING = ["pretrain", "transfer"]


@dataclass
class Node:
    """Where SLURM starts a batch script."""

    home: Path

    def __post_init__(self) -> None:
        (self.home / "bin").mkdir()
        self.put("srun", 'printf "%s\\n" "${@:5}" >asked')
        self.put("scontrol", 'echo "$*" >requeued')

    def put(self, name: str, code: str) -> None:
        program = self.home / "bin" / name
        program.write_text(f"#!/usr/bin/env bash\n{code}\n")
        program.chmod(0o755)

    def start(self, verb: str, *words: str, **variables: str) -> "subprocess.Popen[str]":
        environment = {"PATH": f"{self.home / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "3", "RUN": "run"}
        return subprocess.Popen(
            ["bash", ROOT / "launch" / "slurm" / f"{verb}.sbatch", *words],
            cwd=self.home,
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, verb: str, *words: str, **variables: str) -> int:
        script = self.start(verb, *words, **variables)
        script.communicate(timeout=30)
        return script.returncode

    def asked(self) -> list[str]:
        """The words of cgt."""
        return (self.home / "asked").read_text().splitlines()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.parametrize("verb", [*TRAINING, "eval", "doctor"])
def test_what_is_sourced_may_be_careless_and_sees_no_arguments(verb: str, node: Node) -> None:
    node.put("srun", "exit 3")
    (node.home / "setup.sh").write_text('echo "$#" >seen; echo "$NOWHERE"; touch sourced; set -euo pipefail')
    script = node.start(verb, "config", SETUP="setup.sh")
    said = script.communicate(timeout=30)[1]
    assert (node.home / "sourced").exists()
    assert (node.home / "seen").read_text() == "0\n"
    assert script.returncode == 3
    assert "error: exit code 3; what the ranks said is in slurm/3" in said


@pytest.mark.parametrize("verb", TRAINING)
def test_a_job_that_is_preempted_while_its_environment_is_set_up_is_queued_again(
    verb: str, node: Node
) -> None:
    (node.home / "setup.sh").write_text("touch sourced; sleep 1")
    script = node.start(verb, "config", SETUP="setup.sh")
    while not (node.home / "sourced").exists():
        time.sleep(0.02)
    script.send_signal(signal.SIGUSR1)
    said = script.communicate(timeout=30)[0]
    assert script.returncode == 0
    assert "preempted: queued again, to go on with run" in said
    assert (node.home / "requeued").read_text() == "requeue 3\n"
    assert not (node.home / "asked").exists()


@pytest.mark.parametrize("verb", TRAINING)
def test_a_job_that_has_never_time_for_a_checkpoint_is_not_queued_for_ever(verb: str, node: Node) -> None:
    def codes(times: int, **variables: str) -> list[int]:
        return [node.run(verb, "config", **variables) for _ in range(times)]

    (node.home / "setup.sh").write_text("kill -USR1 $$")
    node.put("srun", "exit 75")
    assert codes(9, SETUP="setup.sh") == [0] * 9
    assert codes(1) == [0]  # a checkpoint, from which the counting begins again
    assert codes(10, SETUP="setup.sh") == [0] * 9 + [1]


@pytest.mark.parametrize("verb", TRAINING)
def test_only_a_run_that_the_job_began_itself_goes_on(verb: str, node: Node) -> None:
    words = ["cgt", verb, "config", "--overwrite", "--run", "run"]
    (node.home / "run").mkdir()
    (node.home / "run" / "config.yaml").touch()
    for restarts in ("0", "1"):
        assert node.run(verb, "config", "--overwrite", SLURM_RESTART_COUNT=restarts) == 0
        assert node.asked() == words
    (node.home / "new").touch()
    (node.home / "new").replace(node.home / "run" / "config.yaml")
    assert node.run(verb, "config", "--overwrite", SLURM_RESTART_COUNT="2") == 0
    assert node.asked() == [*words, "--resume"]
    # The numbers of jobs begin again, now and then.
    assert node.run(verb, "config", "--overwrite") == 0
    assert node.asked() == words
