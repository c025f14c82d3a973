"""`cgt launch`: training, measuring and checking on many machines."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cgt.cli.memory import memory
from cgt.wording import counted

app = typer.Typer(no_args_is_help=True, help="Start pretrain, transfer, eval or doctor on many machines.")

COMMAND = Annotated[
    list[str],
    typer.Argument(metavar="-- VERB ARGS...", help="pretrain, transfer, eval or doctor, and what it takes."),
]


@app.command()
def slurm(
    command: COMMAND,
    nodes: Annotated[int, typer.Option(min=1, metavar="N", help="Machines.")] = 1,
    gpus_per_node: Annotated[
        int, typer.Option(min=0, metavar="N", help="GPUs, each with its process; 0 to run on the CPU.")
    ] = 1,
    tasks_per_node: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Processes. [default: one for each GPU, or one]", show_default=False
        ),
    ] = None,
    cpus_per_task: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Cores of each process.", show_default=False)
    ] = None,
    time: Annotated[
        str | None, typer.Option(metavar="D-HH:MM:SS", help="When the job is stopped.", show_default=False)
    ] = None,
    partition: Annotated[str | None, typer.Option(metavar="NAME", show_default=False)] = None,
    account: Annotated[str | None, typer.Option(metavar="NAME", show_default=False)] = None,
    job_name: Annotated[str | None, typer.Option(metavar="NAME", show_default=False)] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION", help="Any other option of sbatch: --sbatch=--qos=high.", show_default=False
        ),
    ] = None,
    setup: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Shell file to source first: modules, a virtual environment. [default: this environment]",
            show_default=False,
        ),
    ] = None,
    container: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS",
            help='What goes before the command: "apptainer exec --nv cgt.sif".',
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the script and submit nothing.")] = False,
    test_only: Annotated[
        bool, typer.Option("--test-only", help="Have SLURM check the script, and submit nothing.")
    ] = False,
) -> None:
    """Submit a SLURM job that runs the command with one process for each GPU.

    A pretraining or transfer that is preempted, or whose time is up, writes a checkpoint, is queued again
    and goes on from there. Logs: slurm-JOB.out, and one for each rank in slurm/JOB.
    """
    from cgt.batch_scripts import Job, script, submit
    from cgt.errors import UserError

    if gpus_per_node and tasks_per_node and tasks_per_node > gpus_per_node:
        raise UserError(
            f"{tasks_per_node} processes on each node, and {counted(gpus_per_node, 'GPU')}: leave "
            "--tasks-per-node out, or set --gpus-per-node=0 to run on the CPU."
        )
    job = Job(
        options={
            "job-name": job_name,
            "nodes": nodes,
            "gpus-per-node": gpus_per_node or None,
            "ntasks-per-node": tasks_per_node or gpus_per_node or 1,
            "cpus-per-task": cpus_per_task,
            "time": time,
            "partition": partition,
            "account": account,
        },
        more=tuple(sbatch or ()),
        setup=setup,
        container=container,
    )
    text = script(command, job)
    if dry_run:
        print(text, end="")
    else:
        print(submit(text, test_only=test_only))


@app.command()
def torchrun(
    command: COMMAND,
    hosts: Annotated[
        str,
        typer.Option(metavar="A,B,...", help="The machines; the first is where the processes meet."),
    ],
    processes: Annotated[
        int, typer.Option(min=1, metavar="N", help="Processes on each machine: its number of GPUs.")
    ] = 1,
    port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="PORT", help="A free port of the first.")
    ] = 29500,
) -> None:
    """Print what to type on each machine, where no SLURM starts the processes.

    torchrun's own exit code is 1 for whatever goes wrong. Under SLURM and with --processes it is the verb's.
    """
    from cgt.batch_scripts import check
    from cgt.errors import UserError

    check(command)
    names = [name.strip() for name in hosts.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise UserError(f"--hosts={hosts}: name each machine once, with commas between: --hosts=gpu01,gpu02.")
    for rank, host in enumerate(names):
        words = ["torchrun", f"--nnodes={len(names)}", f"--node-rank={rank}", f"--nproc-per-node={processes}"]
        words += [f"--master-addr={names[0]}", f"--master-port={port}"]
        # Without the dashes torchrun takes --run for an option of its own.
        words += ["-m", "--", "cgt", *command]
        print(f"# on {host}\n{shlex.join(words)}")


app.command()(memory)
