"""The cores and GPUs of this machine, assigned to processes that run in parallel."""

import dataclasses
import os
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Slot:
    """Resources for one process.

    Attributes:
        cores: Numbers of the CPU cores that it may use.
        gpu: The GPU that it sees, as `CUDA_VISIBLE_DEVICES` names it; None if there is none.
    """

    cores: tuple[int, ...]
    gpu: str | None = None


def slots(workers: int, cores: Sequence[int], gpus: Sequence[str]) -> list[Slot]:
    """Return `workers` slots: cores are shared out without overlap while there are enough, GPUs in turn."""
    count = len(cores)
    if workers <= count:
        shares = [tuple(cores[index * count // workers : (index + 1) * count // workers]) for index in range(workers)]
    else:
        shares = [(cores[index % count],) for index in range(workers)]
    return [Slot(share, gpus[index % len(gpus)] if gpus else None) for index, share in enumerate(shares)]


def cpu_cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, without waking one up."""
    import torch  # the sweep has checked its trials by now, and so imported it

    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return names.split(",")[:count] if names else [str(index) for index in range(count)]
