"""The bars problem: binary images of horizontal and vertical bars that overlap. The true log p(x) is known."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Float32, Float64
from pydantic import Field
from torch import Tensor

from elbo_bench.data.drawn_source import DrawnSource
from elbo_bench.noise import Noise

_CHUNK_VALUES = 2**20
"""Number of values in memory at a time while probabilities are summed over the bars: 8 MiB."""


@dataclass(frozen=True, kw_only=True)
class Bars(DrawnSource):
    r"""Binary images in which each row and each column is a bar that is on or off, with noise in every pixel.

    .. math:: r_i, c_j \sim \text{Bernoulli}(p), \qquad
        x_{ij} = (r_i \lor c_j) \oplus e_{ij}, \quad e_{ij} \sim \text{Bernoulli}(f)

    The bars are independent latent causes. Their effects do not add up: a pixel where two bars cross is 1, as for one
    bar. The noise gives every image a positive probability, so log p(x) is finite.

    Reference: Foldiak, 1990, "Forming sparse representations by local anti-Hebbian learning". It has no noise.

    Attributes:
        side: Pixels in a row and in a column, 2 .. 12: log p(x) is a sum over the 2^side states of the rows.
        bar_probability: Probability that a bar is on, p; 1 / side gives two bars on average.
        flip: Probability that a pixel is flipped, f, in (0, 0.5].
    """

    side: Annotated[int, Field(ge=2, le=12)] = 8
    bar_probability: Annotated[float, Field(gt=0, lt=1)] = 0.125
    flip: Annotated[float, Field(gt=0, le=0.5)] = 0.05

    name = "bars"
    citation = (
        "Foldiak, Forming sparse representations by local anti-Hebbian learning, Biological Cybernetics 64(2), 1990"
    )
    test_sha256: ClassVar[Mapping[str, str]] = {
        "drawn": "549dc4ccae0ec25fbc21a856cfb782dfbb2beb093bb47ce807fcc1dfbca23625",
    }

    @property
    def distribution(self) -> str:
        """The distribution and the value of each field that determines it, in words."""
        return f"noisy bars: side={self.side}, bar_probability={self.bar_probability!r}, flip={self.flip!r}"

    def log_p_x(self, x: Float[Tensor, "N side side"]) -> Float64[Tensor, " N"]:
        r"""Return the log-probability of binary images, in nats.

        .. math:: p(x) = \sum_r p(r) \prod_j \sum_{c_j} p(c_j) \prod_i p(x_{ij} \mid r_i \lor c_j)

        Given the rows, the columns are independent. So the sum has 2^side terms instead of 2^(2 side).
        """
        size = max(1, _CHUNK_VALUES // (self.side * 2**self.side))
        return torch.cat([self._log_p_x_of_chunk(chunk) for chunk in x.double().split(size)])

    def _log_p_x_of_chunk(self, x: Float64[Tensor, "N side side"]) -> Float64[Tensor, " N"]:
        bits = torch.arange(self.side)
        rows = (torch.arange(2**self.side)[:, None] >> bits & 1).double()
        rows_on, log_on, log_off = rows.sum(1), math.log(self.bar_probability), math.log1p(-self.bar_probability)
        log_p_rows = rows_on * log_on + (self.side - rows_on) * log_off
        ink = x.sum(1, keepdim=True)
        # Number of flipped pixels in each column, [N, 2^side, side], if the bar of the column is off.
        flipped = ink + rows_on[:, None] - 2 * rows @ x
        log_p_column = torch.logaddexp(
            log_off + self._log_p_flips(flipped), log_on + self._log_p_flips(self.side - ink)
        )
        return torch.logsumexp(log_p_rows + log_p_column.sum(2), 1)

    def _log_p_flips(self, flipped: Float64[Tensor, "..."]) -> Float64[Tensor, "..."]:
        """Return the log-probability that exactly the given pixels of a column are flipped, from their number."""
        return flipped * math.log(self.flip) + (self.side - flipped) * math.log1p(-self.flip)

    def draw(self, split: str, num_examples: int) -> Float32[Tensor, "N side side"]:
        """Return the examples of a split."""
        # In float64: with the 24 bits of float32, the probability of a flip would differ from `flip`.
        bars, noise = (Noise(self.data_seed, f"bars/{split}", position).stream() for position in (0, 1))
        rows, columns = (bars.uniform((num_examples, 2, self.side)) < self.bar_probability).unbind(1)
        flipped = noise.uniform((num_examples, self.side, self.side)) < self.flip
        return ((rows[:, :, None] | columns[:, None, :]) ^ flipped).float()
