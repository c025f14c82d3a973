"""Building shards on many nodes, with an sbatch that only notes what it is told; and from a bare checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

from cgt.cli import main
from cgt.data.manifest import open_shards
from cgt.data.samples import open_shard, read_samples
from tests.data.miniatures import folder_input

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launch" / "slurm" / "build_shards.sbatch"

SBATCH = """
[[ $* != *"$REFUSED"* ]] || exit 1
number=$(($(ls "$JOBS" | wc -l) + 1))
printf '%s\\0' "$@" >"$JOBS/$number"
echo "$number;cluster"
"""
SCANCEL = 'echo "$*" >>"$JOBS/cancelled"'
CGT = f'exec "{sys.executable}" -m cgt "$@"'
QUICK_CGT = """
echo "$*" >>"$CALLS"
[[ $* != *"--task $FAILING/"* ]] || exit 1
case "$1 $2" in
    "shards build") mkdir -p "$5" && touch "$5/manifest.json" ;;
    "shards merge") mkdir "$3" && touch "$3/manifest.json" ;;
esac
"""
"""Makes no pictures."""


@dataclass
class Cluster:
    """Runs the script as a user does, and its jobs as SLURM does."""

    root: Path
    failing: str = "none"
    """The task that fails."""
    refused: str = "nothing"
    """No job is taken whose submission has this."""

    def __post_init__(self) -> None:
        (self.root / "bin").mkdir()
        (self.root / "jobs").mkdir()
        for name, content in (("sbatch", SBATCH), ("scancel", SCANCEL), ("cgt", QUICK_CGT)):
            self.put(name, content)
        shutil.copy(SCRIPT, self.root / "slurm_script")

    def put(self, name: str, content: str) -> None:
        program = self.root / "bin" / name
        program.write_text(f"#!/usr/bin/env bash\n{content}")
        program.chmod(0o755)

    def submit(self, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        asked = {"SOURCE": "folder", "INPUT": "in put", "OUT": "out put", "TASKS": "2"} | variables
        return self._bash(SCRIPT, *words, **asked)

    def jobs(self) -> list[tuple[list[str], list[str]]]:
        """(options, words of the script) of each job submitted."""
        jobs = []
        for path in sorted((self.root / "jobs").glob("[0-9]*")):
            words = path.read_text().split("\0")[:-1]
            script = words.index(str(SCRIPT))
            jobs.append((words[:script], words[script + 1 :]))
        return jobs

    def run(self, job: int, task: int) -> "subprocess.CompletedProcess[str]":
        words = self.jobs()[job][1]
        settings = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_CPUS_PER_TASK": "1"}
        return self._bash(self.root / "slurm_script", *words, **settings)

    def calls(self) -> list[str]:
        """What was asked of cgt."""
        return (self.root / "calls").read_text().splitlines()

    def _bash(self, script: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}"}
        environment |= {"JOBS": str(self.root / "jobs"), "CALLS": str(self.root / "calls")}
        environment |= {"FAILING": self.failing, "REFUSED": self.refused}
        return subprocess.run(
            ["bash", script, *words],
            cwd=self.root,
            env=environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def pictures(location: Path) -> list[tuple[str, int, bytes]]:
    folder = open_shards(str(location))
    return [
        (sample.key, sample.cls, sample.encoded)
        for shard in folder.manifest.shards
        for sample in read_samples(folder, shard, open_shard(folder, shard))
    ]


def test_all_parts_and_the_merge_give_the_pictures_of_one_build(cluster: Cluster) -> None:
    cluster.put("cgt", CGT)
    folder_input(cluster.root / "in put", {"cat": 5, "dog": 4, "owl": 3})
    options = ["--size", "8", "--classes", "owl,cat"]
    result = cluster.submit("--partition=cpu", "--", *options)
    assert result.returncode == 0, result.stderr
    for job, task in ((0, 1), (0, 2), (1, 0)):
        result = cluster.run(job, task)
        assert result.returncode == 0, result.stderr
    whole = cluster.root / "whole"
    assert main(["shards", "build", "folder", str(cluster.root / "in put"), str(whole), *options]) == 0
    made, expected = (open_shards(str(path)).manifest for path in (cluster.root / "out put", whole))
    assert (made.classes, made.build) == (expected.classes, expected.build)
    assert pictures(cluster.root / "out put") == pictures(whole)
    assert not (cluster.root / "out put.parts").exists()


def test_the_merge_waits_for_all_parts_and_goes_if_one_fails(cluster: Cluster) -> None:
    said = cluster.submit("--cpus-per-task=8", "--array=1-2%1", "--", "--seed", "3").stdout
    assert said == "job 1 builds 2 parts in out put.parts; job 2 merges them to out put\n"
    (parts, _), (merge, _) = cluster.jobs()
    assert parts == ["--parsable", "--array=1-2", "--cpus-per-task=8", "--array=1-2%1"]
    assert "--dependency=afterok:1" in merge
    assert "--kill-on-invalid-dep=yes" in merge
    assert merge.index("--array=0") > merge.index("--array=1-2%1")
    cluster.failing = "2"
    assert cluster.run(0, 1).returncode == 0
    assert cluster.run(0, 2).returncode != 0


def test_finished_parts_are_kept_when_a_command_is_typed_again(cluster: Cluster) -> None:
    cluster.submit("--", "--seed", "3")
    cluster.run(0, 1)
    assert cluster.submit("--time=1", "--", "--seed", "3").returncode == 0
    again = cluster.run(2, 1)
    assert (again.returncode, again.stdout) == (0, "out put.parts/1 is there already\n")
    cluster.run(2, 2)
    assert [call for call in cluster.calls() if "build" in call] == [
        f"shards build folder in put out put.parts/{i} --seed 3 --task {i}/2 --workers 1" for i in (1, 2)
    ]


def test_a_merge_that_is_requeued_once_its_folder_is_there_only_removes_the_parts(cluster: Cluster) -> None:
    cluster.submit()
    cluster.run(0, 1)
    (cluster.root / "out put").mkdir()
    (cluster.root / "out put" / "manifest.json").touch()
    assert cluster.run(1, 0).returncode == 0
    assert not any("merge" in call for call in cluster.calls())
    assert not (cluster.root / "out put.parts").exists()


def test_parts_of_another_command_are_refused(cluster: Cluster) -> None:
    cluster.submit("--", "--size", "32")
    assert cluster.submit("--", "--size", "64").returncode == 0  # no part was begun
    cluster.run(2, 1)
    refused = cluster.submit("--", "--size", "32")
    assert refused.returncode == 2
    assert "out put.parts holds the parts of another command: remove it" in refused.stderr
    assert len(cluster.jobs()) == 4


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"INPUT": ""}, "INPUT is not set"),
        ({"TASKS": "1"}, "TASKS=1 is no number from 2 on"),
        ({"TASKS": "many"}, "TASKS=many is no number"),
        ({"OUT": "jobs/"}, "jobs exists already"),
    ],
)
def test_mistakes_are_told_before_anything_is_submitted(
    variables: dict[str, str], message: str, cluster: Cluster
) -> None:
    refused = cluster.submit(**variables)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert not cluster.jobs()


def test_parts_are_cancelled_that_nothing_would_merge(cluster: Cluster) -> None:
    cluster.refused = "--dependency"
    assert cluster.submit().returncode == 2
    assert (cluster.root / "jobs" / "cancelled").read_text() == "1\n"


def test_the_script_of_the_checkout_builds_where_cgt_is_not_installed(tmp_path: Path) -> None:
    script = str(ROOT / "tools" / "build_shards.py")
    options = ["--classes", "shapes/new_classes.txt", "--per-class", "1", "--size", "8"]
    result = subprocess.run(
        [sys.executable, "-S", script, "shapes", "-", str(tmp_path / "out"), *options],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": sysconfig.get_path("purelib")},  # without its .pth, and so without cgt
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "5 pictures of 5 classes" in result.stdout
