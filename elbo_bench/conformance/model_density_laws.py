"""Laws of a model's densities: each is normalised, its samples follow it, and no bound exceeds log p(x)."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.distributions import Distribution

from elbo_bench.conformance.grid import Grid
from elbo_bench.conformance.law import LawBroken, law, require_close, skip_if
from elbo_bench.conformance.mean_test import require_mean_at_most, require_samples
from elbo_bench.conformance.model_subject import NOISE, sampled
from elbo_bench.conformance.model_subject import ModelSubject as S
from elbo_bench.draws import LatentVariableModel, draw
from elbo_bench.latent_states import MOST_STATES, num_states, states

_FINE, _COARSE = 301, 81
_TOLERANCE = 1e-4


def _countable(prior: Distribution) -> bool:
    count = num_states(prior)
    return count is not None and count <= MOST_STATES


def _small(subject: S) -> LatentVariableModel:
    """Return the model with a latent that is small enough to sum or integrate over."""
    countable = _countable(subject.model().prior())
    skip_if(
        not countable and subject.shrunk is None,
        "its latent has more than two dimensions, and it has no key latent_dim to make it smaller",
    )
    model: LatentVariableModel = subject.model(small=not countable)
    return model


def _latent_densities(
    subject: S, model: LatentVariableModel
) -> Iterator[tuple[str, Distribution, Callable[..., Tensor]]]:
    """Yield q(z|x) of one example and p(z), each with its log-density at `[G, *latent]`."""
    posterior, prior = model.posterior(subject.x[:1]), model.prior()
    yield "q(z|x)", posterior, lambda z: posterior.log_prob(z[:, None])[:, 0]
    yield "p(z)", prior, prior.log_prob


def _flat_samples(distribution: Distribution, count: int, purpose: str) -> Tensor:
    drawn = sampled(distribution, count, purpose)
    return drawn[:, 0] if distribution.batch_shape else drawn


def _integrand(
    distribution: Distribution, log_density: Callable[[Tensor], Tensor], prior: Distribution, size: int
) -> tuple[Tensor, Tensor, float]:
    """Return points of the latent space, the log of what each adds to an integral, and the error of its logarithm."""
    if _countable(prior):
        with torch.no_grad():
            return states(prior), log_density(states(prior)), 0.0
    grid = Grid(_flat_samples(distribution, 4000, "grid"), size)
    values = grid.log_values(log_density)
    return grid.points, values, float((values.logsumexp(0) - grid.coarse(values).logsumexp(0)).abs().max())


@law("q(z|x) and p(z) integrate to one", "densities")
def _normalised(subject: S) -> str:
    model, worst = _small(subject), 0.0
    for name, distribution, log_density in _latent_densities(subject, model):
        _, log_terms, error = _integrand(distribution, log_density, model.prior(), _FINE)
        total = float(log_terms.exp().sum())
        if not abs(total - 1) <= _TOLERANCE + error or error > 0.01:
            raise LawBroken(f"{name} integrates to {total:.6g} +- {error:.0e}")
        worst = max(worst, abs(total - 1))
    return f"within {max(worst, 1e-16):.0e}"


@law("samples of q(z|x) and p(z) follow their densities", "densities")
def _sampler(subject: S) -> str:
    model, smallest = _small(subject), 0.0
    rounding = 1e-9 if _countable(model.prior()) else 1e-3
    for name, distribution, log_density in _latent_densities(subject, model):
        drawn = _flat_samples(distribution, subject.draws, "samples")
        points, log_terms, _ = _integrand(distribution, log_density, model.prior(), _FINE)
        smallest = max(
            smallest, require_samples(drawn, points, log_terms.exp(), f"samples of {name}", rounding=rounding)
        )
    return f"detects {smallest:.2g} standard deviations, in {subject.draws} samples"


@law("the density of q(z|x) is that of its transported noise", "change of variables")
def _change_of_variables(subject: S) -> str:
    model = subject.model()
    event, worst = model.prior().event_shape, 0.0
    skip_if(not hasattr(model.posterior(subject.x), "transport"), "q(z|x) has no transport")
    skip_if(event.numel() > 100, "its latent has more than 100 dimensions")
    for row in range(2):
        posterior = model.posterior(subject.x[row : row + 1])
        noise = NOISE.child(f"row {row}").normal((event.numel(),), dtype=torch.float64)

        def transported(flat: Tensor, q: Distribution = posterior) -> Tensor:
            z: Tensor = q.transport(flat.reshape(1, 1, *event))  # type: ignore[attr-defined]
            return z.flatten()

        jacobian = torch.autograd.functional.jacobian(transported, noise)
        log_noise = -0.5 * (noise.square() + math.log(2 * math.pi)).sum()
        expected = log_noise - torch.linalg.slogdet(jacobian).logabsdet
        found = posterior.log_prob(transported(noise).reshape(1, 1, *event))[0, 0]
        worst = max(worst, require_close(found, expected, "log q at its own sample", atol=1e-6, rtol=1e-8))
    return f"within {max(worst, 1e-16):.0e} nats"


@law("no bound lies above log p(x)", "Jensen; Burda et al., 2016")
def _bounds(subject: S) -> str:
    model, x, samples = _small(subject), subject.x[:2], 16
    prior, groups = model.prior(), subject.draws // samples

    def log_joint(z: Tensor) -> Tensor:
        return prior.log_prob(z)[:, None] + model.likelihood(z[:, None]).log_prob(x)

    _, log_terms, error = _integrand(prior, log_joint, prior, _COARSE)
    log_p_x = log_terms.logsumexp(0)
    with torch.no_grad():
        log_w = draw(model, x, groups * samples, NOISE, reparameterised=False).log_w.unflatten(0, (groups, samples))
    seen = []
    for name, values in {
        "L_1": log_w.flatten(0, 1) - log_p_x,
        f"L_{samples}": torch.logsumexp(log_w, 1) - math.log(samples) - log_p_x,
    }.items():
        smallest = require_mean_at_most(values, 0.0, f"{name} is above log p(x)", 1e-6 + error)
        seen.append(f"{name} - log p(x) = {float(values.mean()):+.2g}, detects {smallest:.2g}")
    return f"in nats: {'; '.join(seen)}"
