"""Bounds that are sums over every value of a discrete latent: exact, and computed once a block."""

from collections.abc import Mapping

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.distributions import Distribution

from elbo_bench.draws import Draws, LatentVariableModel, NoClosedFormError, enumerate_latents, score
from elbo_bench.evaluation.evaluator import Bound, UnsuitableModelError
from elbo_bench.latent_states import states


def is_enumerated(bound: Bound) -> bool:
    """Return whether a bound asks for every value of the latent, and not for samples."""
    return getattr(bound, "latents", "sampled") == "enumerated"


class EnumeratedBounds:
    """Values of bounds that are given every latent; they have no Monte Carlo error.

    Args:
        bounds: The bounds, by name.
    """

    def __init__(self, bounds: Mapping[str, Bound]) -> None:
        self.bounds = bounds
        self.num_states = 0
        self._values: dict[str, Tensor] = {}

    def compute(
        self, model: LatentVariableModel, posterior: Distribution, x: Shaped[Tensor, "B *data"], chunk_size: int
    ) -> None:
        """Decode every latent with every example, in chunks, and take the value of each bound, in float64."""
        every = states(model.prior())
        self.num_states = len(every)
        pieces = []
        for part in every.split(chunk_size):
            piece = score(model, posterior, x, part[:, None].expand(len(part), len(x), *part.shape[1:]))
            pieces.append((piece.log_p_x_given_z.double(), piece.log_p_z.double(), piece.log_q_z_given_x.double()))
        log_p_x_given_z, log_p_z, log_q_z_given_x = (torch.cat(column) for column in zip(*pieces, strict=True))
        draws = Draws(
            z=every[:, None].expand(len(every), len(x), *every.shape[1:]),
            log_p_x_given_z=log_p_x_given_z,
            log_p_z=log_p_z,
            log_q_z_given_x=log_q_z_given_x,
            posterior=posterior,
            prior=model.prior(),
        )
        self._values = {name: bound(draws).double() for name, bound in self.bounds.items()}

    def columns(self) -> dict[str, Tensor]:
        """Return the values, and their errors, which are 0."""
        errors = {f"{name}_se": torch.zeros_like(value) for name, value in self._values.items()}
        return self._values | errors


@torch.no_grad()
def check_enumerable(model: object, x: Shaped[Tensor, "B *data"], bounds: Mapping[str, Bound]) -> None:
    """Refuse bounds over every latent where there is no such sum.

    Raises:
        ValueError: The model does not say what its latent is, or that has too many values.
    """
    for name in [name for name, bound in bounds.items() if is_enumerated(bound)]:
        if not isinstance(model, LatentVariableModel):
            raise UnsuitableModelError(f"bounds: {name} sums over every latent, and this model does no more than draw")
        try:
            enumerate_latents(model, model.posterior(x), x)
        except NoClosedFormError as error:
            raise UnsuitableModelError(f"bounds: {name} cannot be had: {error}") from None
