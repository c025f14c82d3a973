"""What all tests share: one thread each, draws that repeat, nothing fetched."""

import os

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that would fetch something fails instead
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_draws_every_time() -> None:
    torch.manual_seed(0)
