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


class BoundModule(pl.LightningModule):
    """Creates a module that trains a model by ascending an objective.

    A module of your own may take its place (`conf/module/`); all that is asked of it is an attribute `model`.

    Args:
        model: The model, also an `nn.Module`.
        objective: The bound.
        optimizer: How parameters follow its gradient.
        seed: The run's seed.
    """

    def __init__(self, model: LatentVariableModel, objective: Objective, optimizer: Optimizer, seed: int = 0) -> None:
        super().__init__()
        assert isinstance(model, nn.Module)
        self.model = model
        self.objective = objective
        self.optimizer = optimizer
        self.seed = seed

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of this rank's rows of the global batch, minus the mean of the bound."""
        noise = Noise(self.seed, "latent", batch.position, rows=(batch.start, batch.total))
        draws = draw_for(self.objective, self.model, batch.x, noise)
        # The strategy averages over ranks, whose shares of a batch may differ by one row.
        bound = self.objective(draws).sum() * (self.trainer.world_size / batch.total)
        return -bound

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser and its schedule, by epochs."""
        optimizer = self.optimizer.over(parameter for parameter in self.parameters() if parameter.requires_grad)
        factor = self.optimizer.schedule.factor
        # A plain function: torch would put any other callable's attributes into the checkpoint.
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: factor(epoch))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}
