"""Which process of a run this is, as whoever started it has said: before the processes know each other.

Lightning starts the processes of one machine itself; torchrun and srun start all of them.
"""

import os


def by_torchrun() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def by_srun() -> bool:
    """Return whether srun started this process as one of several: a step of one task starts its processes itself."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and not by_torchrun()


def is_first() -> bool:
    """Return whether this process is rank 0, which alone claims, writes, prints and tells W&B."""
    if by_torchrun():
        return os.environ.get("RANK", "0") == "0"
    if by_srun():
        return os.environ.get("SLURM_PROCID", "0") == "0"
    return os.environ.get("NODE_RANK", "0") == "0" and os.environ.get("LOCAL_RANK", "0") == "0"


def started_by_others() -> int | None:
    """Return how many processes torchrun or srun has started; None if the run starts its own."""
    if by_torchrun():
        return int(os.environ["WORLD_SIZE"])
    return int(os.environ["SLURM_STEP_NUM_TASKS"]) if by_srun() else None


def others_were_started() -> bool:
    """Return whether the other processes of this run are on their way already, whatever this one finds."""
    return by_torchrun() or by_srun() or "WORLD_SIZE" in os.environ or "NODE_RANK" in os.environ
