"""Commands that are killed at random moments leave nobody and nothing behind, and end as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from system.files import REPOSITORY


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_commands_killed_at_random_moments(tmp_path):
    out, log = tmp_path / "crash.json", tmp_path / "log.txt"
    out.write_text(json.dumps({"kills": 150}))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "benchmarks.kills", "--kills", "3", "--seed", "3", "--out", str(out)]
    with log.open("w") as file:
        code = subprocess.run(command, cwd=tmp_path, env=environment, stdout=file, stderr=file).returncode
    assert code == 0, log.read_text()
    found = json.loads(out.read_text())
    assert found["kills"] == 150  # what was measured of the stages stays
    killed = found["commands"]
    assert killed["kills_by_command"].keys() == {"cluster.py", "predict.py", "cache", "sweep.py"}
    assert killed["kills"] >= 4
    assert killed["orphans"] == killed["stray_files"] == killed["files_differing_from_the_reference"] == []
