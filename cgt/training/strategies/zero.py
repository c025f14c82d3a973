"""`zero1`, `zero2`, `zero3`: DeepSpeed's ZeRO (Rajbhandari et al., 2020), one engine a network.

Each process keeps a part of Adam's state (1), of the gradients (2) and of the weights too (3). The networks
of a GAN need an engine each: with one for both, Adam's momentum would move G on D's loss.
"""

import collections
import contextlib
import copy
import functools
import itertools
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cgt.training.strategies.base import Trainable, found_overflow

PERSISTENT = 100_000
"""Stage 3 leaves weights of fewer numbers whole: to gather them would cost more than to keep them."""

BUCKET = 25 * 2**18
"""Gradients are sent in messages of about so many numbers, of which a buffer is kept. DeepSpeed's own default
is 2 GB of them a network."""

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's, by torch's names."""


class Zero(Trainable):
    """A network whose training state is divided among the processes."""

    def __init__(self, stage: int, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        deepspeed = _deepspeed(self.world.device)
        self._divides_weights = stage == 3
        self._group_sizes = [len(group["params"]) for group in self.optimiser.param_groups]
        # Stage 3 takes weights as they lie in memory; the others make views of a flat buffer anyway.
        self.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        # The engine leaves its hooks and views in the network, so copies are made of what it was.
        self._blank = copy.deepcopy(self.network).to("meta")
        if self._divides_weights:
            # The engine switches off any autocast but its own, whose loss scale would be another.
            self.network.forward = functools.partial(_under, self.world.autocast, self.network.forward)
        self._engine, *_ = deepspeed.initialize(
            model=self.network,
            optimizer=self.optimiser,
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "managed_gradient_accumulation": False,
                "gradient_clipping": self.max_grad_norm or 0.0,
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
                "zero_optimization": {
                    "stage": stage,
                    "overlap_comm": False,
                    "reduce_bucket_size": bucket_size(self.parameters),
                    "stage3_param_persistence_threshold": PERSISTENT,
                },
            },
        )

    def __call__(self, *inputs: Any) -> Tensor:
        """The forward pass, which under stage 3 must go through the engine."""
        # Stages 1 and 2: the hooks that the engine puts on outputs do nothing for us.
        forward: Callable[..., Tensor] = self._engine if self._divides_weights else self.network
        return forward(*inputs)

    def _backward(self, loss: Tensor, *, last: bool) -> None:
        if not self._divides_weights:
            # Stage 2 fails without, where a loss reaches no parameter: that of a micro-batch of a frozen
            # generator leaves gradients at class tables, and the last one takes them on.
            self._engine.optimizer.setup_buckets()
        self._engine.backward(loss)

    def update(self) -> None:
        """One step of the optimiser, each process on its part, which it then hands to the others."""
        zero = self._engine.optimizer
        if self.scaler.is_enabled():
            # The loss is scaled here and not by the engine, which only takes the scale off.
            zero.override_loss_scale(self.scaler.get_scale())
        self._engine.step()
        if self.scaler.is_enabled():
            zero.custom_loss_scaler = False
            found_overflow(self.scaler, self.world.device, overflow=bool(zero.overflow))
        if self._divides_weights:
            # A parameter without a gradient in the next update's first micro-batch would begin with this one.
            zero.grad_partitions_flat_buffer.zero_()

    def hold(self, module: nn.Module) -> None:
        """Gather the weights of `module` if they are divided."""
        parameters = list(module.parameters())
        if self._divides_weights and parameters:
            parameters[0].all_gather(parameters)  # type: ignore[attr-defined]

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """A block in which all of the network's weights are gathered."""
        with self._gathered(modified=False):
            yield

    def copy(self) -> nn.Module:
        """A plain copy of the network, without the engine's hooks."""
        twin = copy.deepcopy(self._blank).to_empty(device=self.world.device)
        twin.load_state_dict(self.network.state_dict())
        return twin.train(self.network.training)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Whole tensors, gathered from all processes."""
        from deepspeed.utils import safe_get_full_optimizer_state

        with self.whole():
            network = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        of_first = self.optimiser.state.get(self._flats()[0])
        state = {}
        if of_first:
            self._link_moments()
            for number, parameter in enumerate(self.parameters):
                moments = {name: safe_get_full_optimizer_state(parameter, name) for name in MOMENTS}
                state[number] = {"step": of_first["step"].clone(), **moments}
        return {
            "network": network,
            "optimiser": {"state": state, "param_groups": self._groups()},
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        """Take over what any strategy saved, each process its part."""
        with self._gathered(modified=True):
            self.network.load_state_dict(state["network"])
        self._engine.optimizer.refresh_fp32_params()
        moments = state["optimiser"]["state"]
        for flat in self._flats():
            self.optimiser.state.pop(flat, None)
            if moments:
                empty = {name: torch.zeros_like(flat) for name in MOMENTS}
                self.optimiser.state[flat] = {"step": moments[0]["step"].clone(), **empty}
        if moments:
            self._link_moments()
        for number, moment in moments.items():
            self._set_moments(self.parameters[number], moment)
        for group, saved in zip(self.optimiser.param_groups, state["optimiser"]["param_groups"], strict=True):
            group.update({key: value for key, value in saved.items() if key != "params"})
        self.scaler.load_state_dict(state["scaler"])

    def _link_moments(self) -> None:
        """Tell the parameters where their moments are.

        DeepSpeed does so after the first step of the first group, when the other groups have none yet.
        """
        if not self._divides_weights:
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _set_moments(self, parameter: nn.Parameter, moments: dict[str, Tensor]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        for name in MOMENTS:
            value = moments[name].to(self.world.device)
            if self._divides_weights:
                # DeepSpeed's own way to set a whole tensor fails where the parts are padded.
                size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
                padded = torch.nn.functional.pad(value.flatten(), (0, size * self.world.size - value.numel()))
                safe_set_local_optimizer_state(parameter, padded.split(size)[self.world.rank], name)
            else:
                safe_set_full_optimizer_state(parameter, value, name)

    @contextlib.contextmanager
    def _gathered(self, *, modified: bool) -> Iterator[None]:
        """A block with all weights; if all processes `modified` them alike, these are divided at its end."""
        parameters: list[Any] = list(self.network.parameters()) if self._divides_weights else []
        if parameters:
            parameters[0].all_gather(parameters)
        try:
            yield
        finally:
            if parameters:
                parameters[0].partition(parameters, has_been_updated=modified)

    def _flats(self) -> list[Tensor]:
        """This process's part of the weights as the optimiser knows it."""
        zero = self._engine.optimizer
        flats: list[Tensor] = (
            zero.fp32_partitioned_groups_flat
            if self._divides_weights
            else zero.single_partition_of_fp32_groups
        )
        return flats

    def _groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups with the numbers of their parameters, as torch saves them."""
        numbers = iter(range(len(self.parameters)))
        return [
            {**group, "params": list(itertools.islice(numbers, size))}
            for group, size in zip(self.optimiser.param_groups, self._group_sizes, strict=True)
        ]


def bucket_size(parameters: Sequence[nn.Parameter]) -> int:
    """Numbers in the buffer; every gradient must fit."""
    return max(BUCKET, *(parameter.numel() for parameter in parameters))


def _deepspeed(device: torch.device) -> Any:
    """The library, told not to compile anything and not to print what it does."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    import deepspeed

    deepspeed.ops.__compatible_ops__ = collections.defaultdict(bool)
    # It broadcasts weights, which are the same everywhere already, in a way that fails on channels_last ones
    # and on single numbers.
    deepspeed.DeepSpeedEngine._broadcast_model = lambda engine: None
    deepspeed.zero.Init._zero_init_param = _divide
    deepspeed.utils.logger.setLevel(logging.ERROR)
    # It calls torch by names that torch is about to give up.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    return deepspeed


def _divide(init: Any, parameter: nn.Parameter) -> None:
    init._convert_to_deepspeed_param(parameter)
    parameter.partition()  # type: ignore[attr-defined]


def _under(
    context: Callable[[], contextlib.AbstractContextManager[None]],
    forward: Callable[..., Tensor],
    *inputs: Any,
) -> Tensor:
    with context():
        return forward(*inputs)
