"""What all tests share: one thread of torch, so that two test processes do not fight for two cores, and no hub."""

from __future__ import annotations

import os

import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)
