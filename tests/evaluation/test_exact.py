"""Exact log p(x): a closed form, a sum over states, and quadrature, each against the others."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, OneHotCategorical

from elbo_bench.data_info import DataInfo
from elbo_bench.distributions import BernoulliArray, DiagonalNormal, standard_normal
from elbo_bench.evaluation import Importance, evaluate
from elbo_bench.evaluation.evaluator import Request
from elbo_bench.evaluation.exact.log_p_x import Exact, exact_log_p_x, exact_method, states
from elbo_bench.models.linear_gaussian import LinearGaussian
from elbo_bench.models.mlp import MLP


def exact(model: object, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    found = exact_log_p_x(Importance(workers=1), model, x, Request())
    assert found is not None
    return found.log_px.value, found.log_px.se_mc


class Hidden(nn.Module):
    """A linear Gaussian model that does not say that it knows its log p(x)."""

    def __init__(self, latent_dim: int, noise_std: float = 0.3, num_dims: int = 5) -> None:
        super().__init__()
        info = DataInfo((num_dims,), torch.zeros(num_dims), 1, "continuous")
        with torch.random.fork_rng():
            torch.manual_seed(latent_dim)
            self.known = LinearGaussian(info, latent_dim=latent_dim, noise_std=noise_std)

    def posterior(self, x: Tensor) -> Distribution:
        return self.known.posterior(x)

    def prior(self) -> Distribution:
        return self.known.prior()

    def likelihood(self, z: Tensor) -> Distribution:
        return self.known.likelihood(z)


@pytest.mark.parametrize("latent_dim", [1, 2])
@pytest.mark.parametrize("noise_std", [1.0, 0.05])
def test_quadrature_meets_the_closed_form(latent_dim: int, noise_std: float) -> None:
    model = Hidden(latent_dim, noise_std)
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    assert exact_method(model) == "quadrature"
    log_px, error = exact(model, x)
    closed = model.known.double().log_p_x(x).detach().numpy()
    assert error.max() <= 1e-6
    assert np.abs(log_px - closed).max() < 1e-6


def test_quadrature_follows_a_posterior_that_lies_far_out() -> None:
    model = Hidden(2, 0.5)
    x = torch.zeros(2, 5) + model.known.weight.detach() @ torch.tensor([9.0, -9.0])
    log_px, error = exact(model, x)
    assert error.max() <= 1e-6
    assert np.abs(log_px - model.known.double().log_p_x(x).detach().numpy()).max() < 1e-6


def test_an_integrand_that_is_still_there_at_the_edge_has_no_exact_value() -> None:
    model = Hidden(1, 0.05)
    x = torch.zeros(3, 5)
    x[1] = 200 * model.known.weight.detach()[:, 0]  # its posterior lies 200 standard deviations out
    assert exact_log_p_x(Importance(workers=1), model, x, Request()) is None
    assert evaluate(model, x, num_samples=100).tier == "lower-bound-only"


def test_an_integral_that_lies_below_a_lower_bound_is_not_called_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    def halved(*arguments: object, **keys: object) -> Exact:
        found = exact_log_p_x(*arguments, **keys)  # type: ignore[arg-type]
        assert found is not None
        value = found.log_px.value - np.log(2) * (np.arange(6) == 4)
        return dataclasses.replace(found, log_px=dataclasses.replace(found.log_px, value=value))

    monkeypatch.setattr("elbo_bench.evaluation.importance.exact_log_p_x", halved)
    model, x = Hidden(2), torch.randn(6, 5, generator=torch.Generator().manual_seed(4))
    result = evaluate(model, x, num_samples=2000, ids=torch.arange(10, 16))
    assert result.diagnostics["exact_contradicted"] == [14]
    assert result.tier != "exact"
    assert "log_px_is" not in result.examples


def test_latents_decoded_for_the_grid_are_counted_once_for_all() -> None:
    model, x = Hidden(1), torch.randn(129, 5, generator=torch.Generator().manual_seed(4))
    found = [exact_log_p_x(Importance(workers=1), model, x[:n], Request()) for n in (1, 128, 129)]
    one, block, two = (each.decoder_evaluations for each in found if each is not None)
    assert one >= 2049
    assert 2049 <= block < 2 * 2049 + 128 * 2049
    assert two - block >= 2049


class Discrete(nn.Module):
    """Discrete latents of some kind, binary data."""

    def __init__(self, prior: Distribution, latent_dim: int) -> None:
        super().__init__()
        self.decoder = nn.Linear(latent_dim, 6)
        self.latent_dim, self._prior = latent_dim, prior

    def posterior(self, x: Tensor) -> Distribution:
        return self._prior.expand(torch.Size([len(x)]))

    def prior(self) -> Distribution:
        return self._prior

    def likelihood(self, z: Tensor) -> BernoulliArray:
        flat = z.reshape(*z.shape[: z.dim() - len(self._prior.event_shape)], self.latent_dim)
        return BernoulliArray(self.decoder(flat.to(self.decoder.weight)), event_dims=1)


PRIORS = {
    "bits": (lambda: Independent(Bernoulli(torch.tensor([0.3, 0.6, 0.9])), 1), 3, 8),
    "one of four": (lambda: OneHotCategorical(torch.tensor([0.1, 0.2, 0.3, 0.4])), 4, 4),
    "two of three": (lambda: Independent(OneHotCategorical(torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])), 1), 6, 9),
    "index": (lambda: Categorical(torch.tensor([0.5, 0.25, 0.25])), 1, 3),
}


@pytest.mark.parametrize("name", PRIORS)
def test_enumeration_sums_over_every_state_once(name: str) -> None:
    make, latent_dim, count = PRIORS[name]
    prior = make()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Discrete(prior, latent_dim)
        x = torch.bernoulli(torch.full((5, 6), 0.5))
    every = states(prior)
    assert len(every) == count
    assert len({tuple(state.flatten().tolist()) for state in every}) == count
    assert float(prior.log_prob(every).double().exp().sum()) == pytest.approx(1, abs=1e-6)
    assert exact_method(model) == "enumeration"
    model = model.double()
    with torch.no_grad():

        def joint(z: Tensor, row: Tensor) -> float:
            return float(prior.log_prob(z) + model.likelihood(z).log_prob(row.double()))

        slow = [math.log(sum(math.exp(joint(z, row)) for z in every)) for row in x]
    log_px, error = exact(model, x)
    assert np.abs(log_px - slow).max() < 1e-6
    assert not error.any()


def test_too_many_states_and_wide_latents_have_no_exact_value() -> None:
    many = Independent(Bernoulli(torch.full((40,), 0.5)), 1)
    assert exact_method(Discrete(many, 40)) is None
    assert exact_method(Hidden(3)) is None
    assert exact_log_p_x(Importance(workers=1), Hidden(3), torch.zeros(2, 5), Request()) is None


def test_an_exact_value_takes_the_place_of_the_estimate_and_the_gaps_follow() -> None:
    info = DataInfo((6,), torch.full((6,), 0.5), 1, "discrete", 2)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = MLP(info, latent_dim=2, hidden=(8,))
        x = torch.bernoulli(torch.full((9, 6), 0.5))
    result = evaluate(model, x, num_samples=400)
    rows = result.examples
    assert (result.tier, result.estimator) == ("exact", "quadrature")
    assert rows["log_px_se_mc"].max() <= 1e-6
    assert np.mean(np.abs(rows["log_px"] - rows["log_px_is"]) <= 4 * rows["log_px_is_se_mc"] + 1e-4) >= 0.99
    assert rows["elbo_gap"] == pytest.approx(rows["log_px"] - rows["elbo_mc"], abs=1e-12)
    assert rows["elbo_gap_se_mc"] == pytest.approx(np.hypot(rows["elbo_mc_se_mc"], rows["log_px_se_mc"]), abs=1e-12)
    assert result.diagnostics["exact"]["method"] == "quadrature"
    estimated = evaluate(model, x, num_samples=400, truth="importance")
    assert "log_px_is" not in estimated.examples
    assert np.array_equal(estimated.examples["log_px"], rows["log_px_is"])


def test_quadrature_is_the_same_bytes_whoever_computes_it() -> None:
    model, x = Hidden(2), torch.randn(130, 5, generator=torch.Generator().manual_seed(1))
    one = exact_log_p_x(Importance(workers=1), model, x, Request())
    two = exact_log_p_x(Importance(workers=2), model, x, Request())
    assert one is not None
    assert two is not None
    assert one.log_px.value.tobytes() == two.log_px.value.tobytes()
    assert one.log_px.se_mc.tobytes() == two.log_px.se_mc.tobytes()
    assert next(model.parameters()).dtype is torch.float32  # the model itself is left as it was


def test_standard_normal_prior_is_what_the_grid_is_placed_by() -> None:
    class Shifted(Hidden):
        def prior(self) -> Distribution:
            like = self.known.weight
            return DiagonalNormal(like.new_tensor([30.0, -5.0]), like.new_tensor([0.1, 4.0]))

        def likelihood(self, z: Tensor) -> Distribution:  # says nothing about z: log p(x) is that of one normal
            return self.known.likelihood(z * 0)

    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    model = Shifted(2)
    log_px, _ = exact(model, x)
    zero = torch.zeros(2, dtype=torch.float64)
    expected = model.known.double().likelihood(zero).log_prob(x.double()).detach().numpy()
    assert log_px == pytest.approx(expected, abs=1e-6)
    assert standard_normal(2, like=zero).mean.sum() == 0
