"""Turn stored examples into observations when they are accessed: unchanged, by Bernoulli draws, or dequantised."""

import abc
import dataclasses
import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from elbo_bench.noise import Noise


class Access(abc.ABC):
    """Turns stored examples into observations."""

    @abc.abstractmethod
    def __call__(self, stored: Shaped[Tensor, "B *shape"], noise: Noise) -> Float[Tensor, "B *shape"]:
        """Return the observations of some stored examples. The same noise gives the same observations."""

    def log_volume(self, x: Float[Tensor, "N *shape"]) -> Float[Tensor, " N"] | None:  # noqa: ARG002
        """Return what to add to the log-density of x, in nats, to get that of its levels; None without levels.

        The density of levels is the density of `level + u` with u uniform on [0, 1). Its expected logarithm over u is
        at most the log-probability of the level (Theis et al., 2016, "A note on the evaluation of generative models",
        section 3.1).
        """
        return None

    def grey(self, x: Float[Tensor, "N *shape"]) -> Float[Tensor, "N *shape"]:
        """Return observations as grey values in [0, 1], for pictures."""
        return x


@dataclasses.dataclass(frozen=True)
class AsIs(Access):
    """Uses stored examples as observations."""

    def __call__(self, stored: Shaped[Tensor, "B *shape"], noise: Noise) -> Float[Tensor, "B *shape"]:
        """Return the stored examples as floating-point numbers."""
        del noise
        return stored if stored.is_floating_point() else stored.float()


@dataclasses.dataclass(frozen=True)
class Binarise(Access):
    """Draws binary values at every access, with the grey value as probability.

    Attributes:
        top: For stored bytes: the grey value with probability one, 1 .. 255. The probability is exactly grey / top.
            Stored floating-point numbers are probabilities themselves.
    """

    top: int = 255

    def __call__(self, stored: Shaped[Tensor, "B *shape"], noise: Noise) -> Float[Tensor, "B *shape"]:
        """Return zeros and ones. A probability of 0 never gives a 1, and a probability of 1 always does."""
        if stored.is_floating_point():
            return (noise.uniform(stored.shape, device=stored.device) < stored).float()
        drawn = noise.below(self.top, stored.shape, device=stored.device)
        # Compare straight into floats: converting booleans costs three times as much.
        return torch.lt(drawn, stored, out=torch.empty(stored.shape, device=stored.device))


@dataclasses.dataclass(frozen=True)
class Dequantise(Access):
    r"""Adds uniform noise to levels 0 .. n - 1, scales them to [0, 1] and can map them to the real line.

    .. math:: x = (\text{level} + u) / n, \qquad y = \operatorname{logit}(\alpha + (1 - 2 \alpha) x)

    Reference: Uria et al., 2013, "RNADE", section 4 (noise); Dinh et al., 2017, "Density estimation using Real NVP",
    section 4.1 (logit).

    Attributes:
        num_levels: n.
        logit_alpha: alpha, in (0, 1/2). None returns x instead of y.
    """

    num_levels: int = 256
    logit_alpha: float | None = None

    def __call__(self, stored: Shaped[Tensor, "B *shape"], noise: Noise) -> Float[Tensor, "B *shape"]:
        """Return x, or y if `logit_alpha` is set."""
        uniform = noise.uniform(stored.shape, device=stored.device)
        # In float64: near 256, float32 has few digits for the noise, and the logit of the sum would have fewer.
        x = (stored.double() + uniform) / self.num_levels
        if self.logit_alpha is not None:
            x = torch.logit(self.logit_alpha + (1 - 2 * self.logit_alpha) * x)
        return x.float()

    def log_volume(self, x: Float[Tensor, "N *shape"]) -> Float[Tensor, " N"]:
        """Return log |dy / d(level)| in nats, summed over the dimensions of each example."""
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
