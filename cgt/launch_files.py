"""Launch files: what an accelerate config says of processes and machines.

Files are those that `accelerate config` writes and `accelerate launch --config_file` reads. What they say of
the arithmetic is refused, since the run's config decides it.
"""

import socket
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from cgt import catalog
from cgt.errors import UserError

SAME = "NO", "MULTI_GPU", "MULTI_CPU", "DEEPSPEED"
"""What `distributed_type` may be: the processes and the strategy follow from the other keys."""
IDLE: dict[str, object] = {
    "gradient_accumulation_steps": 1,
    "offload_optimizer_device": "none",
    "offload_param_device": "none",
    "deepspeed_multinode_launcher": "standard",
}
"""What `accelerate config` writes for DeepSpeed, too, and what of it changes nothing."""


FOLLOWED = {
    "distributed_type",
    "mixed_precision",
    "num_machines",
    "num_processes",
    "machine_rank",
    "main_process_ip",
    "main_process_port",
    "use_cpu",
    "gpu_ids",
    "deepspeed_config",
}
WITHOUT_MEANING = {
    "compute_environment",
    "debug",
    "downcast_bf16",
    "enable_cpu_affinity",
    "main_training_function",
    "rdzv_backend",
    "same_network",
    "tpu_env",
    "tpu_use_cluster",
    "tpu_use_sudo",
}
"""What `accelerate config` writes besides, and what says nothing of processes on CPUs and GPUs."""


@dataclass(frozen=True)
class Plan:
    """The processes of a run."""

    processes: int = 1
    """On each machine."""
    machines: int = 1
    machine_rank: int = 0
    """This machine's number, from 0."""
    address: str = "127.0.0.1"
    """Where the processes meet: machine 0."""
    port: int | None = None
    strategy: str | None = None
    """What a launch file that names DeepSpeed chooses for the config: zero1, zero2 or zero3."""
    environment: dict[str, str] = field(default_factory=dict)
    """What all processes get."""

    @property
    def world(self) -> int:
        """The processes of all machines."""
        return self.machines * self.processes


def plan_of(processes: int | None, launch: str | None) -> Plan:
    """What a launch file, the name or the path of one, says; `processes` on this machine goes before it.

    Raises:
        UserError: there is no such file, or it says what can't be followed.
    """
    plan = Plan() if launch is None else _read(launch, processes)
    if processes is not None:
        plan = replace(plan, processes=processes)
    if plan.machines == 1 and plan.world > 1 and plan.port is None:
        plan = replace(plan, port=free_port())
    return plan


def shipped() -> list[str]:
    """The names of the launch files that come with cgt."""
    folder = files("cgt.launch").joinpath("accelerate")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def _read(launch: str, processes: int | None) -> Plan:
    values = _values(launch)
    kind = str(values.get("distributed_type", "NO"))
    if kind not in SAME:
        raise UserError(f"{launch}: distributed_type {kind} is not one of {', '.join(SAME)}.")
    if str(values.get("mixed_precision") or "no").lower() not in ("no", "false"):
        raise UserError(
            f"{launch}: mixed_precision {values['mixed_precision']} is not followed: leave it out, and set "
            f"precision={values['mixed_precision']} in the run's config."
        )
    machines = _number(launch, values, "num_machines", 1)
    machine_rank = _number(launch, values, "machine_rank", 0, least=0)
    gpus, on_cpu = _gpu_ids(launch, values), bool(values.get("use_cpu"))
    here = processes or (1 if on_cpu else len(gpus.split(",")) if gpus else _gpus())
    total = _number(launch, values, "num_processes", 0) or machines * here
    if machine_rank >= machines or total % machines:
        raise UserError(
            f"{launch}: machine_rank {machine_rank} must be less than num_machines {machines}, and "
            f"num_processes {total}, those of all machines, a multiple of it."
        )
    address = values.get("main_process_ip")
    port = _number(launch, values, "main_process_port", 0, least=0, most=65535) or None
    if machines > 1 and (address is None or port is None):
        raise UserError(
            f"{launch}: for {machines} machines, set main_process_ip, and main_process_port from 1 on."
        )
    environment = {"ACCELERATE_USE_CPU": "true"} if on_cpu else {}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus
    return Plan(
        processes=total // machines,
        machines=machines,
        machine_rank=machine_rank,
        address=str(address or "127.0.0.1"),
        port=port,
        strategy=_strategy(launch, values.get("deepspeed_config") or {}) if kind == "DEEPSPEED" else None,
        environment=environment,
    )


def _values(launch: str) -> dict[str, Any]:
    import yaml

    path = Path(launch)
    if not path.is_file():
        names = shipped()
        name = launch.removesuffix(".yaml")
        if name not in names:
            hint = catalog.did_you_mean(name, names)
            raise UserError(
                f"there is no launch file {launch!r}{hint}. Name a file, or one of {', '.join(names)}."
            )
        content = files("cgt.launch").joinpath("accelerate", f"{name}.yaml").read_text(encoding="utf-8")
    else:
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the launch file {launch} can't be read: {error}.") from None
    try:
        values = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise UserError(f"the launch file {launch} is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise UserError(f"the launch file {launch} must hold keys and values, as `accelerate config` writes.")
    for key, value in values.items():
        if key not in FOLLOWED | WITHOUT_MEANING and value:
            hint = catalog.did_you_mean(str(key), FOLLOWED)
            raise UserError(f"{launch}: {key} is not followed{hint}: leave it out.")
    return values


def _number(
    launch: str, values: dict[str, Any], key: str, default: int, *, least: int = 1, most: int | None = None
) -> int:
    """A whole number from `least` on; -1 and nothing are `default`, as accelerate has it."""
    value = values.get(key)
    if value is None or value == -1:
        return default
    if type(value) is not int or value < least or (most is not None and value > most):
        end = "on" if most is None else f"to {most}"
        raise UserError(f"{launch}: {key} is {value!r}, and must be a whole number from {least} {end}.")
    return value


def _gpu_ids(launch: str, values: dict[str, Any]) -> str:
    """The GPUs that the file names, as CUDA_VISIBLE_DEVICES has them; "" for all."""
    ids = values.get("gpu_ids")
    if ids is None or ids == "all":
        return ""
    if not isinstance(ids, str | int):
        raise UserError(f"{launch}: gpu_ids is {ids!r}, and must be all, or numbers with commas such as 0,1.")
    return str(ids)


def _strategy(launch: str, deepspeed: Any) -> str:
    """What the config's `strategy` becomes; one engine for each network is made from it."""
    if not isinstance(deepspeed, dict):
        raise UserError(f"{launch}: deepspeed_config is {deepspeed!r}, and must hold zero_stage: 1, 2 or 3.")
    kept = {"zero_stage", "zero3_init_flag", "zero3_save_16bit_model"}
    others = sorted(key for key, value in deepspeed.items() if key not in kept and value != IDLE.get(key))
    stage = deepspeed.get("zero_stage")
    if others or stage not in (1, 2, 3):
        said = f"{others[0]} is not followed" if others else f"zero_stage is {stage}"
        raise UserError(
            f"{launch}: deepspeed_config: {said}: of it, only zero_stage (1, 2 or 3) is read; the rest "
            "follows from the run's config."
        )
    return f"zero{stage}"


def _gpus() -> int:
    """The GPUs of this machine; 1 where there is none."""
    import torch

    return torch.cuda.device_count() or 1


def free_port() -> int:
    """A port of this machine that nothing listens at now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert isinstance(port, int)
        return port
