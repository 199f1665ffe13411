"""Jobs of a sweep: commands one after the other, some jobs side by side in processes."""

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

import torch


@dataclass(frozen=True)
class Job:
    """Commands that make one run.

    Args:
        name: what it is called in what is printed.
        commands: words after ``lowerbound``, in turn; what comes after a failure is left.
        log: file for what they print; what an earlier try printed is kept above it.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    log: Path


@dataclass(frozen=True)
class Local:
    """Processes of this machine.

    Args:
        jobs: how many side by side; the processor's threads are divided among them, and each has a
            GPU of its own as far as there are GPUs.
    """

    jobs: int

    def __call__(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, str]]:
        """Run jobs; yield each as it ends, with the last line of what failed or nothing.

        Where the caller stops, as by a signal, processes that run are told to save and are waited
        for.
        """
        free: SimpleQueue[dict[str, str]] = SimpleQueue()
        for place in range(self.jobs):
            free.put(self._environment(place))
        running = Running()

        def run(job: Job) -> str:
            environment = free.get()
            try:
                return run_job(job, environment, running)
            finally:
                free.put(environment)

        with ThreadPoolExecutor(self.jobs) as side_by_side:
            left: dict[Future[str], Job] = {side_by_side.submit(run, job): job for job in jobs}
            try:
                while left:
                    for done in wait(left, return_when=FIRST_COMPLETED).done:
                        yield left.pop(done), done.result()
            finally:
                running.stop()

    def _environment(self, place: int) -> dict[str, str]:
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        found = {"OMP_NUM_THREADS": str(threads)} if self.jobs > 1 else {}
        if (count := torch.cuda.device_count()) > 1:
            named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            devices = named if len(named) == count else [str(i) for i in range(count)]
            found["CUDA_VISIBLE_DEVICES"] = devices[place % count]
        return found


class Running:
    """Processes that run, and whether others may start."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def start(
        self, words: Sequence[str], environment: Mapping[str, str], log: BinaryIO
    ) -> subprocess.Popen[bytes] | None:
        """Start a command, or return None after `stop`."""
        with self._lock:
            if self._stopped:
                return None
            process = subprocess.Popen(
                # -P: a folder of that name, where the user works, is another thing.
                [sys.executable, "-P", "-m", "lowerbound", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                # A signal of the terminal reaches the sweep, which passes one on.
                start_new_session=True,
            )
            self._processes.add(process)
            return process

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        """Return the status with which a process ends."""
        status = process.wait()
        with self._lock:
            self._processes.discard(process)
        return status

    def stop(self) -> None:
        """Tell each process to save and end, and start none any more."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                process.send_signal(signal.SIGTERM)


def run_job(job: Job, environment: Mapping[str, str], running: Running) -> str:
    """Run a job's commands in turn; return the last line of one that fails, or nothing."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    if job.log.is_symlink() or (job.log.exists() and not job.log.is_file()):
        return f"{job.log} is no file to write to"
    for words in job.commands:
        with job.log.open("ab") as log:
            log.write(f"$ lowerbound {shlex.join(words)}\n".encode())
            log.flush()
            start = log.tell()
            process = running.start(words, environment, log)
            if process is None:
                return ""
            status = running.wait(process)
        if status:
            said = job.log.read_bytes()[start:].decode(errors="replace").strip().splitlines()
            return said[-1] if said else f"ended with status {status}"
    return ""
