"""Threads that sleep while they wait for one another; to be imported before PyTorch, which starts them.

By default they spin, at the cost of whatever else computes: on a busy machine a training step with two threads then
takes several times as long as with one, and with sleeping ones about as long. No result depends on it.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
