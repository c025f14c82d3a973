"""Starting a command as several processes, and finding a process's place among those of a launcher.

`cgt VERB --processes N` runs itself N times on this machine. These processes, and those that `torchrun`,
`accelerate launch` or `srun` start, go through `find_place` before they meet.
"""

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

from cgt.errors import SaidElsewhereError, UserError
from cgt.launch_files import Plan, plan_of

COMMAND: ContextVar[Sequence[str]] = ContextVar("COMMAND", default=())
"""The words after `cgt`, which the command line notes here."""

LAST_WORDS = "CGT_LAST_WORDS"
"""Set in processes that `spread` started: a file for what a process has to say at its end."""

PATIENCE = 20.0
"""Seconds for the other ranks to end by themselves when one has failed; then they are asked to end."""
ENDING = 10.0
"""Seconds between being asked to end and being killed."""

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
NOT_EPHEMERAL = range(20000, 32000)
"""Ports that Linux does not hand out by itself."""


def spread(processes: int | None, launch: str | None) -> list[str]:
    """Run this command in as many processes as asked for, and end with their exit code; or be one of them.

    Args:
        processes: on this machine; None as the launch file says, or one.
        launch: a launch file of accelerate, or the name of a shipped one.

    Returns:
        In a process that goes on with the command: what the launch file sets in the config, as overrides.

    Raises:
        UserError: the launch file is wrong, the processes don't fit this machine, or another launcher has
            started this process.
        SystemExit: the processes have ended.
    """
    plan = plan_of(processes, launch)
    if LAST_WORDS not in os.environ and (processes or launch):
        if _started_by_a_launcher():
            raise _once(
                os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")),
                "--processes and --launch start processes, and this one was started by torchrun, accelerate "
                "launch or srun already: leave them out.",
            )
        os.environ |= plan.environment
        if plan.world > 1:
            raise SystemExit(_run(COMMAND.get(), plan))
    if LAST_WORDS in os.environ:
        sys.excepthook = _say_traceback
    strategy = plan.strategy or _strategy_of_accelerate()
    find_place()
    return [f"strategy={strategy}"] if strategy else []


def find_place(environ: MutableMapping[str, str] = os.environ) -> None:
    """Note this process's place where only SLURM knows it, and choose the CPU for ranks without a GPU.

    To be called before the ranks meet.

    Raises:
        UserError: there are fewer GPUs here than processes, or the ranks' port is in use or no port.
    """
    if _one_of_a_step(environ):
        for name, value in slurm_place(environ).items():
            environ.setdefault(name, value)
        port = environ["MASTER_PORT"]
        if not (port.isdecimal() and 0 < int(port) < 65536):
            raise _once(environ["RANK"], f"MASTER_PORT is {port!r}, and must be a number from 1 to 65535.")
        if environ["RANK"] == "0":
            refuse_taken_port(int(port))
    if int(environ.get("WORLD_SIZE", "1")) == 1:
        return
    # Torch warns of connections that end, with the stack of each, when ranks leave or are killed.
    environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if _is_set(environ.get("ACCELERATE_USE_CPU", "")):
        return
    import torch

    here, gpus = int(environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if not gpus:
        environ["ACCELERATE_USE_CPU"] = "true"
    elif here > gpus:
        raise _once(
            environ["LOCAL_RANK"],
            f"{here} processes were started on {socket.gethostname()}, which shows them {gpus} "
            f"GPU{'s' * (gpus > 1)}: start at most one for each, let every process see all of them (srun "
            "--gpu-bind=none), or set ACCELERATE_USE_CPU=1 to run on the CPU.",
        )


def slurm_place(environ: Mapping[str, str]) -> dict[str, str]:
    """What torch asks for, from what `srun` tells each task of a step. Rank 0 is on the step's first node."""
    job, step = int(environ["SLURM_JOB_ID"]), int(environ["SLURM_STEP_ID"])
    tasks = [
        int(count)
        for count, _, times in re.findall(r"(\d+)(\(x(\d+)\))?", environ["SLURM_STEP_TASKS_PER_NODE"])
        for _ in range(int(times or 1))
    ]
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(tasks[int(environ["SLURM_NODEID"])]),
        "MASTER_ADDR": first_host(environ["SLURM_STEP_NODELIST"]),
        # Apart from the ports of jobs with neighbouring numbers, which may run on the same node.
        "MASTER_PORT": str(NOT_EPHEMERAL[(16 * job + step) % len(NOT_EPHEMERAL)]),
    }


def first_host(nodes: str) -> str:
    """The first name of a list as SLURM shortens it: `gpu[03-05,9],login` begins with gpu03."""
    found = re.match(r"(?:[^,\[]|\[[^]]*])+", nodes)
    assert found, nodes
    return re.sub(r"\[([^]\-,]+)[^]]*]", r"\1", found[0])


def cores() -> int:
    """The cores that this process may use, which in a container or a batch job are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def refuse_taken_port(port: int) -> None:
    """Check that this machine's `port` is free for the ranks to meet at.

    Raises:
        UserError: it is not.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError:
            raise UserError(
                f"port {port} of {socket.gethostname()}, where the processes shall meet, is in use: end what "
                "uses it, or name another (main_process_port in a launch file, MASTER_PORT under srun)."
            ) from None


def say(text: str) -> None:
    """Say how the command ended: to stderr, or to the process that started this one and says it once."""
    if place := os.environ.get(LAST_WORDS):
        Path(place).write_text(text, encoding="utf-8")
        return
    from rich.console import Console
    from rich.text import Text

    line = Text(text)
    line.highlight_regex("^error:", "bold red")
    # As it stands: its brackets are not markup, its lines are not wrapped.
    Console(stderr=True).print(line, soft_wrap=True)


def leave(code: int) -> NoReturn:
    """End this process. One of several ends here and now: Python's own end, which takes down what torch has
    running, aborts it now and then.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _say_traceback(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    """What becomes of a defect: the ranks have it in common, too."""
    say("".join(traceback.format_exception(error)).rstrip())


@dataclass
class _Rank:
    number: int
    process: "subprocess.Popen[bytes]"
    last_words: Path


@dataclass
class _Ranks:
    """The processes of one machine, from their start to the end of the last one."""

    ranks: list[_Rank]
    asked: list[int] = field(default_factory=list)
    """Signals that were passed on."""
    failed: list[_Rank] = field(default_factory=list)
    """In the order in which they ended."""

    def wait(self) -> None:
        """Until all have ended. When one has failed, or was interrupted, the others must follow soon."""
        running, deadline, order = list(self.ranks), float("inf"), iter((signal.SIGTERM, signal.SIGKILL))
        while running:
            time.sleep(0.05)
            for rank in [rank for rank in running if rank.process.poll() is not None]:
                running.remove(rank)
                if rank.process.returncode:
                    self.failed.append(rank)
            if deadline == float("inf") and (self.failed or signal.SIGINT in self.asked):
                deadline = time.monotonic() + PATIENCE
            if time.monotonic() > deadline:
                self._send(next(order, signal.SIGKILL))
                deadline = time.monotonic() + ENDING

    def pass_on(self, number: int, _: FrameType | None) -> None:
        """Hand a signal to all; a second Ctrl-C ends them at once."""
        self._send(signal.SIGKILL if number == signal.SIGINT in self.asked else number)
        self.asked.append(number)

    def _send(self, number: int) -> None:
        for rank in self.ranks:
            rank.process.send_signal(number)

    @property
    def code(self) -> int:
        """The exit code of the whole: that of the first to fail."""
        if signal.SIGINT in self.asked:
            return INTERRUPTED
        code = self.failed[0].process.returncode if self.failed else 0
        return code if code >= 0 else 128 - code if -code in self.asked else 1

    def sayings(self) -> list[str]:
        """What the ranks said at their end, each thing once, beginning with the first rank that failed."""
        found = []
        for rank in self.failed:
            number = -rank.process.returncode
            if rank.last_words.exists():
                found.append(rank.last_words.read_text(encoding="utf-8"))
            elif rank is self.failed[0] and number > 0 and number not in self.asked:
                why = " (is the machine out of memory?)" if number == signal.SIGKILL else ""
                name = signal.Signals(number).name
                found.append(f"error: rank {rank.number} was ended by {name}{why}, and so the run ends.")
        return list(dict.fromkeys(found))


def _run(words: Sequence[str], plan: Plan) -> int:
    """Run `cgt WORDS` as this machine's share of the plan's processes; what the run's exit code is."""
    if plan.port is not None and plan.machine_rank == 0:
        refuse_taken_port(plan.port)
    with tempfile.TemporaryDirectory(prefix="cgt-") as folder:
        ranks = _Ranks([])
        with _passing_on(ranks):
            for local in range(plan.processes):
                rank = plan.machine_rank * plan.processes + local
                said = Path(folder) / str(rank)
                process = subprocess.Popen(
                    [*_python(), "-m", "cgt", *words],
                    env=os.environ | _place(plan, local) | {LAST_WORDS: str(said)},
                    stdin=subprocess.DEVNULL,
                    stdout=None if rank == 0 else subprocess.DEVNULL,
                    process_group=0,  # Ctrl-C comes to this process alone, which passes it on
                    preexec_fn=_end_with_parent,
                )
                ranks.ranks.append(_Rank(rank, process, said))
            ranks.wait()
        if ranks.code != INTERRUPTED:
            for saying in ranks.sayings():
                say(saying)
    return ranks.code


def _python() -> list[str]:
    """Python as it runs this, but that no module of the working folder takes the place of another."""
    return [sys.executable, *([] if Path.cwd() == Path(__file__).parents[1] else ["-P"])]


def _place(plan: Plan, local: int) -> dict[str, str]:
    """What torch asks for in process `local` of this machine."""
    place = {
        "RANK": str(plan.machine_rank * plan.processes + local),
        "WORLD_SIZE": str(plan.world),
        "LOCAL_RANK": str(local),
        "LOCAL_WORLD_SIZE": str(plan.processes),
        "MASTER_ADDR": plan.address,
        "MASTER_PORT": str(plan.port),
        "OMP_NUM_THREADS": str(max(1, cores() // plan.processes)),
    }
    if plan.machines == 1 and sys.platform == "linux":
        place["GLOO_SOCKET_IFNAME"] = (
            "lo"  # by itself gloo looks up the machine's name, which may lead nowhere
        )
    kept = ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME")
    return place | {name: os.environ[name] for name in kept if name in os.environ}


@contextmanager
def _passing_on(ranks: _Ranks) -> Iterator[None]:
    # Those that are ignored (SIGHUP under nohup) the ranks ignore, too.
    heeded = [number for number in FORWARDED if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, ranks.pass_on) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_with_parent() -> None:
    """Have Linux end this process when the one that started it is killed."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def _started_by_a_launcher() -> bool:
    return "RANK" in os.environ or _one_of_a_step(os.environ)


def _one_of_a_step(environ: Mapping[str, str]) -> bool:
    """Whether `srun` started this process and others, and no other launcher did in between."""
    return (
        "RANK" not in environ
        and "SLURM_STEP_ID" in environ
        and "SLURM_PROCID" in environ
        and int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    )


def _strategy_of_accelerate() -> str | None:
    """The strategy that `accelerate launch` was given, whose own way of using DeepSpeed is put aside.

    It serves one network, and a GAN has two.

    Raises:
        UserError: it was given what the run's config decides.
    """
    deepspeed = _is_set(os.environ.pop("ACCELERATE_USE_DEEPSPEED", ""))
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE")
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    refused = None
    if precision != "no":
        refused = f"mixed_precision {precision}", f"precision={precision}"
    elif _is_set(os.environ.get("ACCELERATE_USE_FSDP", "")):
        refused = "FSDP", "strategy=zero3"
    elif deepspeed and stage not in ("0", "1", "2", "3"):
        refused = "DeepSpeed without a zero_stage (1, 2 or 3)", "strategy=zero2, for example,"
    if refused:
        raise _once(
            os.environ.get("RANK", "0"),
            f"accelerate launch was given {refused[0]}, which is not followed: leave it out, and set "
            f"{refused[1]} in the run's config.",
        )
    if not deepspeed:
        return None
    return "ddp" if stage == "0" else f"zero{stage}"


def _is_set(flag: str) -> bool:
    return flag.lower() in ("1", "true", "yes", "on", "y", "t")


def _once(rank: str, message: str) -> Exception:
    """The error for what all ranks find: the first says it."""
    return UserError(message) if rank == "0" else SaidElsewhereError(0, 2)
