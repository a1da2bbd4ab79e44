"""Trials as arrays of Slurm jobs, by submitit: Slurm queues them, ends them at their time limit and requeues them."""

import time
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveInt

from elbo_bench.launch.slurm_job import SlurmJob, queued, submit
from elbo_bench.launch.task import Task


class SlurmEngine:
    """Creates an engine whose jobs save shortly before their time limit, and are requeued.

    Args:
        folder: The folder of submitit's files, on a disk that all machines share.
        minutes, grace_seconds, requeues: Time limit of a job, how long before the limit it is signalled to save, and
            how often it is requeued.
        cpus, gpus: CPUs and GPUs of each process of a trial.
        more: Other parameters of submitit, which are sbatch's options: `{partition: gpu, account: mine, mem: 16GB}`.
        workers: Jobs that run at the same time.
    """

    pause = 60.0

    def __init__(  # noqa: PLR0913, PLR0917 - its parameters are its configuration
        self,
        folder: Path,
        minutes: PositiveInt = 240,
        grace_seconds: PositiveInt = 90,
        requeues: NonNegativeInt = 20,
        cpus: PositiveInt = 1,
        gpus: NonNegativeInt = 0,
        more: dict[str, Any] | None = None,
        workers: int | None = None,
    ) -> None:
        times = {"time": minutes, "signal_delay_s": grace_seconds, "array_parallelism": workers or 256}
        self._folder, self._requeues, self._options = folder, requeues, times | (more or {})
        self.cores, self._gpus, self._new = cpus, gpus, list[tuple[str, Task]]()
        self._jobs, self._missed = dict[str, Any](), set[str]()

    def has_room(self, task: Task) -> bool:  # noqa: ARG002
        """Return that Slurm queues whatever comes."""
        return True

    def start(self, name: str, task: Task) -> None:
        """Put a task aside: all that are started together become one array."""
        self._new.append((name, task))

    def ended(self, seconds: float) -> list[tuple[str, int | None]]:
        """Return the jobs that left an exit code, and those that left the queue without one."""
        for processes in sorted({task.processes for _, task in self._new}):
            array = {name: SlurmJob(task) for name, task in self._new if task.processes == processes}
            gpus = {"gpus_per_node": processes * self._gpus} if self._gpus else {}
            options = {**self._options, "cpus_per_task": processes * self.cores, **gpus}
            self._jobs |= zip(array, submit(list(array.values()), self._folder, self._requeues, options), strict=True)
        self._new = []
        time.sleep(max(1.0, seconds))
        in_queue = queued()
        found: list[tuple[str, int | None]] = []
        for name, job in self._jobs.items():
            if job.paths.result_pickle.exists():
                found.append((name, job.result() if job.exception() is None else None))
            elif in_queue is not None and job.job_id not in in_queue:
                if name in self._missed:  # twice: on a shared disk a result may be seen a little late
                    found.append((name, None))
                self._missed.add(name)
        for name, _ in found:
            del self._jobs[name]
            self._missed.discard(name)
        return found

    def stop(self) -> None:
        """Cancel every job: Slurm sends SIGTERM, at which a run saves and ends."""
        self._new = []
        for job in self._jobs.values():
            job.cancel(check=False)
        deadline = time.monotonic() + 60
        while self._jobs and time.monotonic() < deadline:
            self.ended(1.0)
