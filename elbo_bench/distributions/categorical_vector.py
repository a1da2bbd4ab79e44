"""A vector of independent labels: the discrete latent that is small enough to be summed over."""

from typing import NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Categorical, Independent


class CategoricalVector(Independent):  # type: ignore[type-arg]
    """Creates V independent labels, each one of 0 .. C - 1, all of them one event.

    Labels are no numbers: there is no mean. Samples carry no gradient, and nothing here pretends that they do.

    Args:
        logits: Log-odds of each label, up to a constant, `[*batch, V, C]`.
    """

    def __init__(self, logits: Float[Tensor, "*batch V C"]) -> None:
        super().__init__(Categorical(logits=logits, validate_args=False), 1, validate_args=False)

    def expand(self, batch_shape: torch.Size | list[int], _instance: object = None) -> "CategoricalVector":  # type: ignore[override]
        """Return the same distribution for every element of a larger batch."""
        logits = self.base_dist.logits
        return CategoricalVector(logits.expand(*batch_shape, *logits.shape[-2:]))

    @property
    def mean(self) -> NoReturn:
        """There is none.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("labels have no mean")

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Int[Tensor, "*sample V"]:
        """Return labels, by torch's global generator and the inverse of their distribution function.

        A probability that is not finite gives label 0: it is log q(z|x) that must say so.
        """
        with torch.no_grad():
            probabilities = self.base_dist.probs
            shape = torch.Size(sample_shape) + probabilities.shape[:-1]
            level = torch.rand(shape, dtype=torch.float64, device=probabilities.device)
            edges = probabilities.double().cumsum(-1)
            labels: Tensor = (level.unsqueeze(-1) * edges[..., -1:] >= edges[..., :-1]).sum(-1)
            return labels
