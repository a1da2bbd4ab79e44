"""Checks that all ranks start from the same checkpoint, or all from none."""

import lightning.pytorch as pl

from elbo_bench.errors import RunFailedError


class SameStart(pl.Callback):
    """Refuses a training whose ranks see different folders. Each rank has looked for a checkpoint by itself.

    Args:
        resumes: Whether this rank found a checkpoint.
    """

    def __init__(self, resumes: bool) -> None:
        self._resumes = resumes

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Compare the ranks.

        Raises:
            RunFailedError: Some ranks found a checkpoint, and others did not.
        """
        if trainer.world_size > 1:
            decide = trainer.strategy.reduce_boolean_decision
            if decide(self._resumes, all=False) and not decide(self._resumes, all=True):
                raise RunFailedError(
                    "the processes do not see the same checkpoint: is the folder of runs on a disk that all share?"
                )
