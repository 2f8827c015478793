"""Run jobs as processes of their own, several at once, one per GPU; stop them in good order."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
import yaml

from data.files.decode import num_cores
from sweeps.plan import Job
from system.console import say, warn
from system.files import REPOSITORY
from training.folder import CONFIG, MODEL, RunFolder, differing_keys, read_finished, read_record, to_plain
from utils.schema import SETUPS
from utils.stage import keys_of


def is_finished(job: Job) -> bool:
    """Whether this very run was finished before."""
    folder = job.folder()
    try:
        old = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    if read_finished(folder) is None or not (folder / MODEL).exists():
        return False
    config = to_plain(job.config())
    keys = keys_of(job.config())
    differing = RunFolder(folder, config, keys).without_moves(old, differing_keys(old, config, keys))
    return not differing and not (keys.images and keys.images.changes(folder, finished=True))


def _program(module: str) -> list[str]:
    """What Python runs, wherever this process stands."""
    return ["-m", module] if "." in module else [str(REPOSITORY / f"{module}.py")]


def make_slots(num_jobs: int | None) -> list[dict[str, str]]:
    """The environment of each process that runs at a time: by default one per GPU, or one."""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if torch.cuda.is_available() else []
    if torch.cuda.is_available() and len(gpus) != torch.cuda.device_count():
        gpus = [str(number) for number in range(torch.cuda.device_count())]
    num = num_jobs or max(1, len(gpus))
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, num_cores() // num))
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    shared = {"OMP_NUM_THREADS": threads, "PYTHONPATH": paths}
    return [shared | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}) for i in range(num)]


class Runner:
    """Runs jobs, each after the one it starts from; a failed one takes only those with it that start from it."""

    def __init__(self, slots: Sequence[dict[str, str]], logs: Path) -> None:
        self.logs, self.num_slots = logs, len(slots)
        self._slots: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for slot in slots:
            self._slots.put(slot)
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.stopped_by = 0
        self.failed: set[Job] = set()

    def run(self, jobs: Sequence[Job]) -> None:
        """Run what is not finished; `failed` and `stopped_by` (a signal's number) tell how it went."""
        waiting = [job for job in jobs if not is_finished(job)]
        done = set(jobs) - set(waiting)
        say(f"{len(jobs)} runs, {len(done)} of them finished before; {self.num_slots} at a time")
        self.logs.mkdir(parents=True, exist_ok=True)
        running: dict[Future[int], Job] = {}
        with self._signals(), ThreadPoolExecutor(self.num_slots) as pool:
            while (waiting or running) and not (self.stopped_by and not running):
                for job in [] if self.stopped_by else list(waiting):
                    if job.before in self.failed:
                        waiting.remove(job)
                        self._fail(job, f"not run, for {job.before.stage}/{job.before.name} failed")
                    elif job.before is None or job.before in done:
                        waiting.remove(job)
                        running[pool.submit(self._run_one, job)] = job
                finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    self._end(running.pop(future), future.result(), done, len(jobs))

    def _end(self, job: Job, code: int, done: set[Job], total: int) -> None:
        if code == 0:
            done.add(job)
            say(f"{len(done)}/{total} {job.stage}/{job.name}")
        elif not self.stopped_by:
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
            command = [sys.executable, *_program(SETUPS[job.config().setup].module), *job.arguments]
            with self.log_of(job).open("ab") as log:
                with self._lock:
                    if self.stopped_by:
                        return 128 + self.stopped_by
                    # A session of its own: Ctrl-C reaches it once, through `_forward`, not twice.
                    process = subprocess.Popen(
                        command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | slot, start_new_session=True
                    )
                    self._processes.add(process)
                code = process.wait()
            with self._lock:
                self._processes.discard(process)
            return code
        finally:
            self._slots.put(slot)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Hand SIGINT and SIGTERM on to what runs, which saves and ends; a second one ends it at once."""
        before: dict[int, Any] = {}
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            before = {number: signal.signal(number, self._forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _forward(self, number: int, frame: Any) -> None:
        self.stopped_by = number
        for process in list(self._processes):
            with contextlib.suppress(ProcessLookupError):
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
