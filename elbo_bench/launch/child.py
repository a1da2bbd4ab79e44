"""The process of a trial on this machine: on its own cores and GPU, and gone when the sweep is."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading

from elbo_bench.launch.slots import Slot
from elbo_bench.launch.task import Task


def child(task: Task, taken: list[Slot]) -> None:
    """Run a task in a process that was made for it, in some slots, and end with its exit code."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches every process of the group; only the sweep forwards it
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core for slot in taken for core in slot.cores})
    if names := list(dict.fromkeys(slot.gpu for slot in taken if slot.gpu is not None)):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
    threading.Thread(target=_follow_parent, daemon=True).start()
    sys.exit(task())


def _follow_parent() -> None:
    """Save and stop when the sweep is gone, however it went: an orphan would hold its run against the next sweep."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
