"""To see on a CPU whether a GPU would have been waited for."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

ASKING = {
    torch.ops.aten._local_scalar_dense,
    torch.ops.aten.equal,
    torch.ops.aten.masked_select,
    torch.ops.aten.nonzero,
    torch.ops.aten.unique_consecutive,
    torch.ops.aten._unique2,
}
"""What has to know values, or how many there are, before the program can go on."""


class NothingFetched(TorchDispatchMode):
    """A block in which an operation that would wait for a GPU is an error.

    Adam counts its steps on the CPU, whatever the device, and is left alone.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._patch = patch
        self._updating = False

    def __enter__(self) -> "NothingFetched":
        step = torch.optim.Adam.step

        def unwatched(*values: Any) -> None:
            self._updating = True
            try:
                step(*values)
            finally:
                self._updating = False

        self._patch.setattr(torch.optim.Adam, "step", unwatched)
        self._patch.setattr(
            "cgt.models.biggan.check_inputs", lambda *_: None
        )  # it looks at ids on a CPU alone
        tensor = torch.tensor

        def uncopied(*values: Any, **options: Any) -> torch.Tensor:
            assert self._updating or "device" not in options, (
                "a GPU would be waited for to copy what is given"
            )
            return tensor(*values, **options)

        self._patch.setattr(torch, "tensor", uncopied)
        for name in ("tolist", "numpy", "cpu"):  # of a CPU's tensors they are no operations
            self._patch.setattr(torch.Tensor, name, _refused)
        super().__enter__()
        return self

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run it, if it asks for nothing."""
        asks = operation.overloadpacket in ASKING or (
            operation.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put_)
            and any(index is not None and index.dtype == torch.bool for index in args[1])
        )
        assert self._updating or not asks, f"a GPU would be waited for by {operation}"
        return operation(*args, **(kwargs or {}))


def _refused(tensor: torch.Tensor) -> Any:
    raise AssertionError("a GPU would be waited for")
