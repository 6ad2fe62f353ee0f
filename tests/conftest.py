"""Settings that hold for every test: no hub, no windows, the same random numbers each time, one share of the cores."""

from __future__ import annotations

import os
import random

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ["MPLBACKEND"] = "Agg"

import numpy as np
import pytest
import torch

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # each of them takes its share of the cores
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed Python, NumPy and PyTorch before each test; a test that needs the number asks for `seed`."""
    number = 0
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
    return number
