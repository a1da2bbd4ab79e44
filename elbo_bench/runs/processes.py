"""Check and start the processes of a run."""

import os

import torch

from elbo_bench.errors import UsageError
from elbo_bench.ranks import others_were_started, started_by_others
from elbo_bench.training.options import TrainerOptions


def check_processes(options: TrainerOptions, strategy: object) -> None:
    """Refuse processes that Lightning accepts, but that this machine or a run does not support.

    Raises:
        UsageError: There are far more processes than cores, they would be forked, or their number differs from the
            number that was started.
    """
    if any(word in options.strategy for word in ("spawn", "fork", "notebook")):
        raise UsageError(f"trainer.strategy={options.strategy}: a run cannot fork or spawn; did you mean 'ddp'?")
    devices: list[torch.device] = getattr(strategy, "parallel_devices", None) or []
    cores = os.cpu_count() or 1
    if len(devices) > 4 * cores and devices[0].type == "cpu":
        raise UsageError(
            f"trainer.devices={options.devices}: too many processes for {cores} cores; at most {4 * cores}"
        )
    started, wanted = started_by_others(), max(1, len(devices)) * options.num_nodes
    if started not in (None, wanted):
        keys = f"trainer.devices={options.devices} trainer.num_nodes={options.num_nodes}"
        raise UsageError(f"{keys} make {wanted} processes, and {started} were started")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
    if started is None and options.num_nodes > 1 and missing:
        how = f"start it by torchrun or srun, or set {', '.join(missing)} on each machine"
        raise UsageError(f"trainer.num_nodes={options.num_nodes}: {how}")


def start_processes(options: TrainerOptions) -> torch.device:
    """Start the other ranks, if there are several, and return this rank's device.

    Raises:
        UsageError: Lightning refuses the devices or the strategy, or `check_processes` does.
    """
    is_single = options.devices in ("auto", 1) and options.num_nodes == 1 and options.accelerator in ("auto", "cpu")
    is_single = is_single and options.strategy == "auto"
    if is_single and not torch.cuda.is_available() and not others_were_started():
        return torch.device("cpu")
    from lightning.fabric import Fabric  # Lightning takes seconds to import

    from elbo_bench.training.environment import cluster_environment

    try:
        fabric = Fabric(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy=options.strategy,
            plugins=[cluster_environment()],
        )
    except Exception as error:  # Lightning's own, and those of a back end
        raise UsageError(f"trainer: {' '.join(str(error).split())}") from None
    check_processes(options, fabric.strategy)
    fabric.launch()
    return fabric.device
