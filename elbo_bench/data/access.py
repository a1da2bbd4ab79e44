"""How the rows of a split become observations when they are accessed: as they are, by a Bernoulli draw, dequantised."""

import abc
import dataclasses
import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from elbo_bench.noise import Noise


class Access(abc.ABC):
    """Turns rows into observations."""

    @abc.abstractmethod
    def __call__(self, rows: Shaped[Tensor, "B *shape"], noise: Noise) -> Float[Tensor, "B *shape"]:
        """Return the observations of some rows; the same noise gives the same ones."""

    def log_volume(self, x: Float[Tensor, "N *shape"]) -> Float[Tensor, " N"] | None:  # noqa: ARG002
        """Return nats that, added to the log-density of an observation, make it that of its levels, if it has any.

        The density of levels is that of `level + u` with u uniform on [0, 1): in expectation over u, its logarithm is a
        lower bound on the log-probability of the level (Theis et al., 2016, "A note on the evaluation of generative
        models", section 3.1).
        """
        return None

    def grey(self, x: Float[Tensor, "N *shape"]) -> Float[Tensor, "N *shape"]:
        """Return observations as the values in [0, 1] that they are drawn as."""
        return x


@dataclasses.dataclass(frozen=True)
class AsIs(Access):
    """Rows are observations."""

    def __call__(self, rows: Shaped[Tensor, "B *shape"], noise: Noise) -> Float[Tensor, "B *shape"]:
        """Return the rows as floating-point numbers."""
        del noise
        return rows if rows.is_floating_point() else rows.float()


@dataclasses.dataclass(frozen=True)
class Bernoulli(Access):
    """Draws a binary value at every access.

    Attributes:
        top: The grey value whose probability is one, 1 .. 255, for rows of bytes: grey / top is the probability,
            exactly. Rows of floating-point numbers are probabilities themselves.
    """

    top: int = 255

    def __call__(self, rows: Shaped[Tensor, "B *shape"], noise: Noise) -> Float[Tensor, "B *shape"]:
        """Return zeros and ones; a probability of 0 never gives a 1 and one of 1 always does."""
        if rows.is_floating_point():
            return (noise.uniform(rows.shape, device=rows.device) < rows).float()
        drawn = noise.below(self.top, rows.shape, device=rows.device)
        # Compared into floating-point numbers: to convert truth values costs three times as much.
        return torch.lt(drawn, rows, out=torch.empty(rows.shape, device=rows.device))


@dataclasses.dataclass(frozen=True)
class Dequantise(Access):
    r"""Adds uniform noise to levels 0 .. n - 1 and brings them into [0, 1], and from there, if asked, to the real line.

    .. math:: x = (\text{level} + u) / n, \qquad y = \operatorname{logit}(\alpha + (1 - 2 \alpha) x)

    Reference: Uria et al., 2013, "RNADE", section 4 (noise); Dinh et al., 2017, "Density estimation using Real NVP",
    section 4.1 (logit).

    Attributes:
        num_levels: n.
        logit_alpha: alpha, in (0, 1/2); None leaves x in [0, 1].
    """

    num_levels: int = 256
    logit_alpha: float | None = None

    def __call__(self, rows: Shaped[Tensor, "B *shape"], noise: Noise) -> Float[Tensor, "B *shape"]:
        """Return x, or y with a logit."""
        uniform = noise.uniform(rows.shape, device=rows.device)
        # In float64, for a float32 near 256 would lose what tells levels from each other, and its logit more.
        x = (rows.double() + uniform) / self.num_levels
        if self.logit_alpha is not None:
            x = torch.logit(self.logit_alpha + (1 - 2 * self.logit_alpha) * x)
        return x.float()

    def log_volume(self, x: Float[Tensor, "N *shape"]) -> Float[Tensor, " N"]:
        """Return log |dy / d(level)|, summed over the dimensions of each example."""
        each = torch.full_like(x, -math.log(self.num_levels), dtype=torch.float64)
        if self.logit_alpha is not None:
            y = x.double()
            # s = sigmoid(y) = alpha + (1 - 2 alpha) x has the derivative s (1 - s) in y.
            both = torch.nn.functional.softplus(y) + torch.nn.functional.softplus(-y)
            each = each + math.log1p(-2 * self.logit_alpha) + both
        return each.flatten(1).sum(1)

    def grey(self, x: Float[Tensor, "N *shape"]) -> Float[Tensor, "N *shape"]:
        """Return x in [0, 1]."""
        if self.logit_alpha is None:
            return x
        return (torch.sigmoid(x) - self.logit_alpha) / (1 - 2 * self.logit_alpha)
