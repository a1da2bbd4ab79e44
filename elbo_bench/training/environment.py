"""Choose how the processes of a run find each other. Lightning's own guess is wrong for some Slurm jobs."""

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.lsf import LSFEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from elbo_bench.ranks import by_srun, by_torchrun


def cluster_environment() -> ClusterEnvironment:
    """Return the Lightning environment of the launcher that started this process.

    Lightning assumes that the tasks of a Slurm job are its ranks. A job of one task and two devices would then wait
    for ever. Lightning would also requeue jobs, but here a run saves, ends and is resumed by its command.

    Raises:
        RuntimeError: The Slurm job does not state how many tasks a node has.
    """
    if by_torchrun():
        return TorchElasticEnvironment()
    if by_srun():
        return SLURMEnvironment(auto_requeue=False)
    return LSFEnvironment() if LSFEnvironment.detect() else LightningEnvironment()
