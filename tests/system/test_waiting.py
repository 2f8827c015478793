"""Threads of PyTorch wait asleep: said before it is loaded, or it would not be heard."""

import os
import subprocess
import sys

import pytest

from system.files import REPOSITORY

WATCH = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "numpy"):
            print(name, os.environ.get("OMP_WAIT_POLICY"))
sys.meta_path.insert(0, Watch())
import cluster
"""


@pytest.mark.slow
@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_it_is_said_before_pytorch_is_loaded(given):
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    done = subprocess.run(
        [sys.executable, "-c", WATCH], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    assert f"torch {given or 'PASSIVE'}" in done.stdout.splitlines()
    assert "None" not in done.stdout
