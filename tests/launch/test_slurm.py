"""Batch scripts in a real SLURM of two nodes; skipped where there is none."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from cgt.batch_scripts import VERBS
from cgt.cli import main
from tests.tiny import SMALL_NETWORKS
from tools import minislurm

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "launch" / "slurm").glob("*.sbatch"))

REACH_EACH_OTHER = f"""
exec {sys.executable} -c '
import sys, torch
from cgt.distributed import World
from cgt.launching import find_place
find_place()
world = World()
print(world.rank, world.gather(sys.argv[1:]), int(world.sum_(torch.ones(()))), flush=True)
' "$MARK" "$@"
"""
"""Instead of cgt: what each rank was given, and the number of them."""

UNTIL_SIGNALLED = """
[[ $* == *--resume* ]] && exit 0
trap 'exit 75' USR1
mkdir -p "$RUN_FOLDER" && touch "$RUN_FOLDER/config.yaml"
while :; do sleep 0.1; done
"""
"""A run that is preempted once."""


@dataclass
class Site:
    """A cluster and a user's folder on it, where `cgt` is a script of the test."""

    cluster: minislurm.Cluster
    home: Path

    def __post_init__(self) -> None:
        self.setup = self.home / "setup.sh"
        self.setup.write_text(f'PATH="{self.home}:$PATH"\n')

    def cgt(self, code: str) -> None:
        program = self.home / "cgt"
        program.write_text(f"#!/usr/bin/env bash\n{code}")
        program.chmod(0o755)

    def launch(self, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "cgt", "launch", "slurm", "--gpus-per-node=0", "--cpus-per-task=1"]
        return self.cluster.run(*command, *words, environment=environment, cwd=self.home)

    def job(self, number: int) -> dict[str, str]:
        shown = self.cluster.run("scontrol", "--oneliner", "show", "job", str(number)).stdout
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def wait(self, number: int, *states: str, seconds: float = 60) -> dict[str, str]:
        deadline = time.monotonic() + seconds
        while (job := self.job(number))["JobState"] not in states:
            assert time.monotonic() < deadline, f"{job}\n{self.cluster.log()}"
            time.sleep(0.1)
        return job

    def said(self, number: int) -> str:
        logs = [self.home / f"slurm-{number}.out", *sorted((self.home / "slurm" / str(number)).glob("*.log"))]
        return "\n".join(log.read_text() for log in logs)


@pytest.fixture(scope="module")
def cluster() -> Iterator[minislurm.Cluster]:
    if reason := minislurm.missing():
        pytest.skip(f"there is no SLURM to test with: {reason}")
    with minislurm.cluster() as started:
        yield started


@pytest.fixture
def site(cluster: minislurm.Cluster, tmp_path: Path) -> Site:
    return Site(cluster, tmp_path)


def number_of(submitted: "subprocess.CompletedProcess[str]") -> int:
    assert submitted.returncode == 0, submitted.stderr
    assert submitted.stdout.startswith("Submitted batch job ")
    return int(submitted.stdout.split()[-1])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_slurm_takes_every_shipped_script(script: Path, site: Site) -> None:
    tested = site.cluster.run("sbatch", "--test-only", str(script), "config")
    assert tested.returncode == 0, tested.stderr
    refused = site.cluster.run("sbatch", "--test-only", "--partition=none", str(script), "config")
    assert refused.returncode != 0


@pytest.mark.parametrize("verb", VERBS)
def test_slurm_takes_every_script_as_it_is_filled_in(verb: str, site: Site) -> None:
    options = ["--nodes=2", "--gpus-per-node=4", "--time=1-00:00:00", "--partition=main", "--account=me"]
    tested = site.launch(*options, "--test-only", "--", verb, "config")
    assert tested.returncode == 0, tested.stderr
    assert "to start at" in tested.stdout


def test_slurm_takes_options_as_they_are_typed(site: Site) -> None:
    site.cgt("exit 0")
    options = ["--job-name=it's my job", "--sbatch=--comment=no # at all"]
    number = number_of(site.launch(*options, f"--setup={site.setup}", "--", "eval", "model"))
    shown = site.cluster.run("scontrol", "show", "job", str(number)).stdout
    assert "JobName=it's my job\n" in shown
    assert "Comment=no # at all" in shown
    site.wait(number, "COMPLETED")


def test_what_sbatch_refuses_is_said(site: Site) -> None:
    refused = site.launch("--partition=none", "--test-only", "--", "eval", "model")
    assert refused.returncode == 2
    assert "error: sbatch does not take the job: " in refused.stderr
    assert "invalid partition specified: none" in refused.stderr


def test_the_ranks_of_two_nodes_reach_each_other(site: Site) -> None:
    site.cgt(REACH_EACH_OTHER)
    words = ["eval", "a model", "--data", "$shards"]
    where = [f"--setup={site.setup}", "--container=env MARK=inside"]
    submitted = site.launch("--nodes=2", *where, "--", *words)
    number = number_of(submitted)
    site.wait(number, "COMPLETED", "FAILED")
    given = [["inside", *words]] * 2
    for rank in (0, 1):
        assert f"{rank} {given} 2" in site.said(number).splitlines(), site.said(number)


@pytest.mark.slow
def test_the_doctor_checks_the_connection_between_two_nodes(site: Site) -> None:
    number = number_of(site.launch("--nodes=2", "--", "doctor", "--json", "found.json"))
    job = site.wait(number, "COMPLETED", "FAILED", seconds=120)
    assert job["JobState"] == "COMPLETED", site.said(number)
    found = json.loads((site.home / "found.json").read_text())
    assert found["slurm"]["partitions"] == [{"name": "main", "nodes": 2, "default": True}]
    assert found["slurm"]["job"]["id"] == str(number)
    assert len(found["launch"]["ranks"]) == 2
    assert found["launch"]["connection"]["large"]["bus_gb_per_s"] > 0
    assert found["launch"]["warnings"] == []


def test_a_preempted_run_is_queued_again_and_goes_on(site: Site) -> None:
    run = site.home / "the run"
    site.cgt(f'RUN_FOLDER="{run}"; printf "%s\\n" "$@"\n{UNTIL_SIGNALLED}')
    submitted = site.launch(
        "--nodes=2", f"--setup={site.setup}", "--", "pretrain", "config", "--run", str(run)
    )
    number = number_of(submitted)
    while not (run / "config.yaml").exists():
        time.sleep(0.1)
    time.sleep(0.5)
    assert site.cluster.run("scancel", "--batch", "--signal=USR1", str(number)).returncode == 0
    job = site.wait(number, "COMPLETED", "FAILED")
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), site.said(number)
    said = (site.home / "slurm" / str(number) / "0.log").read_text().splitlines()
    log = [line for line in said if line != "User defined signal 1"]  # what bash says of its `sleep`
    begun = ["pretrain", "config", "--run", str(run)]
    assert log == [*begun, *begun, "--resume"]
    assert "preempted: queued again, to go on with" in site.said(number)


@pytest.mark.slow
def test_a_preempted_pretraining_on_two_nodes_resumes_at_the_step_where_it_stopped(site: Site) -> None:
    shards, run = site.home / "shards", site.home / "run"
    build = ["shards", "build", "shapes", "-", str(shards), "--classes=red-disk,gold-plus"]
    assert main([*build, "--size=16", "--per-class=4"]) == 0
    rare = ["eval_every=1000", "save_every=1000", "log_every=1", "ema.standing_batches=2"]
    settings = [f"data={shards}", *SMALL_NETWORKS, *rare, "batch_size=8", "steps=100"]
    words = ["pretrain", "shapes/pretrain", *settings, "--run", str(run)]
    number = number_of(site.launch("--nodes=2", "--", *words))
    metrics, deadline = run / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text()):
        assert time.monotonic() < deadline, site.said(number)
        time.sleep(0.1)
    assert site.cluster.run("scancel", "--batch", "--signal=USR1", str(number)).returncode == 0
    job = site.wait(number, "COMPLETED", "FAILED", seconds=180)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), site.said(number)
    stopped = re.search(r"checkpoints/(\d+)", site.said(number))
    assert stopped
    assert 0 < int(stopped[1]) < 100
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 101))
    assert (run / "latest" / "model" / "generator.safetensors").is_file()


@pytest.mark.parametrize("verb", ["transfer", "eval"])
def test_a_run_that_fails_ends_the_job_with_its_code(verb: str, site: Site) -> None:
    site.cgt('echo "error: rank $SLURM_PROCID"; ((SLURM_PROCID)) || exit 2')
    number = number_of(site.launch("--nodes=2", f"--setup={site.setup}", "--", verb, "config"))
    job = site.wait(number, "COMPLETED", "FAILED")
    assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("FAILED", "2:0", "0")
    assert f"exit code 2; what the ranks said is in slurm/{number}" in site.said(number)
    assert "error: rank 1" in site.said(number)


def test_a_dry_run_prints_a_script_that_works_by_itself(capsys, tmp_path: Path) -> None:
    words = ["pretrain", "con fig", "--run", "a run", "data=it's"]
    options = ["--nodes=2", "--gpus-per-node=4", "--sbatch=--qos=high", "--container=apptainer exec x.sif"]
    assert main(["launch", "slurm", *options, "--dry-run", "--", *words]) == 0
    script = capsys.readouterr().out
    headers = [line for line in script.splitlines() if line.startswith("#SBATCH ")]
    for header in ("--nodes=2", "--gpus-per-node=4", "--ntasks-per-node=4", "--qos=high", "--requeue"):
        assert [line for line in headers if line.startswith(f"#SBATCH {header.partition('=')[0]}")] == [
            f"#SBATCH {header}"
        ]
    (tmp_path / "job.sh").write_text(script)
    (tmp_path / "srun").write_text('#!/usr/bin/env bash\nprintf "%s\\n" "${@:5}"\n')
    (tmp_path / "srun").chmod(0o755)
    bash = shutil.which("bash")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "3"}
    result = subprocess.run(
        [bash, "job.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    expected = ["apptainer", "exec", "x.sif", "cgt", "pretrain", "con fig", "data=it's", "--run", "a run"]
    assert result.stdout.splitlines() == expected


def test_an_option_that_the_verb_does_not_have_is_left_for_it_to_refuse(capsys) -> None:
    assert main(["launch", "slurm", "--dry-run", "--", "eval", "model", "--run", "folder"]) == 0
    assert "set -- model --run folder" in capsys.readouterr().out.splitlines()


def test_pretrain_and_transfer_have_one_script_but_for_the_verb() -> None:
    bodies = []
    for verb in ("pretrain", "transfer"):
        text = (ROOT / "launch" / "slurm" / f"{verb}.sbatch").read_text()
        lines = text.splitlines()
        bodies.append([line.replace(verb, "VERB") for line in lines if not line.startswith("#")])
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo"], "'demo' can't be launched"),
        (["eval", "m", "--processes=2"], "--processes=2 starts processes on one machine"),
    ],
)
def test_commands_that_are_not_for_many_machines_are_refused(words: list[str], said: str, capsys) -> None:
    for launcher in (["slurm", "--dry-run"], ["torchrun", "--hosts=a,b"]):
        assert main(["launch", *launcher, "--", *words]) == 2
        assert said in capsys.readouterr().err


def test_more_processes_than_gpus_are_refused_before_the_job_waits_in_a_queue(capsys) -> None:
    assert main(["launch", "slurm", "--gpus-per-node=2", "--tasks-per-node=4", "--", "eval", "model"]) == 2
    assert "4 processes on each node, and 2 GPUs" in capsys.readouterr().err


def test_without_slurm_one_is_told_so(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["launch", "slurm", "--", "pretrain", "config"]) == 2
    assert "there is no sbatch here" in capsys.readouterr().err


@pytest.mark.parametrize("hosts", ["", "a,,b", "a,b,a"])
def test_torchrun_wants_the_name_of_each_host_once(hosts: str, capsys) -> None:
    assert main(["launch", "torchrun", f"--hosts={hosts}", "--", "eval", "model"]) == 2
    assert f"--hosts={hosts}: name each machine once" in capsys.readouterr().err


def test_torchrun_is_told_what_to_do_on_each_host(capsys) -> None:
    launcher = ["launch", "torchrun", "--hosts=a,b", "--processes=4", "--port=1234"]
    assert main([*launcher, "--", "pretrain", "con fig", "--run", "runs/x"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[::2] == ["# on a", "# on b"]
    for rank, line in enumerate(lines[1::2]):
        program, *words = shlex.split(line)
        assert program == "torchrun"
        understood = get_args_parser().parse_args(words)
        assert (understood.nnodes, understood.node_rank, understood.nproc_per_node) == ("2", rank, "4")
        assert (understood.master_addr, understood.master_port) == ("a", 1234)
        assert (understood.module, understood.training_script) == (True, "cgt")
        assert understood.training_script_args == ["pretrain", "con fig", "--run", "runs/x"]
