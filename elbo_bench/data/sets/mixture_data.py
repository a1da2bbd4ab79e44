"""Data drawn from a mixture of Gaussians on a ring: separate modes and a known density."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Float32, Float64
from pydantic import Field, PositiveInt
from torch import Tensor

from elbo_bench.data.drawn_source import DrawnSource
from elbo_bench.noise import Noise


@dataclass(frozen=True, kw_only=True)
class MixtureData(DrawnSource):
    r"""Draws from a mixture of K Gaussians of equal weight whose means are equally spaced on a ring.

    .. math:: p(x) = \frac1K \sum_{k=0}^{K-1} N(x; \mu_k, \sigma^2 I_D), \qquad
        \mu_k = r \, (\cos 2 \pi k / K, \sin 2 \pi k / K, 0, \dots, 0)

    The ring lies in the first two dimensions. Further dimensions are pure noise.

    Reference: Metz et al., 2017, "Unrolled generative adversarial networks". Their ring of 8 Gaussians shows which
    modes a model misses. Here the Gaussians are wider, so that a plot shows them.

    Attributes:
        num_dims: Dimensions of x, D.
        num_components: Number of Gaussians, K.
        radius: Distance of every mean from the origin, r. At most 100: observations are float32, and rounding must not
            change their density.
        std: Standard deviation of each Gaussian in every dimension, sigma, 0.001 .. 100.
    """

    num_dims: Annotated[int, Field(ge=2)] = 2
    num_components: PositiveInt = 8
    radius: Annotated[float, Field(gt=0, le=100)] = 2.0
    std: Annotated[float, Field(ge=0.001, le=100)] = 0.2

    name = "mixture_data"
    citation = "Metz, Poole, Pfau, Sohl-Dickstein, Unrolled generative adversarial networks, ICLR, 2017"
    test_sha256: ClassVar[Mapping[str, str]] = {
        "drawn": "1f3537dab125dd1a43cd570030d6ca21ccda592e177ffb9db5e897526cc65b7f",
    }

    observation = "continuous"

    @property
    def distribution(self) -> str:
        """The distribution and the value of each field that determines it, in words."""
        return (
            f"a mixture of Gaussians on a ring: num_dims={self.num_dims}, num_components={self.num_components}, "
            f"radius={float(self.radius)!r}, std={float(self.std)!r}"
        )

    def ring(self) -> Float64[Tensor, "K 2"]:
        """Return the first two dimensions of the means; the others are zero."""
        # By Python: the last bit of torch's sine depends on the machine, and so would the hash of the test set.
        turns = [2 * math.pi * k / self.num_components for k in range(self.num_components)]
        circle = [(math.cos(turn), math.sin(turn)) for turn in turns]
        return float(self.radius) * torch.tensor(circle, dtype=torch.float64)

    def log_p_x(self, x: Float[Tensor, "N D"]) -> Float64[Tensor, " N"]:
        """Return the log-density of x, in nats."""
        x = x.double() / self.std
        log_sum = torch.full((len(x),), -math.inf, dtype=torch.float64)
        for mean in self.ring() / self.std:  # one at a time, so that memory does not grow with K
            log_sum = torch.logaddexp(log_sum, -0.5 * (x[:, :2] - mean).square().sum(1))
        log_normaliser = math.log(self.num_components) + self.num_dims * math.log(math.sqrt(2 * math.pi) * self.std)
        return log_sum - 0.5 * x[:, 2:].square().sum(1) - log_normaliser

    def draw(self, split: str, num_examples: int) -> Float32[Tensor, "N D"]:
        """Return the examples of a split."""
        purpose = f"mixture_data/{split}"
        # Not `Noise.below`, which draws some numbers twice, depending on the number of examples.
        uniform = Noise(self.data_seed, purpose, position=0).stream().uniform((num_examples,))
        component = (uniform * self.num_components).long()
        noise = Noise(self.data_seed, purpose, position=1)
        x = self.std * noise.normal((num_examples, self.num_dims), dtype=torch.float64)
        x[:, :2] += self.ring()[component]
        return x.float()
