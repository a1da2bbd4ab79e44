"""The rank of this process, from environment variables, before the processes are connected.

Lightning starts the processes of one machine. torchrun and srun start all processes.
"""

import os


def by_torchrun() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def by_srun() -> bool:
    """Return whether srun started this process as one of several tasks."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and not by_torchrun()


def is_first() -> bool:
    """Return whether this process is rank 0. Only rank 0 locks, writes, prints and logs to W&B."""
    if by_torchrun():
        return os.environ.get("RANK", "0") == "0"
    if by_srun():
        return os.environ.get("SLURM_PROCID", "0") == "0"
    return os.environ.get("NODE_RANK", "0") == "0" and os.environ.get("LOCAL_RANK", "0") == "0"


def started_by_others() -> int | None:
    """Return the number of processes that torchrun or srun has started, or None if the run starts its processes."""
    if by_torchrun():
        return int(os.environ["WORLD_SIZE"])
    return int(os.environ["SLURM_STEP_NUM_TASKS"]) if by_srun() else None


def others_were_started() -> bool:
    """Return whether the other processes of this run are started already."""
    return by_torchrun() or by_srun() or "WORLD_SIZE" in os.environ or "NODE_RANK" in os.environ
