"""The bars problem: images of overlapping horizontal and vertical bars, whose probability is known."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Float32, Float64
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from elbo_bench.data.dataset import Dataset, DataSource
from elbo_bench.noise import Noise

_CHUNK_VALUES = 2**20
"""Numbers that are held at a time while probabilities are summed over the bars: 8 MiB."""


@dataclass(frozen=True, kw_only=True)
class Bars(DataSource):
    r"""Binary images in which each row and each column is a bar, on or off, seen through noise.

    .. math:: r_i, c_j \sim \text{Bernoulli}(p), \qquad
        x_{ij} = (r_i \lor c_j) \oplus e_{ij}, \quad e_{ij} \sim \text{Bernoulli}(f)

    The causes of an image are the bars, which are independent of each other; where two of them cross, a pixel is no
    brighter, so they do not add up. Noise in every pixel makes every image possible, so that log p(x) is finite. More
    examples of a split leave the first ones as they are.

    Reference: Foldiak, 1990, "Forming sparse representations by local anti-Hebbian learning", where there is no noise.

    Attributes:
        side: Pixels in a row and in a column, 2 .. 12: log p(x) is a sum over the 2^side states of the rows.
        bar_probability: Probability that a bar is on, p; 1 / side gives two bars on average.
        flip: Probability that a pixel is flipped, f, in (0, 0.5].
        num_train: Training examples.
        num_validation: Validation examples.
        num_test: Test examples.
        data_seed: Seed of the examples; the run's seed has no part in them.
    """

    side: Annotated[int, Field(ge=2, le=12)] = 8
    bar_probability: Annotated[float, Field(gt=0, lt=1)] = 0.125
    flip: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    num_train: PositiveInt = 2000
    num_validation: PositiveInt = 500
    num_test: PositiveInt = 500
    data_seed: NonNegativeInt = 0

    licence: ClassVar[str] = "none needed: the data are drawn, not collected"
    citation: ClassVar[str] = (
        "Foldiak, Forming sparse representations by local anti-Hebbian learning, Biological Cybernetics 64(2), 1990"
    )
    test_sha256: ClassVar[Mapping[str, str]] = {
        "drawn": "549dc4ccae0ec25fbc21a856cfb782dfbb2beb093bb47ce807fcc1dfbca23625",
    }

    @property
    def protocol(self) -> str:
        """One line that says what the splits are and how they were drawn: every field that determines the data."""
        return (
            f"{self.num_train}/{self.num_validation}/{self.num_test} drawn from noisy bars: side={self.side}, "
            f"bar_probability={self.bar_probability!r}, flip={self.flip!r}, data_seed={self.data_seed}"
        )

    def load(self, root: Path) -> Dataset:  # noqa: ARG002 - drawn, not read
        """Draw the three splits."""
        return Dataset(
            name="bars",
            protocol=self.protocol,
            values="drawn",
            num_levels=2,
            train=self._draw("train", self.num_train),
            validation=self._draw("validation", self.num_validation),
            test=self._draw("test", self.num_test),
            truth=self._log_probability,
        )

    def _log_probability(self, x: Float[Tensor, "N side side"]) -> Float64[Tensor, " N"]:
        r"""Return the log-probability of binary images, in nats.

        .. math:: p(x) = \sum_r p(r) \prod_j \sum_{c_j} p(c_j) \prod_i p(x_{ij} \mid r_i \lor c_j)

        Given the rows, the columns are independent: 2^side states are summed over, and not the 2^(2 side) of all bars.
        """
        size = max(1, _CHUNK_VALUES // (self.side * 2**self.side))
        return torch.cat([self._log_probability_of_chunk(chunk) for chunk in x.double().split(size)])

    def _log_probability_of_chunk(self, x: Float64[Tensor, "N side side"]) -> Float64[Tensor, " N"]:
        bits = torch.arange(self.side)
        rows = (torch.arange(2**self.side)[:, None] >> bits & 1).double()
        rows_on, log_on, log_off = rows.sum(1), math.log(self.bar_probability), math.log1p(-self.bar_probability)
        log_p_rows = rows_on * log_on + (self.side - rows_on) * log_off
        ink = x.sum(1, keepdim=True)
        # Pixels of each column, [N, 2^side, side], that were flipped if its bar is off: those that are not as the rows.
        flipped = ink + rows_on[:, None] - 2 * rows @ x
        log_p_column = torch.logaddexp(
            log_off + self._log_p_flips(flipped), log_on + self._log_p_flips(self.side - ink)
        )
        return torch.logsumexp(log_p_rows + log_p_column.sum(2), 1)

    def _log_p_flips(self, flipped: Float64[Tensor, "..."]) -> Float64[Tensor, "..."]:
        """Return the log-probability that these pixels of a column, by their number, are flipped and no others."""
        return flipped * math.log(self.flip) + (self.side - flipped) * math.log1p(-self.flip)

    def _draw(self, split: str, num_examples: int) -> Float32[Tensor, "N side side"]:
        # In float64: 24 bits would make the probability of a flip another one than `flip`.
        bars, noise = (Noise(self.data_seed, f"bars/{split}", position).stream() for position in (0, 1))
        rows, columns = (bars.uniform((num_examples, 2, self.side)) < self.bar_probability).unbind(1)
        flipped = noise.uniform((num_examples, self.side, self.side)) < self.flip
        return ((rows[:, :, None] | columns[:, None, :]) ^ flipped).float()
