"""Bounds that are sums over every value of a discrete latent: exact, and computed once for a block."""

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from elbo_bench.draws import Draws, LatentVariableModel, NoClosedFormError, enumerate_latents, score
from elbo_bench.evaluation.estimate import Estimate
from elbo_bench.evaluation.evaluator import Bound, ScoredBound, UnsuitableModelError
from elbo_bench.evaluation.scored_model import EncodedBlock
from elbo_bench.latent_states import states


def is_enumerated(bound: Bound) -> bool:
    """Return whether a bound needs every value of the latent instead of samples."""
    return getattr(bound, "latents", "sampled") == "enumerated"


def enumerated_bounds(
    bounds: Sequence[ScoredBound], block: EncodedBlock, chunk_size: int
) -> tuple[dict[str, Estimate], int]:
    """Return the values of bounds that are sums over every latent, and the number of latents decoded.

    The latents are decoded in chunks and the values are computed in float64. They have no Monte Carlo error.
    """
    every, size = states(block.prior), len(block.x)
    pieces = []
    for part in every.split(chunk_size):
        piece = score(block.model, block.posterior, block.x, part[:, None].expand(len(part), size, *part.shape[1:]))
        pieces.append((piece.log_p_x_given_z.double(), piece.log_p_z.double(), piece.log_q_z_given_x.double()))
    log_p_x_given_z, log_p_z, log_q_z_given_x = (torch.cat(column) for column in zip(*pieces, strict=True))
    draws = Draws(
        z=every[:, None].expand(len(every), size, *every.shape[1:]),
        log_p_x_given_z=log_p_x_given_z,
        log_p_z=log_p_z,
        log_q_z_given_x=log_q_z_given_x,
        posterior=block.posterior,
        prior=block.prior,
    )
    return {each.estimate: Estimate.of(each.bound(draws).double()) for each in bounds}, len(every)


@torch.no_grad()
def check_enumerable(model: object, x: Shaped[Tensor, "B *data"], bounds: Sequence[ScoredBound]) -> None:
    """Refuse bounds over every latent for a model without a finite number of latents.

    Raises:
        ValueError: The model only draws, or its latent has infinitely or too many values.
    """
    for name in [each.name for each in bounds if is_enumerated(each.bound)]:
        if not isinstance(model, LatentVariableModel):
            raise UnsuitableModelError(f"bounds: {name} sums over every latent, and this model can only draw")
        try:
            enumerate_latents(model, model.posterior(x), x)
        except NoClosedFormError as error:
            raise UnsuitableModelError(f"bounds: {name} cannot be evaluated: {error}") from None
