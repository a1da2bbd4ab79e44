"""Run trials on a Ray cluster. Ray queues the trials, chooses machines and reports lost machines."""

import time
from typing import Annotated, Any

from pydantic import Field

from elbo_bench.launch.ray_cluster import connect
from elbo_bench.launch.task import Task

Share = Annotated[float, Field(ge=0, le=1024)]


class RayEngine:
    """Creates an engine on a running cluster, or on one of this machine's own that ends with the sweep.

    Runs lie in one folder, which all machines of the cluster share.

    Args:
        address: Of the cluster: `auto` is the one that runs here, `ray://host:10001` a client's; None starts one.
        num_cpus: Cores of each process of a trial.
        num_gpus: GPUs of each process; 0.25 puts four on one, which then share its memory without walls.
        workers: Trials side by side; None is as many as fit.
    """

    pause = 5.0

    def __init__(
        self, address: str | None = None, num_cpus: Share = 1.0, num_gpus: Share = 0.0, workers: int | None = None
    ) -> None:
        self._address, self._workers, self.cores = address, workers, max(1, int(num_cpus))
        self._share = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        self._ray: Any = None
        self._running: dict[object, str] = {}

    def has_room(self, task: Task) -> bool:  # noqa: ARG002
        """Return whether fewer run, or wait in Ray's queue, than are wanted."""
        return self._workers is None or len(self._running) < self._workers

    def start(self, name: str, task: Task) -> None:
        """Put a task into Ray's queue."""
        self._ray = self._ray or connect(self._address, self._workers)  # with the first task: else nothing is started
        share = {key: task.processes * value for key, value in self._share.items()}
        # A sweep's own retries know what was saved.
        perform = self._ray.remote(_perform).options(name=name, max_retries=0, **share)
        self._running[perform.remote(task)] = name

    def ended(self, seconds: float) -> list[tuple[str, int | None]]:
        """Return the tasks that have ended; None is one whose process or machine was lost."""
        over, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        if not over:
            over, _ = self._ray.wait(list(self._running), timeout=seconds)
        return [(self._running.pop(each), self._code(each)) for each in over]

    def _code(self, reference: object) -> int | None:
        try:
            return int(self._ray.get(reference))
        except self._ray.exceptions.RayError:
            return None

    def stop(self) -> None:
        """Interrupt every task, at which a run saves and ends."""
        for reference in self._running:
            self._ray.cancel(reference)
        deadline = time.monotonic() + 60
        while self._running and time.monotonic() < deadline:
            self.ended(1.0)


def _perform(task: Task) -> int:
    return task()
