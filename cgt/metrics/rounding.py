"""How a process rounds: features are the same bits only where all of this is the same."""

from collections.abc import Iterator
from contextlib import contextmanager

import PIL
import torch


@contextmanager
def without_tf32() -> Iterator[None]:
    """A block whose convolutions are float32 on a GPU, too.

    There torch has TF32 by default, with 10 bits after the point, which moves Inception's features by 0.3%.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def arithmetic(device: torch.device) -> tuple[object, ...]:
    """What decides how this process rounds on `device` without TF32, and decodes pictures."""
    if device.type == "cuda":
        return torch.__version__, PIL.__version__, torch.version.cuda, torch.cuda.get_device_name(device)
    cpu = torch.backends.cpu.get_cpu_capability()
    return torch.__version__, PIL.__version__, device.type, cpu, torch.get_num_threads()
