"""The Lightning module: draw, apply the objective, ascend its mean. The only line of maths of training is here."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from elbo_bench.data.batches import Batch
from elbo_bench.draws import LatentVariableModel, draw_for
from elbo_bench.noise import Noise
from elbo_bench.objectives.base import Objective
from elbo_bench.training.optimizers import Optimizer
from elbo_bench.training.warmup import NoWarmup, Warmup


class BoundModule(pl.LightningModule):
    """Creates a module that trains a model by ascending an objective.

    A module of your own may take its place (`conf/module/`); all that is asked of it is an attribute `model`.

    Args:
        model: The model, also an `nn.Module`.
        objective: The bound.
        optimizer: How parameters follow its gradient.
        seed: The run's seed.
        warmup: What is ascended before it is the bound itself; nothing that is evaluated knows of it.

    Raises:
        ValueError: The bound cannot be warmed up so.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        objective: Objective,
        optimizer: Optimizer,
        seed: int = 0,
        warmup: Warmup = NoWarmup(),  # noqa: B008 - it is frozen
    ) -> None:
        super().__init__()
        assert isinstance(model, nn.Module)
        warmup.check(objective)
        self.model = model
        self.objective = objective
        self.optimizer = optimizer
        self.seed = seed
        self.warmup = warmup

    def ascended(self, epoch: float) -> Objective:
        """Return what training ascends at so many epochs since it began: the objective, or its warm-up."""
        return self.warmup.at(self.objective, epoch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of this rank's rows of the global batch, minus the mean of the bound."""
        if not len(batch.x):  # fewer rows than ranks: this one takes part in the mean of the gradients all the same
            return 0.0 * torch.stack([each.sum() for each in self.parameters() if each.requires_grad]).sum()
        noise = Noise(self.seed, "latent", batch.position, rows=(batch.start, batch.total))
        objective = self.ascended(batch.epoch)
        draws = draw_for(objective, self.model, batch.x, noise)
        # The strategy averages over ranks, whose shares of a batch may differ by one row.
        bound = objective(draws).sum() * (batch.ranks / batch.total)
        return -bound

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser and its schedule, by epochs."""
        optimizer = self.optimizer.over(parameter for parameter in self.parameters() if parameter.requires_grad)
        factor = self.optimizer.schedule.factor
        # A plain function: torch would put any other callable's attributes into the checkpoint.
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: factor(epoch))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}
