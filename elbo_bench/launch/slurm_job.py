"""Run a trial inside a Slurm job, in a process of its own. Before the time limit it is signalled to save."""

import contextlib
import getpass
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elbo_bench.errors import UsageError
from elbo_bench.launch.task import Task

_SAVING = 60.0
"""Seconds in which a run is expected to save; Slurm's own patience is `engine.grace_seconds`."""


class SlurmJob:
    """Creates the function that submitit pickles, and calls in a job.

    Args:
        task: The attempt.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run the trial and return its exit code."""
        task = self._task
        task.log.parent.mkdir(parents=True, exist_ok=True)
        # One job is one machine to a trial: what it starts itself must not take Slurm's tasks for its ranks.
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SRUN_"))}
        with task.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                task.command(), env=plain | task.environment, stdout=log, stderr=log, preexec_fn=_ignore_warning
            )
        # Slurm may signal submitit's process alone, and submitit ignores SIGTERM.
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        # Not wait(): it holds a lock, for which `checkpoint`, called by a signal meanwhile, would wait for ever.
        while (code := self._process.poll()) is None:
            time.sleep(0.2)
        return code

    def checkpoint(self) -> Any:
        """Let the run save and end; return what is called when the job starts again. Time is over, or preempted."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None and self._process.returncode is None:
            self._stop()
            deadline = time.monotonic() + _SAVING
            while not _is_over(self._process.pid) and time.monotonic() < deadline:
                time.sleep(0.1)
        return DelayedSubmission(SlurmJob(self._task))

    def _stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)


def _ignore_warning() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm warns every process of a job; submitit's is to act on it


def _is_over(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def submit(jobs: Sequence[SlurmJob], folder: Path, requeues: int, options: Mapping[str, Any]) -> list[Any]:
    """Put jobs into Slurm's queue as one array, and return submitit's handles.

    Args:
        jobs: What they run.
        folder: What submitit keeps of them, on a disk that all machines share.
        requeues: How often each may go back into the queue because its time was over.
        options: Submitit's parameters, which are sbatch's options.

    Raises:
        UsageError: submitit is not installed, there is no Slurm, or it refuses the options.
    """
    try:
        import submitit
    except ImportError:
        raise UsageError("--engine slurm: submitit is not installed: pip install 'elbo-bench[slurm]'") from None
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=requeues)
        executor.update_parameters(**options)
        with executor.batch():
            return [executor.submit(job) for job in jobs]
    except (RuntimeError, TypeError, ValueError, submitit.core.utils.FailedJobError) as error:
        raise UsageError(f"--engine slurm: {' '.join(str(error).split())[:400]}") from None


def queued() -> set[str] | None:
    """Return the ids of this user's jobs that wait or run; None if Slurm does not answer at the moment.

    `squeue` answers on every cluster; `sacct`, which submitit uses, only where jobs are accounted for.
    """
    command = ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return set(done.stdout.split())
