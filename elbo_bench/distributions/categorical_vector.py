"""The distribution of a vector of independent categorical variables, for discrete latents."""

from typing import NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Categorical, Independent


class CategoricalVector(Independent):  # type: ignore[type-arg]
    """Creates the distribution of V independent categorical variables with values 0 .. C - 1, as one event.

    The values are labels, so there is no mean. Samples have no gradient.

    Args:
        logits: Log-probabilities of the values, up to a constant, `[*batch, V, C]`.
    """

    def __init__(self, logits: Float[Tensor, "*batch V C"]) -> None:
        super().__init__(Categorical(logits=logits, validate_args=False), 1, validate_args=False)

    def expand(self, batch_shape: torch.Size | list[int], _instance: object = None) -> "CategoricalVector":  # type: ignore[override]
        """Return the same distribution for every element of a larger batch."""
        logits = self.base_dist.logits
        return CategoricalVector(logits.expand(*batch_shape, *logits.shape[-2:]))

    @property
    def mean(self) -> NoReturn:
        """Not defined.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("labels have no mean")

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Int[Tensor, "*sample V"]:
        """Return samples from torch's global generator, by inversion of the distribution function.

        If a probability is NaN, the sample is 0; log q(z|x) is NaN then.
        """
        with torch.no_grad():
            probabilities = self.base_dist.probs
            shape = torch.Size(sample_shape) + probabilities.shape[:-1]
            level = torch.rand(shape, dtype=torch.float64, device=probabilities.device)
            edges = probabilities.double().cumsum(-1)
            labels: Tensor = (level.unsqueeze(-1) * edges[..., -1:] >= edges[..., :-1]).sum(-1)
            return labels
