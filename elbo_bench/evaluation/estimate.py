"""Estimates: a value for each example with its Monte Carlo error."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

Columns = dict[str, np.ndarray]
"""Arrays by name, one row an example."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value for each of N examples with its Monte Carlo standard error, in nats."""

    value: Float[np.ndarray, " N"]
    se_mc: Float[np.ndarray, " N"]

    @classmethod
    def of(cls, value: Float[Tensor, " N"], se_mc: Float[Tensor, " N"] | None = None) -> "Estimate":
        """Return an estimate of two tensors; None is a value without Monte Carlo error."""
        values = value.cpu().numpy()
        return cls(values, np.zeros_like(values) if se_mc is None else se_mc.cpu().numpy())

    @classmethod
    def mean_of(cls, samples: Float[Tensor, "K N"]) -> "Estimate":
        """Return the mean of K independent samples of each example."""
        return cls.of(samples.mean(0), samples.std(0) / math.sqrt(len(samples)))

    def where(self, chosen: Bool[np.ndarray, " N"], other: "Estimate") -> "Estimate":
        """Return this estimate for the chosen examples and another one for the rest."""
        return Estimate(np.where(chosen, self.value, other.value), np.where(chosen, self.se_mc, other.se_mc))

    @property
    def log_bias(self) -> Float[np.ndarray, " N"]:
        """Bias of the log of a mean, to second order in its standard error; the jackknife estimates the same.

        Source: Burda et al., 2016; Nowozin, 2018, "Debiasing evidence approximations".
        """
        return -0.5 * self.se_mc**2


@dataclasses.dataclass(frozen=True)
class Scores:
    """What was computed for some examples.

    Attributes:
        estimates: Estimates by name.
        columns: Other columns by name.
    """

    estimates: dict[str, Estimate]
    columns: Columns

    def flat(self) -> Columns:
        """Return the columns of `examples.npz`: an estimate NAME is the columns `NAME` and `NAME_se_mc`."""
        columns = dict(self.columns)
        for name, estimate in self.estimates.items():
            columns |= {name: estimate.value, f"{name}_se_mc": estimate.se_mc}
        return columns

    def packed(self) -> Columns:
        """Return plain arrays, from which `unpacked` makes the scores again."""
        pairs = {f"estimates/{name}": np.stack([each.value, each.se_mc], 1) for name, each in self.estimates.items()}
        return pairs | {f"columns/{name}": column for name, column in self.columns.items()}

    @classmethod
    def unpacked(cls, parts: Sequence[Columns]) -> "Scores":
        """Return the scores of several packed parts, one after another."""
        joined = {name.partition("/")[::2]: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return cls(
            {name: Estimate(pair[:, 0], pair[:, 1]) for (kind, name), pair in joined.items() if kind == "estimates"},
            {name: column for (kind, name), column in joined.items() if kind == "columns"},
        )
