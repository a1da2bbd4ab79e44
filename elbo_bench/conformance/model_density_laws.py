"""Laws of a model's densities: each is normalised, its samples are its own, and no bound lies above log p(x)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from elbo_bench.conformance.grid import Grid
from elbo_bench.conformance.law import Law, LawBroken, require_close
from elbo_bench.conformance.mean_test import features, require_mean, require_mean_at_most
from elbo_bench.conformance.model_subject import NOISE, ModelSubject, sampled
from elbo_bench.draws import LatentVariableModel, draw, enumerate_latents
from elbo_bench.latent_states import MOST_STATES, num_states, states

S = ModelSubject
_FINE, _MODEL = 301, 81
_TOLERANCE = 1e-4


def _countable(prior: Distribution) -> bool:
    count = num_states(prior)
    return count is not None and count <= MOST_STATES


def _integrable(subject: S) -> str | None:
    if _countable(subject.model().prior()) or subject.shrunk is not None:
        return None
    return "its latent has more than two dimensions, and it has no key latent_dim: give it a smaller one"


def _small(subject: S) -> LatentVariableModel:
    return subject.model(small=not _countable(subject.model().prior()))


def _each_latent_density(
    subject: S, model: LatentVariableModel
) -> dict[str, tuple[Distribution, Callable[[Tensor], Tensor]]]:
    """Return q(z|x) for one example and p(z), each with its log-density at `[G, *latent]`."""
    posterior, prior = model.posterior(subject.x[:1]), model.prior()
    return {
        "q(z|x)": (posterior, lambda z: posterior.log_prob(z[:, None])[:, 0]),
        "p(z)": (prior, prior.log_prob),
    }


def _flat_samples(distribution: Distribution, count: int, purpose: str) -> Tensor:
    drawn = sampled(distribution, count, purpose)
    return drawn[:, 0] if distribution.batch_shape else drawn


def _normalised(subject: S) -> str:
    model, worst = _small(subject), 0.0
    for name, (distribution, log_density) in _each_latent_density(subject, model).items():
        if _countable(model.prior()):
            with torch.no_grad():
                total, doubt = float(log_density(states(model.prior())).exp().sum()), 0.0
        else:
            grid = Grid(_flat_samples(distribution, 4000, "grid"), _FINE)
            values = grid.log_values(log_density)
            total = float(values.exp().sum())
            doubt = abs(total - float(grid.coarse(values).exp().sum()))
        if not abs(total - 1) <= _TOLERANCE + doubt or doubt > 0.01:
            raise LawBroken(f"{name} integrates to {total:.6g} +- {doubt:.0e}")
        worst = max(worst, abs(total - 1))
    return f"within {max(worst, 1e-16):.0e}"


def _sampler(subject: S) -> str:
    model, smallest = _small(subject), 0.0
    for name, (distribution, log_density) in _each_latent_density(subject, model).items():
        drawn = _flat_samples(distribution, subject.draws, "samples")
        if _countable(model.prior()):
            points = states(model.prior())
            with torch.no_grad():
                weights = log_density(points).exp()
        else:
            grid = Grid(_flat_samples(distribution, 4000, "grid"), _FINE)
            points, weights = grid.points, grid.log_values(log_density).exp()
        points, drawn = points.double().flatten(1), drawn.double().flatten(1)
        centre, scale = drawn.mean(0), drawn.std(0) + 1e-12
        expected = weights @ features((points - centre) / scale) / weights.sum()
        rounding = 1e-9 if _countable(model.prior()) else 1e-3
        smallest = max(
            smallest, require_mean(features((drawn - centre) / scale), expected, f"samples of {name}", rounding)
        )
    return f"sees {smallest:.2g} standard deviations, in {subject.draws} samples"


def _has_transport(subject: S) -> str | None:
    model = subject.model()
    if not hasattr(model.posterior(subject.x), "transport"):
        return "q(z|x) has no transport"
    return "its latent has more than 100 dimensions" if model.prior().event_shape.numel() > 100 else None


def _change_of_variables(subject: S) -> str:
    model = subject.model()
    event = model.prior().event_shape
    worst = 0.0
    for row in range(2):
        posterior = model.posterior(subject.x[row : row + 1])
        noise = NOISE.apart(f"row {row}").normal((event.numel(),), dtype=torch.float64)

        def transported(flat: Tensor, q: Distribution = posterior) -> Tensor:
            z: Tensor = q.transport(flat.reshape(1, 1, *event))  # type: ignore[attr-defined]
            return z.flatten()

        jacobian = torch.autograd.functional.jacobian(transported, noise)
        log_noise = -0.5 * (noise.square() + math.log(2 * math.pi)).sum()
        expected = log_noise - torch.linalg.slogdet(jacobian).logabsdet
        found = posterior.log_prob(transported(noise).reshape(1, 1, *event))[0, 0]
        worst = max(worst, require_close(found, expected, "log q at its own sample", atol=1e-6, rtol=1e-8))
    return f"within {max(worst, 1e-16):.0e} nats"


def _below(subject: S) -> str:
    model, x = _small(subject), subject.x[:2]
    samples = 16
    with torch.no_grad():
        if _countable(model.prior()):
            draws = enumerate_latents(model, model.posterior(x), x)
            log_p_x = torch.logsumexp(draws.log_p_x_given_z + draws.log_p_z, 0)
            doubt = 0.0
        else:
            prior = model.prior()
            grid = Grid(sampled(prior, 4000, "grid"), _MODEL)
            # As many latents as the grid has, each beside both examples.
            values = grid.log_values(lambda z: prior.log_prob(z)[:, None] + model.likelihood(z[:, None]).log_prob(x))
            log_p_x = torch.logsumexp(values, 0)
            doubt = float((log_p_x - torch.logsumexp(grid.coarse(values), 0)).abs().max())
        groups = subject.draws // samples
        log_w = draw(model, x, groups * samples, NOISE, reparameterised=False).log_w.unflatten(0, (groups, samples))
    seen = []
    for name, values in {
        "L_1": log_w.flatten(0, 1) - log_p_x,
        f"L_{samples}": torch.logsumexp(log_w, 1) - math.log(samples) - log_p_x,
    }.items():
        smallest = require_mean_at_most(values, 0.0, f"{name} lies above log p(x)", 1e-6 + doubt)
        seen.append(f"{name} {float(values.mean()):+.2g}, sees {smallest:.2g}")
    return f"beside log p(x), in nats: {'; '.join(seen)}"


DENSITY_LAWS: tuple[Law[ModelSubject], ...] = (
    Law(name="q(z|x) and p(z) integrate to one", source="densities", check=_normalised, applies=_integrable),
    Law(name="samples of q(z|x) and p(z) are their own", source="densities", check=_sampler, applies=_integrable),
    Law(
        name="q(z|x) is the density of what it transports",
        source="change of variables",
        check=_change_of_variables,
        applies=_has_transport,
    ),
    Law(
        name="no bound lies above log p(x)",
        source="Jensen; Burda et al., 2016",
        check=_below,
        applies=_integrable,
    ),
)
