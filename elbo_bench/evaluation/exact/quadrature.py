"""Quadrature of log p(x) for a latent of one or two dimensions, with any decoder."""

import dataclasses
import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from elbo_bench.draws import LatentVariableModel

TOLERANCE = 1e-6
"""Largest change of log p(x) by the last halving, in nats."""
_POINTS = {1: 1025, 2: 129}  # per dimension of the first grid
_WIDTH = 8.0  # standard deviations of the prior on each side, to begin with
_NEGLIGIBLE = 36.0  # nats below its largest point at which an example's integrand on the shared grid is not refined
_NOTHING = 18.0  # the same on finer grids, where no peak can lie between two points
_NOT_INTEGRATED = 1e6
_CHUNK = 2048
_MOST_HALVINGS = 12
_MOST_WIDENINGS = 4
_MOST_POINTS = 20_000
"""Most points of an example that are refined. A smooth integrand needs fewer."""


@dataclasses.dataclass(frozen=True)
class _GridValues:
    """One example's log integrand on the shared grid, with the grid's step and half its width in prior deviations."""

    log_f: Float[Tensor, " G"]
    step: float
    width: float


class Quadrature:
    r"""Integrates p(z) p(x|z) by the trapezoidal rule on a square grid.

    .. math:: \log p(x) \approx \log h^D \sum_i p(z_i) p(x|z_i)

    On smooth integrands that vanish at the edges the rule converges faster than any power of the step h (Trefethen &
    Weideman, 2014, "The exponentially convergent trapezoidal rule"). The step is halved until
    log p(x) does not change. The first grid and its first halving are shared by
    all examples: p(x|z) of one decoded latent is computed for all of them by one matrix product. Further halvings are
    made for single examples, only where their integrand is not negligible.

    Args:
        model: A model whose latent is a vector of one or two dimensions.
    """

    def __init__(self, model: LatentVariableModel) -> None:
        self._model, self._prior = model, model.prior()
        self._dims = int(self._prior.event_shape[0])
        self._centre, self._spread = _moments(self._prior, self._dims)

    def log_p_x(self, x: Shaped[Tensor, "B *data"]) -> dict[str, Tensor]:
        """Return `log_px` in nats and its `error`, the change by the last halving.

        Also `count`, latents decoded for each example, and `grid`, latents decoded once for all examples.
        """
        decoded = 0
        for widening in range(_MOST_WIDENINGS):
            width = _WIDTH * 1.5**widening
            log_f, edge = self._shared(x, width)
            decoded += len(log_f)
            if not bool(edge.any()):
                break
        step = 2 * width / (_POINTS[self._dims] - 1)
        volume = float(self._spread.log().sum())
        coarse = torch.logsumexp(_coarse(log_f, self._dims), 0) + self._dims * math.log(step) + volume
        step /= 2
        fine = torch.logsumexp(log_f, 0) + self._dims * math.log(step) + volume
        error = (fine - coarse).abs()
        count, grid = torch.zeros_like(fine), torch.full_like(fine, decoded)
        for row in torch.nonzero(error > TOLERANCE)[:, 0].tolist():
            grid_values = _GridValues(log_f[:, row], step, width)
            fine[row], error[row], count[row] = self._refine(x[row], grid_values, float(fine[row]), float(error[row]))
        # An integrand that is not negligible at the edge is not integrated. Its error is set to say so.
        error = torch.where(edge, _NOT_INTEGRATED, error)
        return {"log_px": fine, "error": error, "count": count, "grid": grid}

    def _shared(self, x: Tensor, width: float) -> tuple[Float[Tensor, "G B"], Tensor]:
        """Return the log integrand on the halved grid, and which examples reach its edge."""
        points = self._axis_points(x, width)
        pieces = []
        for start in range(0, len(points), _CHUNK):
            z = points[start : start + _CHUNK]
            pieces.append(self._prior.log_prob(z)[:, None] + cross_log_prob(self._model, z, x))
        log_f = torch.cat(pieces)
        side = 2 * _POINTS[self._dims] - 1
        index = torch.arange(len(points), device=x.device)
        outer = torch.zeros(len(points), dtype=torch.bool, device=x.device)
        for dim in range(self._dims):
            coordinate = index // side**dim % side
            outer |= (coordinate == 0) | (coordinate == side - 1)
        return log_f, log_f[outer].amax(0) > log_f.amax(0) - _NEGLIGIBLE / 1.5

    def _axis_points(self, x: Tensor, width: float) -> Float[Tensor, "G D"]:
        axis = torch.linspace(-width, width, 2 * _POINTS[self._dims] - 1, dtype=x.dtype, device=x.device)
        grid = torch.cartesian_prod(*[axis] * self._dims).reshape(-1, self._dims)
        return self._centre.to(x) + self._spread.to(x) * grid

    def _refine(self, x: Tensor, grid: _GridValues, log_px: float, error: float) -> tuple[float, float, int]:
        """Halve the step for one example, where its integrand is not negligible, until its log p(x) does not change.

        Returns:
            log p(x), its last change, and the number of latents decoded.
        """
        side = 2 * _POINTS[self._dims] - 1
        kept = torch.nonzero(grid.log_f > grid.log_f.max() - _NEGLIGIBLE)[:, 0]
        # Integer coordinates of the points kept, on a lattice of the present step around the grid's corner.
        points = torch.stack([kept // side ** (self._dims - 1 - dim) % side for dim in range(self._dims)], 1)
        value, step, decoded = grid.log_f[kept], grid.step, 0
        corner = self._centre.to(x) - grid.width * self._spread.to(x)
        offsets = torch.cartesian_prod(*[torch.tensor([-1, 0, 1], device=x.device)] * self._dims)
        offsets = offsets.reshape(-1, self._dims)
        volume = float(self._spread.log().sum())
        for _ in range(_MOST_HALVINGS):
            if len(points) > _MOST_POINTS:
                break  # the integrand has a jump, and the remaining error says that there is no exact value
            step /= 2
            points = points * 2
            around = (points[:, None] + offsets).reshape(-1, self._dims).unique(dim=0)
            new = around[(around % 2 != 0).any(1)]
            z = corner + step * self._spread.to(x) * new
            scores = [
                self._prior.log_prob(part) + self._model.likelihood(part).log_prob(x.expand(len(part), *x.shape))
                for part in z.split(_CHUNK)
            ]
            points, value = torch.cat([points, new]), torch.cat([value, *scores])
            total = float(torch.logsumexp(value, 0) + self._dims * math.log(step) + volume)
            log_px, error = total, abs(total - log_px)
            decoded += len(new)
            if error <= TOLERANCE:
                break
            near = value > value.max() - _NOTHING
            points, value = points[near], value[near]
        return log_px, error, decoded


def cross_log_prob(
    model: LatentVariableModel, z: Shaped[Tensor, "S *event"], x: Shaped[Tensor, "B *data"]
) -> Float[Tensor, "S B"]:
    """Return log p(x|z) in nats of every latent with every example: in one product if the likelihood can."""
    likelihood = model.likelihood(z)
    if hasattr(likelihood, "cross_log_prob"):
        crossed: Tensor = likelihood.cross_log_prob(x)
        return crossed
    return torch.stack([likelihood.log_prob(row) for row in x], 1)


def _coarse(log_f: Float[Tensor, "G B"], dims: int) -> Float[Tensor, "C B"]:
    """Return every second point along each axis."""
    side = 2 * _POINTS[dims] - 1
    grid: Tensor = log_f.unflatten(0, (side,) * dims)
    return grid[(slice(None, None, 2),) * dims].flatten(0, dims - 1)


def _moments(prior: torch.distributions.Distribution, dims: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the prior, which set the grid."""
    try:
        return prior.mean.detach(), prior.stddev.detach()
    except (NotImplementedError, AttributeError):
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            drawn = prior.sample(torch.Size([10_000])).reshape(-1, dims)
        return drawn.mean(0), drawn.std(0)
