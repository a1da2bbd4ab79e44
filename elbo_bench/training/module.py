"""The Lightning module of a training step: draw latents, compute the objective, and ascend its mean."""

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

    A user's module may replace it (`conf/module/`). Such a module must have an attribute `model`.

    Args:
        model: The model, also an `nn.Module`.
        objective: The bound.
        optimizer: The optimiser, with its schedule.
        seed: The run's seed.
        warmup: The objective of the first epochs. It never affects an evaluation.

    Raises:
        ValueError: The warm-up does not fit the bound.
    """

    def __init__(  # noqa: PLR0917 - its parameters are its configuration
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
        """Return what the training maximises `epoch` epochs after its start: the objective, or its warm-up version."""
        return self.warmup.at(self.objective, epoch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of this rank's examples of the global batch: minus the mean of the bound, in nats."""
        if not len(batch.x):  # fewer examples than ranks: this rank still takes part in the mean of the gradients
            return 0.0 * torch.stack([each.sum() for each in self.parameters() if each.requires_grad]).sum()
        noise = Noise(self.seed, "latent", batch.position, rows=(batch.start, batch.total))
        objective = self.ascended(batch.epoch)
        draws = draw_for(objective, self.model, batch.x, noise)
        # The strategy averages over ranks, whose numbers of examples may differ by one.
        bound = objective(draws).sum() * (batch.ranks / batch.total)
        return -bound

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser, and its schedule with one step an epoch."""
        optimizer = self.optimizer.over(parameter for parameter in self.parameters() if parameter.requires_grad)
        factor = self.optimizer.schedule.factor
        # A plain function: torch would put any other callable's attributes into the checkpoint.
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: factor(epoch))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}
