"""Ranks begin alike: from the same checkpoint, or all from nothing."""

import lightning.pytorch as pl

from elbo_bench.errors import RunFailedError


class SameStart(pl.Callback):
    """Refuses a training whose ranks do not see the same folder: each looked for itself whether there is a checkpoint.

    Args:
        resumes: Whether this rank found one.
    """

    def __init__(self, resumes: bool) -> None:
        self._resumes = resumes

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Compare.

        Raises:
            RunFailedError: They differ.
        """
        if trainer.world_size > 1:
            decide = trainer.strategy.reduce_boolean_decision
            if decide(self._resumes, all=False) and not decide(self._resumes, all=True):
                raise RunFailedError(
                    "the processes do not see the same checkpoint: is the folder of runs on a disk that all share?"
                )
