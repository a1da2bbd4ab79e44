"""Data drawn from a mixture of Gaussians on a ring: modes apart from each other, and a density that is known."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float, Float32, Float64
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from elbo_bench.data.dataset import Dataset, DataSource
from elbo_bench.noise import Noise


@dataclass(frozen=True, kw_only=True)
class MixtureData(DataSource):
    r"""Draws from a mixture of K Gaussians of equal weight whose means are equally spaced on a ring.

    .. math:: p(x) = \frac1K \sum_{k=0}^{K-1} N(x; \mu_k, \sigma^2 I_D), \qquad
        \mu_k = r \, (\cos 2 \pi k / K, \sin 2 \pi k / K, 0, \dots, 0)

    The ring lies in the first two dimensions; any further ones are noise alone, and a model should find that out. More
    examples of a split leave the first ones as they are.

    Reference: Metz et al., 2017, "Unrolled generative adversarial networks", whose ring of 8 Gaussians shows which
    modes a model leaves out; here each is wide enough to be seen in a plot.

    Attributes:
        num_dims: Dimensions of x, D.
        num_components: Gaussians, K.
        radius: Distance of every mean from the origin, r; at most 100, since observations are float32 and rounding
            them must not change their density.
        std: Standard deviation of each Gaussian in every dimension, sigma, 0.001 .. 100.
        num_train: Training examples.
        num_validation: Validation examples.
        num_test: Test examples.
        data_seed: Seed of the examples; the run's seed has no part in them.
    """

    num_dims: Annotated[int, Field(ge=2)] = 2
    num_components: PositiveInt = 8
    radius: Annotated[float, Field(gt=0, le=100)] = 2.0
    std: Annotated[float, Field(ge=0.001, le=100)] = 0.2
    num_train: PositiveInt = 2000
    num_validation: PositiveInt = 500
    num_test: PositiveInt = 500
    data_seed: NonNegativeInt = 0

    licence: ClassVar[str] = "none needed: the data are drawn, not collected"
    citation: ClassVar[str] = "Metz, Poole, Pfau, Sohl-Dickstein, Unrolled generative adversarial networks, ICLR, 2017"
    test_sha256: ClassVar[Mapping[str, str]] = {
        "drawn": "1f3537dab125dd1a43cd570030d6ca21ccda592e177ffb9db5e897526cc65b7f",
    }

    @property
    def observation(self) -> Literal["discrete", "continuous"]:
        """Whether an observation has a probability mass or a density."""
        return "continuous"

    @property
    def protocol(self) -> str:
        """One line that says what the splits are and how they were drawn: every field that determines the data."""
        return (
            f"{self.num_train}/{self.num_validation}/{self.num_test} drawn from a mixture of Gaussians on a ring: "
            f"num_dims={self.num_dims}, num_components={self.num_components}, radius={float(self.radius)!r}, "
            f"std={float(self.std)!r}, data_seed={self.data_seed}"
        )

    def ring(self) -> Float64[Tensor, "K 2"]:
        """Return the first two dimensions of the means; the others are zero."""
        # One number at a time: torch's own sine depends on the machine in its last bit, and the hash with it.
        turns = [2 * math.pi * k / self.num_components for k in range(self.num_components)]
        circle = [(math.cos(turn), math.sin(turn)) for turn in turns]
        return float(self.radius) * torch.tensor(circle, dtype=torch.float64)

    def load(self, root: Path) -> Dataset:  # noqa: ARG002 - drawn, not read
        """Draw the three splits."""
        return Dataset(
            name="mixture_data",
            protocol=self.protocol,
            values="drawn",
            num_levels=None,
            train=self._draw("train", self.num_train),
            validation=self._draw("validation", self.num_validation),
            test=self._draw("test", self.num_test),
            truth=self._log_density,
        )

    def _log_density(self, x: Float[Tensor, "N D"]) -> Float64[Tensor, " N"]:
        """Return the log-density of x, in nats."""
        x = x.double() / self.std
        log_sum = torch.full((len(x),), -math.inf, dtype=torch.float64)
        for mean in self.ring() / self.std:  # one by one, so that memory does not grow with K
            log_sum = torch.logaddexp(log_sum, -0.5 * (x[:, :2] - mean).square().sum(1))
        log_normaliser = math.log(self.num_components) + self.num_dims * math.log(math.sqrt(2 * math.pi) * self.std)
        return log_sum - 0.5 * x[:, 2:].square().sum(1) - log_normaliser

    def _draw(self, split: str, num_examples: int) -> Float32[Tensor, "N D"]:
        purpose = f"mixture_data/{split}"
        # Not `Noise.below`: it draws some numbers again, and which ones depends on how many examples there are.
        uniform = Noise(self.data_seed, purpose, position=0).stream().uniform((num_examples,))
        component = (uniform * self.num_components).long()
        noise = Noise(self.data_seed, purpose, position=1)
        x = self.std * noise.normal((num_examples, self.num_dims), dtype=torch.float64)
        x[:, :2] += self.ring()[component]
        return x.float()
