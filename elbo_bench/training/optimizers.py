"""Optimisers: torch's own, with a schedule, as typed configuration."""

import abc
import dataclasses
from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import nn

from elbo_bench.config.typed import check_fields
from elbo_bench.training.schedules import Constant, Schedule

LearningRate = Annotated[float, Field(gt=0, le=1e38)]  # what a float32 can hold
Decay = Annotated[float, Field(ge=0, lt=1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer(abc.ABC):
    """How parameters follow a gradient.

    Attributes:
        lr: Learning rate.
        weight_decay: Weight of the L2 penalty.
        schedule: Factor on the learning rate in each epoch.
    """

    lr: LearningRate = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    schedule: Schedule = dataclasses.field(default_factory=Constant)

    def __post_init__(self) -> None:
        check_fields(self)

    @abc.abstractmethod
    def over(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return torch's optimiser over some parameters, at the learning rate `lr`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam (Kingma & Ba, 2015, "Adam: a method for stochastic optimization", algorithm 1).

    Attributes:
        betas: Decay rates of the two moments.
        eps: Added to the root of the second moment.
    """

    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8

    def over(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Adam:
        """Return torch's Adam."""
        return torch.optim.Adam(parameters, self.lr, self.betas, self.eps, self.weight_decay)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient steps, with momentum.

    Attributes:
        momentum: Weight of the step before.
        nesterov: Whether the gradient is taken ahead.
    """

    lr: LearningRate = 1e-2
    momentum: Decay = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=true needs a momentum above 0")

    def over(self, parameters: Iterable[nn.Parameter]) -> torch.optim.SGD:
        """Return torch's SGD."""
        return torch.optim.SGD(
            parameters, self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )
