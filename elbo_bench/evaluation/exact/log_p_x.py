"""Exact log p(x): a closed form, a sum over discrete latents, or quadrature in one or two dimensions."""

import copy
import dataclasses
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from elbo_bench.draws import LatentVariableModel
from elbo_bench.evaluation.blocks import ScoredBlock, score_examples
from elbo_bench.evaluation.estimate import Estimate, Scores
from elbo_bench.evaluation.evaluator import Evaluator, Request
from elbo_bench.evaluation.exact.quadrature import Quadrature, cross_log_prob
from elbo_bench.latent_states import MOST_STATES, num_states, states

Method = Literal["closed form", "enumeration", "quadrature"]
LARGEST_ERROR = 1e-3
"""Largest error of a quadrature, in nats, at which its value counts as exact."""
_BLOCK = 128  # examples for which the latents are decoded anew
_CHUNK = 1024  # latents decoded at once


@runtime_checkable
class HasLogPX(Protocol):
    """A model with log p(x) in closed form."""

    def log_p_x(self, x: Tensor) -> Tensor:
        """Return the exact log p(x) in nats for `x` `[B, *data]`: `[B]`."""
        ...


@dataclasses.dataclass(frozen=True)
class Exact:
    """Exact log p(x) of every example.

    Attributes:
        method: Method of computation.
        log_px: The values in nats. Their error is the last change by the refinement, and 0 for a finite sum.
        decoder_evaluations: Latents decoded, for all examples together.
    """

    method: Method
    log_px: Estimate
    decoder_evaluations: int


def exact_method(model: object) -> Method | None:
    """Return how log p(x) of a model can be computed exactly, or None."""
    if isinstance(model, HasLogPX):
        return "closed form"
    if not isinstance(model, LatentVariableModel):
        return None
    distribution = model.prior()
    count = num_states(distribution)
    if count is not None:
        return "enumeration" if count <= MOST_STATES else None
    event = distribution.event_shape
    return "quadrature" if len(event) == 1 and event[0] <= 2 and not distribution.batch_shape else None


def exact_log_p_x(keys: Evaluator, model: object, x: Shaped[Tensor, "N *data"], request: Request) -> Exact | None:
    """Return exact log p(x) of every example, or None if there is no method or quadrature does not converge.

    Quadrature and enumeration compute in float64, on a copy of the model: a sum over a hundred thousand latents is
    only as exact as its terms.

    Raises:
        RunFailedError: A value is not finite. The message names the example.
    """
    method = exact_method(model)
    if method is None:
        return None
    precise = copy.deepcopy(model).double() if method != "closed form" and isinstance(model, nn.Module) else model
    quadrature = Quadrature(precise) if method == "quadrature" and isinstance(precise, LatentVariableModel) else None

    @torch.inference_mode()
    def score(fixed: LatentVariableModel, x: Tensor, _block: int) -> ScoredBlock:
        if isinstance(model, HasLogPX):
            columns = {"log_px": model.log_p_x(x).double()}
        elif quadrature is not None:
            columns = quadrature.log_p_x(x.double())
        else:
            columns = _enumerate(fixed, x.double())
        nothing = torch.zeros_like(columns["log_px"])
        counts = {name: columns.get(name, nothing).cpu().numpy() for name in ("count", "grid")}
        return ScoredBlock(Scores({"log_px": Estimate.of(columns["log_px"], columns.get("error"))}, counts))

    folder = None if request.folder is None else request.folder / "exact"
    scores = score_examples(
        dataclasses.replace(keys, block_size=_BLOCK),
        precise,
        x,
        dataclasses.replace(request, folder=folder),
        score=score,
    )
    log_px, columns = scores.estimates["log_px"], scores.columns
    if float(log_px.se_mc.max()) > LARGEST_ERROR:
        return None
    return Exact(method, log_px, int(columns["count"].sum() + columns["grid"][::_BLOCK].sum()))


def _enumerate(model: LatentVariableModel, x: Shaped[Tensor, "B *data"]) -> dict[str, Tensor]:
    """Return log p(x) = log sum_z p(z) p(x|z)."""
    prior = model.prior()
    every = states(prior)
    pieces = [prior.log_prob(z)[:, None] + cross_log_prob(model, z, x) for z in every.split(_CHUNK)]
    log_px = torch.logsumexp(torch.cat(pieces), 0)
    return {"log_px": log_px, "grid": torch.full_like(log_px, len(every))}
