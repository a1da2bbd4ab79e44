"""How the processes of a run find each other: said, where Lightning would guess."""

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.lsf import LSFEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from elbo_bench.ranks import by_srun, by_torchrun


def cluster_environment() -> ClusterEnvironment:
    """Return what started this process.

    Lightning takes every job of Slurm for one whose tasks are the ranks, and a job of one task and two devices then
    waits for ever; and it would requeue jobs by itself, where a run saves, ends and is resumed by its command.

    Raises:
        RuntimeError: Slurm was not told how many tasks a node has.
    """
    if by_torchrun():
        return TorchElasticEnvironment()
    if by_srun():
        return SLURMEnvironment(auto_requeue=False)
    return LSFEnvironment() if LSFEnvironment.detect() else LightningEnvironment()
