"""What all tests share: the CPU, one thread each, draws that repeat, nothing fetched."""

import os
import tempfile

import pytest
import torch

os.environ["ACCELERATE_USE_CPU"] = "true"  # also where there is a GPU, but for tests that are of it
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that would fetch something fails instead
os.environ["CGT_CACHE"] = tempfile.mkdtemp(prefix="cgt-tests-")  # nothing is left for the next test run
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_draws_every_time() -> None:
    torch.manual_seed(0)
