"""Trials on this machine: a process each, forked from a warm parent that has paid for the imports once."""

import multiprocessing
import multiprocessing.connection
from collections.abc import Sequence
from multiprocessing.process import BaseProcess

from elbo_bench.launch.child import child
from elbo_bench.launch.slots import Slot, cpu_cores, gpus, slots
from elbo_bench.launch.task import Task


class LocalEngine:
    """Creates an engine whose processes have a share of the cores each, and a GPU where there is one.

    Args:
        workers: Trials side by side; None is one a GPU, or one a core where there is none. Several share a GPU.
        preload: Modules that the warm parent imports.
    """

    pause = 2.0

    def __init__(self, workers: int | None = None, preload: Sequence[str] = ()) -> None:
        found = gpus()
        self._free = slots(workers or len(found) or len(cpu_cores()), cpu_cores(), found)
        self._workers = len(self._free)
        self._running: dict[int, tuple[str, BaseProcess, list[Slot]]] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self.cores = max(1, len(cpu_cores()) // self._workers)

    def has_room(self, task: Task) -> bool:
        """Return whether there is a slot for each of its processes."""
        return len(self._free) >= min(task.processes, self._workers)

    def start(self, name: str, task: Task) -> None:
        """Fork a process; a warm parent that was killed is replaced by the second try."""
        count = min(task.processes, self._workers)
        taken, self._free = self._free[:count], self._free[count:]
        for retry in (False, True):
            process = self._context.Process(target=child, args=(task, taken), name=name)
            try:
                process.start()
                break
            except (EOFError, OSError):
                if retry:
                    raise
        self._running[process.sentinel] = (name, process, taken)

    def ended(self, seconds: float) -> list[tuple[str, int | None]]:
        """Return the processes that have ended."""
        found: list[tuple[str, int | None]] = []
        for sentinel in multiprocessing.connection.wait(list(self._running), seconds):
            assert isinstance(sentinel, int)
            name, process, taken = self._running.pop(sentinel)
            process.join()
            self._free += taken
            found.append((name, process.exitcode))
        return found

    def stop(self) -> None:
        """Send SIGTERM, at which a run saves and ends."""
        for _, process, _ in self._running.values():
            process.terminate()
        for _, process, _ in self._running.values():
            process.join(60)
