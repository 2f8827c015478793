"""Run jobs as processes of their own, several at once, one per GPU; stop them cleanly."""

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from sweeps.plan import Job
from system import processes, signals
from system.console import say, warn
from system.distributed import num_cores
from system.errors import ConfigError
from system.files import REPOSITORY
from system.lock import holder
from system.yaml_file import load_yaml
from training.comparison import to_plain
from training.folder import CONFIG, MODEL, RunFolder, began_with_another
from training.record import read_finished, read_record
from utils.setups import SETUPS
from utils.stage import keys_of

LOOK_EVERY = 0.5  # seconds


def is_finished(job: Job) -> bool:
    """Whether this very run was finished before."""
    run = _folder_of(job)
    try:
        old = load_yaml(run.folder / CONFIG)
    except ConfigError:
        return False
    if read_finished(run.folder) is None or (run.keys.has_model and not (run.folder / MODEL).exists()):
        return False
    return not any(run.compare(old)) and not (run.keys.images and run.keys.images.changes(run.folder, finished=True))


def others_in(job: Job) -> list[str]:
    """The keys in which a run that is in a job's folder, and would be kept, is another one."""
    run = _folder_of(job)
    if run.config["overwrite"] or not run.has_begun:
        return []
    try:
        return run.compare(load_yaml(run.folder / CONFIG))[0]
    except ConfigError:
        return []


def _folder_of(job: Job) -> RunFolder:
    p = job.config()
    return RunFolder(job.folder(), to_plain(p), keys_of(p))


def make_slots(num_jobs: int | None) -> list[dict[str, str]]:
    """The environment of each process that runs at a time: by default one per GPU, or one."""
    gpus: list[str] = []
    if torch.cuda.is_available():
        gpus = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        if len(gpus) != torch.cuda.device_count():
            gpus = [str(number) for number in range(torch.cuda.device_count())]
    num = num_jobs or max(1, len(gpus))
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, num_cores() // num))
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    shared = {"OMP_NUM_THREADS": threads, "PYTHONPATH": paths}
    return [shared | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}) for i in range(num)]


def environment_of(slot: dict[str, str], device: str) -> dict[str, str]:
    """A slot's environment for a run on a device: one that names its GPU, cuda:N, counts all there are."""
    if not device.startswith("cuda:"):
        return slot
    return {name: value for name, value in slot.items() if name != "CUDA_VISIBLE_DEVICES"}


class Runner:
    """Runs jobs, each after the one it starts from; a failed one takes only those with it that start from it.

    Args:
        slots: the environment of each process that runs at a time.
        logs: the folder for what the processes say.
        scripts: the folder of the stage scripts.
    """

    def __init__(self, slots: Sequence[dict[str, str]], logs: Path, scripts: Path = REPOSITORY) -> None:
        self.logs, self.scripts, self.num_slots = logs, scripts, len(slots)
        self._slots: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for slot in slots:
            self._slots.put(slot)
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.stopped_by = 0
        self.failed: set[Job] = set()
        self._told: set[Job] = set()  # of which it was said that they wait

    def run(self, jobs: Sequence[Job]) -> None:
        """Run what is not finished; `failed` and `stopped_by` (a signal's number) say how it went."""
        waiting = [job for job in jobs if not is_finished(job)]
        done = set(jobs) - set(waiting)
        say(f"{len(jobs)} runs, {len(done)} of them finished before; {self.num_slots} at a time")
        if stale := [job for job in done if began_with_another(job.folder(), keys_of(job.config()).start)]:
            warn(
                f"{len(stale)} of them began with a model that has changed since, such as {stale[0].folder()}; "
                "move their folders away to run them again"
            )
        self.logs.mkdir(parents=True, exist_ok=True)
        running: dict[Future[int], Job] = {}
        with signals.caught(self._forward), ThreadPoolExecutor(self.num_slots) as pool:
            while (waiting or running) and not (self.stopped_by and not running):
                for job in [] if self.stopped_by else list(waiting):
                    if job in self._told and is_finished(job):
                        waiting.remove(job)
                        self._count(job, done, len(jobs))
                    elif job.before in self.failed:
                        waiting.remove(job)
                        self._fail(job, f"not run, for {job.before.stage}/{job.before.name} failed")
                    elif (job.before is None or job.before in done) and not self._is_held(job):
                        waiting.remove(job)
                        running[pool.submit(self._run_one, job)] = job
                if not running:  # all that is left waits for other processes
                    time.sleep(LOOK_EVERY)
                finished, _ = wait(running, timeout=LOOK_EVERY, return_when=FIRST_COMPLETED)
                for future in finished:
                    job, code = running.pop(future), future.result()
                    if code == 0:
                        self._count(job, done, len(jobs))
                    elif not self.stopped_by:
                        self._try_again_or_fail(job, code, waiting)

    def _program(self, module: str) -> list[str]:
        """What Python runs, wherever this process stands."""
        return ["-m", module] if "." in module else [str(self.scripts / f"{module}.py")]

    def _count(self, job: Job, done: set[Job], total: int) -> None:
        done.add(job)
        say(f"{len(done)}/{total} {job.stage}/{job.name}")

    def _is_held(self, job: Job) -> bool:
        """Whether another process is at this very run; it is waited for, and its result taken."""
        process = holder(job.folder())
        if process and job not in self._told:
            self._told.add(job)
            say(f"{job.stage}/{job.name} is running elsewhere ({process}); waiting for it to end")
        return process is not None

    def _try_again_or_fail(self, job: Job, code: int, waiting: list[Job]) -> None:
        if self._is_held(job):  # another process came first
            waiting.append(job)
        else:
            self._fail(job, f"ended with exit code {code}; its last words: {last_words(self.log_of(job))}")

    def _fail(self, job: Job, reason: str) -> None:
        self.failed.add(job)
        warn(f"{job.stage}/{job.name} {reason}")

    def log_of(self, job: Job) -> Path:
        """Where a job's output goes."""
        return self.logs / f"{job.stage}-{job.name}.log"

    def _run_one(self, job: Job) -> int:
        slot = self._slots.get()
        try:
            config = job.config()
            command = processes.bound([*self._program(SETUPS[config.setup].module), *job.arguments])
            with self.log_of(job).open("ab") as log:
                with self._lock:
                    if self.stopped_by:
                        return 128 + self.stopped_by
                    # A session of its own: Ctrl-C reaches it once, through `_forward`, not twice.
                    process = subprocess.Popen(
                        command,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=os.environ | environment_of(slot, config.device),
                        start_new_session=True,
                    )
                    self._processes.add(process)
                code = process.wait()
            with self._lock:
                self._processes.discard(process)
            return code
        finally:
            self._slots.put(slot)

    def _forward(self, number: int, again: bool) -> None:
        """Hand a signal on to what runs, which saves and ends; a second one ends it at once."""
        with self._lock:  # never held by this thread: a process is started before this or not at all
            self.stopped_by = number
            for process in self._processes:
                with contextlib.suppress(ProcessLookupError):
                    if sys.platform == "win32":  # which knows no signals between processes
                        process.terminate()
                    else:
                        process.send_signal(number)


def last_words(log: Path) -> str:
    """The last line of a log that says something."""
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "none")
    return "none"


def read_result(job: Job) -> dict[str, Any] | None:
    """What a finished run says of itself, with its wall-clock seconds; None when it is not finished."""
    if not is_finished(job):
        return None
    record = read_record(job.folder())
    return {**record["result"], "seconds": record["seconds"]}
