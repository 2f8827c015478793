"""What tests share: one thread (tiny tensors lose by more), and a hypothesis that tries the same cases every time."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")
