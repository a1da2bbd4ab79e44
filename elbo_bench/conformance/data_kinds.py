"""The kinds of data that `check` tries with a model. The laws use the first kind that the model accepts."""

import dataclasses

import torch
from torch import Tensor

from elbo_bench.data_info import DataInfo
from elbo_bench.noise import Noise


@dataclasses.dataclass(frozen=True)
class DataKind:
    """A kind of data: the shape of an example, and the number of levels of a value (None for continuous values)."""

    shape: tuple[int, ...]
    num_levels: int | None

    @property
    def info(self) -> DataInfo:
        """The facts of the data that a model receives. Continuous values lie between 0 and 1."""
        observation = "continuous" if self.num_levels is None else "discrete"
        grey = 0.2 + 0.6 * Noise(6, "conformance/mean").uniform(self.shape)
        mean = grey * ((self.num_levels or 2) - 1)
        bounds = (0.0, 1.0) if self.num_levels is None else None
        return DataInfo(self.shape, mean, 100, observation, self.num_levels, bounds)  # type: ignore[arg-type]

    def examples(self, count: int) -> Tensor:
        """Return random examples in float64, `[count, *shape]`."""
        uniform = Noise(7, "conformance/data").stream().uniform((count, *self.shape))
        return uniform if self.num_levels is None else (uniform * self.num_levels).floor()

    def of_shape(self, shape: tuple[int, ...]) -> "DataKind":
        """Return the same kind of data with examples of another shape."""
        return dataclasses.replace(self, shape=shape)

    def every_example(self) -> Tensor | None:
        """Return all possible examples, or None if they are continuous or more than 2^16."""
        num_values = torch.Size(self.shape).numel()
        if self.num_levels is None or self.num_levels**num_values > 2**16:
            return None
        levels = torch.arange(self.num_levels, dtype=torch.float64)
        return torch.cartesian_prod(*[levels] * num_values).reshape(-1, *self.shape)

    def __str__(self) -> str:
        levels = "continuous values" if self.num_levels is None else f"values of {self.num_levels} levels"
        return f"{'x'.join(map(str, self.shape))} {levels}"


VECTOR, IMAGE = (6,), (8, 8)
KINDS = tuple(DataKind(shape, num_levels) for num_levels in (2, 17, 256, None) for shape in (VECTOR, IMAGE))
