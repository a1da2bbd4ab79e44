"""Exact log p(x), where there is a way: a closed form, a sum over discrete latents, or quadrature in one or two."""

import copy
import dataclasses
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from elbo_bench.draws import LatentVariableModel
from elbo_bench.evaluation.blocks import score_examples
from elbo_bench.evaluation.evaluator import Request
from elbo_bench.evaluation.finished_blocks import Rows
from elbo_bench.evaluation.quadrature import Quadrature, cross_log_prob
from elbo_bench.latent_states import MOST_STATES, num_states, states

Method = Literal["closed form", "enumeration", "quadrature"]
LARGEST_ERROR = 1e-3
"""Nats beyond which a quadrature's own error makes it no exact value."""
_BLOCK = 128  # examples for which the latents are decoded anew
_CHUNK = 1024  # latents decoded at once


@runtime_checkable
class HasLogPX(Protocol):
    """A model that knows its log p(x) in closed form."""

    def log_p_x(self, x: Tensor) -> Tensor:
        """Return the exact log p(x) in nats for `x` `[B, *data]`: `[B]`."""
        ...


@dataclasses.dataclass(frozen=True)
class Exact:
    """Exact log p(x) of every example.

    Attributes:
        method: How it was computed.
        log_px: In nats.
        error: What refining moved it by at last: an estimate of its error, 0 for a finite sum.
        decoder_evaluations: Latents decoded, for all examples together.
    """

    method: Method
    log_px: Float[np.ndarray, " N"]
    error: Float[np.ndarray, " N"]
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


def exact_log_p_x(
    model: object, x: Shaped[Tensor, "N *data"], *, workers: int | Literal["auto"], request: Request
) -> Exact | None:
    """Return exact log p(x) of every example, or None where there is no way, or it does not converge.

    Quadrature and enumeration compute in float64, on a copy of the model: a sum over a hundred thousand latents is
    only as exact as its terms.

    Raises:
        RunFailedError: It is not finite; the line names the example.
    """
    method = exact_method(model)
    if method is None:
        return None
    precise = copy.deepcopy(model).double() if method != "closed form" and isinstance(model, nn.Module) else model
    quadrature = Quadrature(precise) if method == "quadrature" and isinstance(precise, LatentVariableModel) else None

    @torch.inference_mode()
    def score(x: Tensor, _block: int) -> Rows:
        if isinstance(model, HasLogPX):
            log_px = model.log_p_x(x).double()
            nothing = torch.zeros_like(log_px)
            columns = {"log_px": log_px, "error": nothing, "count": nothing, "grid": nothing}
        elif quadrature is not None:
            columns = quadrature.log_p_x(x.double())
        else:
            assert isinstance(precise, LatentVariableModel)
            columns = _enumerate(precise, x.double())
        return {name: column.cpu().numpy() for name, column in columns.items()}

    folder = None if request.folder is None else request.folder / "exact"
    asked = dataclasses.replace(request, folder=folder, bounds={})
    rows = score_examples(precise, x, score, block_size=_BLOCK, workers=workers, request=asked)
    if float(rows["error"].max()) > LARGEST_ERROR:
        return None
    return Exact(method, rows["log_px"], rows["error"], int(rows["count"].sum() + rows["grid"][::_BLOCK].sum()))


def _enumerate(model: LatentVariableModel, x: Shaped[Tensor, "B *data"]) -> dict[str, Tensor]:
    """Return log p(x) = log sum_z p(z) p(x|z)."""
    prior = model.prior()
    every = states(prior)
    pieces = [prior.log_prob(z)[:, None] + cross_log_prob(model, z, x) for z in every.split(_CHUNK)]
    log_px = torch.logsumexp(torch.cat(pieces), 0)
    return {
        "log_px": log_px,
        "error": torch.zeros_like(log_px),
        "count": torch.zeros_like(log_px),
        "grid": torch.full_like(log_px, len(every)),
    }
