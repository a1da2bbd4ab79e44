"""What a model must know of its data, measured once and handed over; never configured twice."""

import dataclasses
from typing import Literal

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """The facts of a data set that a model is built from.

    Attributes:
        shape: Shape of one example, `(28, 28)` for MNIST.
        train_mean: Mean of the training examples, of `shape`; for a data set that is binarised at every access
            the mean of the grey values, which is the mean of the observations too.
        num_train: Number of training examples, N.
        observation: Whether an observation has a probability mass (`"discrete"`) or a density (`"continuous"`).
        num_levels: Values a discrete observation takes, 0 .. num_levels - 1; 2 is binary. None if continuous.
        bounds: Between which a continuous observation lies; None if it may be any real number, or is not known.
        scale: How far continuous training observations spread about their mean, the root of the mean square.
    """

    shape: tuple[int, ...]
    train_mean: Tensor
    num_train: int
    observation: Literal["discrete", "continuous"]
    num_levels: int | None = None
    bounds: tuple[float, float] | None = None
    scale: float = 1.0

    @property
    def num_dims(self) -> int:
        """Number of dimensions of one example, D."""
        size = 1
        for length in self.shape:
            size *= length
        return size
