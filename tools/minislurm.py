"""A real SLURM of two nodes on this machine, to try a batch script at home and for the tests.

    python tools/minislurm.py                          a shell in the cluster; leaving it ends the cluster
    python tools/minislurm.py sbatch --wrap hostname   one command; ends when all its jobs have ended

Needs root and Debian's packages: apt-get install --no-install-recommends slurmctld slurmd slurm-client. With
the right to make namespaces, each node has a network and a name of its own, as in life; without, both are
addresses of the loopback interface. Each node claims 64 cores and 4 GPUs, which are not really there.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = "slurmctld", "slurmd", "sbatch", "setpriv"
NODES = 2
SECONDS_TO_START = 30
END_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL"]
NEW_NAMESPACES = ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--mount-proc"]

CONFIG = """
ClusterName=mini
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
KillWait=5
MinJobAge=3600
GresTypes=gpu
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
EACH_NODE = "CPUs=64 RealMemory=64000 Gres=gpu:4 State=UNKNOWN"

IN_NAMESPACES = """
set -euo pipefail
mount --bind {folder}/hosts /etc/hosts
hostname ctl
ip link set lo up
ip link add bridge type bridge
ip address add 10.77.0.1/24 dev bridge
ip link set bridge up
for i in 1 2; do
    # exec keeps the number of the process, by which its network is found
    unshare --net --uts --mount bash -c "
        echo \\$\\$ >{folder}/node$i.new && mv {folder}/node$i.new {folder}/node$i
        until ip link show eth0; do sleep 0.05; done
        hostname node$i
        ip link set lo up
        ip address add 10.77.0.1$i/24 dev eth0
        ip link set eth0 up
        exec slurmd -D -N node$i -f {folder}/slurm.conf" >{folder}/slurmd.$i.log 2>&1 &
    until [[ -e {folder}/node$i ]]; do sleep 0.05; done
    ip link add veth$i type veth peer name eth0 netns "$(<{folder}/node$i)"
    ip link set veth$i master bridge up
done
exec slurmctld -D -f {folder}/slurm.conf >{folder}/slurmctld.log 2>&1
"""


class NoClusterError(Exception):
    """This machine can't have one; the message says why."""


@dataclass
class Cluster:
    """A running cluster."""

    folder: Path
    """Its configuration, logs and state."""
    enter: Sequence[str] = ()
    """The words before a command that is to run inside."""
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What commands inside need."""
        return os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(
        self, *words: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command where the cluster's controller is."""
        return subprocess.run(
            self._inside(words, cwd),
            env={**self.environment, **(environment or {})},
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
        )

    def show(self, *words: str) -> int:
        """Run a command at this terminal; its exit code."""
        return subprocess.run(self._inside(words, None), env=self.environment, check=False).returncode

    def is_idle(self) -> bool:
        """Whether no job is queued or running."""
        return not self.run("squeue", "--noheader").stdout.strip()

    def log(self) -> str:
        """The ends of the daemons' logs."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1000:]}" for log in logs)

    def _inside(self, words: Sequence[str], cwd: Path | None) -> list[str]:
        stay = [f"--wd={(cwd or Path.cwd()).resolve()}", "--"] if self.enter else []
        return [*self.enter, *stay, *words]


def missing() -> str | None:
    """Why this machine can't have a cluster, or None."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        install = "apt-get install --no-install-recommends slurmctld slurmd slurm-client"
        return f"{', '.join(absent)} not found: {install}"
    return None if os.geteuid() == 0 else "SLURM's daemons need root"


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster, for a block.

    Raises:
        NoClusterError: programs or rights are missing, or the daemons do not start.
    """
    if reason := missing():
        raise NoClusterError(reason)
    with tempfile.TemporaryDirectory(prefix="minislurm-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        started = (_namespaces if may_make_namespaces() else _loopback)(folder)
        try:
            _wait_until_idle(started)
            yield started
        finally:
            started.run("scancel", "--user=root")
            for process in started.processes:
                process.kill()
                process.wait()


def may_make_namespaces() -> bool:
    """Whether networks with bridges between them can be made here."""
    words = [*NEW_NAMESPACES, "ip", "link", "add", "bridge", "type", "bridge"]
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    return False


def _namespaces(folder: Path) -> Cluster:
    hosts = ["127.0.0.1 localhost", "10.77.0.1 ctl"]
    for i in range(1, NODES + 1):
        hosts += [f"10.77.0.1{i} node{i}", f"::ffff:10.77.0.1{i} node{i}"]
    (folder / "hosts").write_text("\n".join(hosts) + "\n")
    _configure(folder, "SlurmctldHost=ctl(10.77.0.1)", f"NodeName=node[1-{NODES}] {EACH_NODE}")
    words = [*END_WITH_PARENT, *NEW_NAMESPACES, "--kill-child=SIGKILL"]
    outer = _start(folder, "namespaces", [*words, "bash", "-c", IN_NAMESPACES.format(folder=folder)])
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    while outer.poll() is None and not children.read_text().strip():
        time.sleep(0.02)
    inner = children.read_text().split()[0]
    enter = ["nsenter", "-t", inner, "--mount", "--net", "--uts", "--pid"]
    return Cluster(folder, enter, [outer])


def _loopback(folder: Path) -> Cluster:
    host = socket.gethostname()
    names = [f"127.0.0.1{i}" for i in range(1, NODES + 1)]
    nodes = [
        f"NodeName={name} NodeAddr={name} NodeHostname={host} Port={_free_port()} {EACH_NODE}"
        for name in names
    ]
    ports = f"SlurmctldPort={_free_port()}"
    _configure(folder, f"SlurmctldHost={host}(127.0.0.1)", ports, *nodes)
    config = ["-D", "-f", str(folder / "slurm.conf")]
    daemons = [_start(folder, "slurmctld", [*END_WITH_PARENT, "slurmctld", *config])]
    for name in names:
        daemons.append(_start(folder, f"slurmd.{name}", [*END_WITH_PARENT, "slurmd", "-N", name, *config]))
    return Cluster(folder, (), daemons)


def _configure(folder: Path, *lines: str) -> None:
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text("\n".join([CONFIG.format(folder=folder).strip(), *lines]) + "\n")
    files = [folder / f"nvidia{i}" for i in range(4)]
    for file in files:
        file.touch()
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={file}\n" for file in files))


def _start(folder: Path, name: str, words: Sequence[str]) -> "subprocess.Popen[bytes]":
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _wait_until_idle(started: Cluster) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while started.run("sinfo", "--noheader", "--states=idle", "--format=%D").stdout.strip() != str(NODES):
        ended = [process.returncode for process in started.processes if process.poll() is not None]
        if ended or time.monotonic() > deadline:
            raise NoClusterError(f"SLURM does not start here. Its logs end with\n{started.log()}")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main(words: Sequence[str]) -> int:
    """Run a command, or a shell, in a cluster, until its jobs have ended too."""
    if words[:1] in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    try:
        with cluster() as started:
            code = started.show(*(words or [os.environ.get("SHELL", "bash")]))
            while not started.is_idle():
                time.sleep(1)
            return code
    except NoClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
