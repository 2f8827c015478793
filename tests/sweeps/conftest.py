import json

import pytest
import yaml

from training.comparison import to_plain
from utils.setups import SETUPS

# Stands in for a stage script: finishes as a run does, with what a file next to it tells for each run's name.
FAKE = """
import json, pathlib, sys, time
here = pathlib.Path(__file__).parent
name = next(word.partition("=")[2] for word in sys.argv if word.startswith("run_name="))
told = json.loads((here / "told.json").read_text())[f"{here.name}/{pathlib.Path(__file__).stem}/{name}"]
with (here / "calls.txt").open("a") as file:
    file.write(name + chr(10))
time.sleep(told.get("seconds", 0))
if told["code"]:
    print("error: something went wrong")
    sys.exit(told["code"])
folder = pathlib.Path(told["folder"])
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.yml").write_text(told["config"])
(folder / "run.json").write_text(json.dumps({"status": "finished", "seconds": 2.0, "result": told["result"]}))
(folder / "model.pth.tar").touch()
"""


@pytest.fixture
def env(tmp_path):
    path = tmp_path / "env.yml"
    path.write_text(yaml.safe_dump({"root_dir": str(tmp_path / "results")}))
    return str(path)


@pytest.fixture
def fake(tmp_path):
    """Put stand-ins in the stage scripts' place; returns a function that tells them what comes out."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    for script in ("simclr", "scan", "selflabel"):
        (folder / f"{script}.py").write_text(FAKE)

    def tell(jobs, result=lambda job: {"acc": 0.5}, code=lambda job: 0, seconds=0.0):
        told = {}
        for job in jobs:
            told[f"scripts/{SETUPS[job.config().setup].module}/{job.name}"] = {
                "folder": str(job.folder()),
                "config": yaml.safe_dump(to_plain(job.config())),
                "result": result(job),
                "code": code(job),
                "seconds": seconds,
            }
        (folder / "told.json").write_text(json.dumps(told))
        return folder / "calls.txt"

    return tell
