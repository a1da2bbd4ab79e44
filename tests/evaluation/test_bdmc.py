"""Bidirectional Monte Carlo on the linear Gaussian model: the sandwich holds, closes, and is the same on any thread."""

import itertools
import math

import numpy as np
import pytest
import torch
from support.linear_gaussian_case import MU, SIGMA, L, W, assert_mean, assert_mean_at_most, linear_gaussian
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from elbo_bench.data_info import DataInfo
from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation.annealing import chains as annealing_module
from elbo_bench.evaluation.bdmc import BDMC, simulate
from elbo_bench.evaluation.evaluator import Evaluation, Request
from elbo_bench.evaluation.observations import CHECKED
from elbo_bench.models.linear_gaussian import LinearGaussian
from elbo_bench.models.mlp import MLP
from elbo_bench.noise import Noise

D = 5


@pytest.fixture
def short_pilot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the steps do not matter, a pilot costs more than the run."""
    monkeypatch.setattr(annealing_module, "PILOT_TRANSITIONS", 5)
    monkeypatch.setattr(annealing_module, "PILOT_WARM_UP", 2)


def like(count: int) -> Tensor:
    return torch.zeros(count, D, dtype=torch.float64)


def run(count: int = 40, *, model: LinearGaussian | None = None, x: Tensor | None = None, **keys: object) -> Evaluation:
    keys = {"num_chains": 3, "num_temperatures": 8, "num_leapfrog": 2, "block_size": 16, **keys}
    return BDMC(**keys).evaluate(model or linear_gaussian(), like(count) if x is None else x, Request(seed=1))  # type: ignore[arg-type]


def exact(model: LinearGaussian, count: int, block_size: int) -> np.ndarray:
    """Return log p(x) of the examples that a run simulates."""
    blocks = range(math.ceil(count / block_size))
    x = torch.cat([simulate(model, like(block_size), Noise(1, "bdmc-simulate", block))[1] for block in blocks])
    return model.log_p_x(x[:count]).detach().numpy()


def test_pairs_come_from_the_joint_distribution() -> None:
    # False-fail 1e-8 a moment; errors of 0.09 are seen.
    z, x = simulate(linear_gaussian(), like(60_000), Noise(0, "simulate"))
    centred = x.detach() - torch.from_numpy(MU)
    weight = torch.from_numpy(W)
    assert_mean(centred, torch.zeros(D), detects=0.09)
    assert_mean(z[:, :, None] * z[:, None, :], torch.eye(L), detects=0.09)
    assert_mean(centred[:, :, None] * z[:, None, :], weight, detects=0.09)
    assert_mean((centred - z @ weight.mT).square(), torch.full((D,), SIGMA**2), detects=0.09)
    assert x.dtype is torch.float64


@pytest.mark.parametrize(("start", "schedule"), [("prior", "sigmoid"), ("encoder", "linear")])
def test_log_p_x_lies_between_the_bounds_and_they_close(start: str, schedule: str) -> None:
    # Means over 400 examples, false-fail 1e-8 an inequality.
    model, count = linear_gaussian(), 400
    model.set_parameters(0.4 * model.weight, model.mean, SIGMA)
    model.set_best_posterior()
    truth = exact(model, count, count)
    widths, middles = [], []
    for num_temperatures in (2, 8, 32):
        keys = {
            "num_temperatures": num_temperatures,
            "start": start,
            "schedule": schedule,
            "block_size": count,
            "num_examples": count,
        }
        examples = run(count, model=model, **keys).examples
        assert_mean_at_most(examples["log_px_lower"] - truth, 0.0)
        assert_mean_at_most(truth - examples["log_px_upper"], 0.0)
        assert examples["width"] == pytest.approx(examples["log_px_upper"] - examples["log_px_lower"], abs=1e-12)
        widths.append(examples["width"].mean())
        middles.append(np.abs(examples["log_px_upper"] - truth).mean())
    assert all(after < before / 2 for before, after in itertools.pairwise(widths)), widths
    assert widths[-1] < 0.15
    assert middles[-1] < 0.3


@pytest.mark.usefixtures("short_pilot")
def test_where_q_is_the_posterior_the_bounds_meet() -> None:
    model = linear_gaussian("full", posterior="best")
    truth = exact(model, 20, 16)
    examples = run(20, model=model).examples
    for name in ("log_px_lower", "log_px_upper", "elbo_mc", "eubo"):
        assert examples[name] == pytest.approx(truth, abs=1e-9), name
    assert np.abs(examples["width"]).max() < 1e-9


def test_elbo_and_eubo_are_off_by_the_two_divergences() -> None:
    # False-fail 1e-8; for z* ~ p(z|x), E log w = log p(x) + KL(p ‖ q), and for z ~ q it is log p(x) - KL(q ‖ p).
    model, count = linear_gaussian("full"), 12_000
    result = run(count, model=model, num_temperatures=1, block_size=count, num_examples=count)
    truth, (_, x) = exact(model, count, count), simulate(model, like(count), Noise(1, "bdmc-simulate"))
    q, p = model.posterior(x), model.exact_posterior(x)
    above, below = kl_divergence(p, q).detach().numpy(), kl_divergence(q, p).detach().numpy()
    assert min(above.mean(), below.mean()) > 0.02
    assert_mean(result.examples["eubo"] - truth - above, 0.0, detects=0.12)
    assert_mean(result.examples["elbo_mc"] - truth + below, 0.0, detects=0.12)
    eubo = result.metrics["eubo"]
    assert eubo["value"] == pytest.approx(result.examples["eubo"].mean(), rel=1e-12)
    assert eubo["se_test"] == pytest.approx(result.examples["eubo"].std(ddof=1) / math.sqrt(count), rel=1e-9)
    assert eubo["se_mc"] is None


def test_one_temperature_gives_importance_sampling_and_the_eubo() -> None:
    examples = run(20, num_temperatures=1, start="encoder").examples
    assert examples["log_px_upper"] == pytest.approx(examples["eubo"], abs=1e-12)
    assert (examples["log_px_lower"] < examples["log_px_upper"]).mean() > 0.5


@pytest.mark.usefixtures("short_pilot")
def test_threads_padding_and_the_values_of_the_split_change_no_byte() -> None:
    keys = {"block_size": 8, "num_temperatures": 4, "num_leapfrog": 1}
    values = torch.randn(21, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one = run(21, workers=1, **keys).examples
    others = [run(23, workers=2, **keys).examples, run(x=values, workers=1, **keys).examples]
    for name, column in one.items():
        for other in others:
            assert column.tobytes() == other[name][:21].tobytes(), name
    assert one["id"].tolist() == list(range(21))
    assert len(set(one["eubo"].tolist())) == 21


def test_a_hundred_examples_are_simulated_unless_more_are_asked_for() -> None:
    assert len(run(130, num_temperatures=1).examples["id"]) == 100
    assert len(run(130, num_temperatures=1, num_examples=130).examples["id"]) == 130
    assert len(run(30, num_temperatures=1).examples["id"]) == 30
    ids = torch.arange(30) + 7
    result = BDMC(num_temperatures=1).evaluate(linear_gaussian(), like(30), Request(ids=ids))
    assert result.examples["id"].tolist() == list(range(30)), "what is simulated has no number in the data set"


@pytest.mark.usefixtures("short_pilot")
def test_what_is_reported_says_what_it_stands_on() -> None:
    result = run(40)
    assert (result.tier, result.estimator) == ("sandwiched", "bdmc")
    width = result.examples["width"]
    assert result.metrics["width"]["value"] == pytest.approx(width.mean(), abs=1e-12)
    assert result.diagnostics["width_mean"] == result.metrics["width"]["value"]
    assert result.diagnostics["width_max"] == width.max()
    # Every reverse chain starts from the one exact sample: the chains do not show its error.
    assert result.metrics["width"]["se_mc"] is None
    assert "log_px" not in result.examples


@pytest.mark.usefixtures("short_pilot")
def test_every_latent_that_is_decoded_is_counted() -> None:
    class Counting(LinearGaussian):
        plain = with_gradient = 0

        def likelihood(self, z: Tensor) -> Distribution:  # type: ignore[override]
            if z.requires_grad:
                self.with_gradient += z[..., 0].numel()
            else:
                self.plain += z[..., 0].numel()
            return super().likelihood(z)

    model = linear_gaussian()
    model.__class__ = Counting
    result = run(32, model=model, workers=1)
    simulated = 32  # decoded to draw x, which scores nothing
    assert result.decoder_evaluations == 2 * model.with_gradient + model.plain - simulated - CHECKED  # type: ignore[attr-defined, operator]


def test_a_model_that_cannot_be_sampled_from_fails_in_one_line() -> None:
    model = MLP(DataInfo((6,), torch.full((6,), 0.5), 1, "discrete", 2), latent_dim=2, hidden=(4,))
    with torch.no_grad():
        model.decoder.outputs.weight[0] = math.nan
    with pytest.raises(RunFailedError, match=r"^the model cannot be sampled from: [^\n]+$"):
        BDMC(num_temperatures=3, num_examples=5).evaluate(model, torch.zeros(5, 6), Request())


@pytest.mark.usefixtures("short_pilot")
def test_what_is_no_number_fails_the_run_and_names_the_example() -> None:
    class Broken(LinearGaussian):
        def prior(self) -> Distribution:  # type: ignore[override]
            prior = super().prior()
            log_prob = prior.log_prob
            prior.log_prob = lambda z: torch.where((z[..., 0] > 2.0), math.nan, log_prob(z))  # type: ignore[method-assign]
            return prior

    model = linear_gaussian()
    model.__class__ = Broken
    z = torch.cat([simulate(model, like(16), Noise(1, "bdmc-simulate", block))[0] for block in range(3)])
    assert (z[:, 0] > 2).any()
    with pytest.raises(RunFailedError, match=r"^example \d+: a log-weight is NaN$"):
        run(48, model=model)
