"""A training of one's own: encoder and decoder learn at different rates."""

from typing import Annotated

import lightning.pytorch as pl
import torch
from pydantic import Field
from torch import Tensor, nn

from elbo_bench.data.batches import Batch
from elbo_bench.draws import draw
from elbo_bench.noise import Noise
from elbo_bench.objectives.base import Objective

Rate = Annotated[float, Field(gt=0)]


class TwoRates(pl.LightningModule):
    """Adam with a learning rate for the encoder and another one for the decoder."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        seed: int = 0,
        encoder_lr: Rate = 1e-2,
        decoder_lr: Rate = 1e-3,
    ) -> None:
        super().__init__()
        self.model, self.objective, self.seed = model, objective, seed
        self.encoder_lr, self.decoder_lr = encoder_lr, decoder_lr

    def training_step(self, batch: Batch) -> Tensor:
        """Return minus the mean of the bound."""
        noise = Noise(self.seed, "latent", batch.position, rows=(batch.start, batch.total))
        return -self.objective(draw(self.model, batch.x, self.objective.samples_required, noise)).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return one optimiser with two groups of parameters."""
        encoder = {"params": self.model.encoder.parameters(), "lr": self.encoder_lr}
        decoder = {"params": self.model.decoder.parameters(), "lr": self.decoder_lr}
        return torch.optim.Adam([encoder, decoder])
