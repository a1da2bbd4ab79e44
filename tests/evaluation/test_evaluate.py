"""The evaluator against the linear Gaussian model, whose log p(x) and posterior are known exactly."""

import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from elbo_bench.data.sets.linear_gaussian_data import LinearGaussianData
from elbo_bench.distributions import DiagonalNormal
from elbo_bench.draws import Draws, draw
from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation import Evaluation
from elbo_bench.evaluation import evaluate as evaluate_any
from elbo_bench.evaluation.estimate import Estimate
from elbo_bench.evaluation.importance_sampling.encoder_pass import curve_sizes
from elbo_bench.evaluation.metrics import mean_over_examples, passes_gate
from elbo_bench.models.linear_gaussian import LinearGaussian
from elbo_bench.noise import Noise
from elbo_bench.objectives.beta import BetaELBO
from elbo_bench.objectives.elbo_analytic import ELBOAnalytic
from elbo_bench.objectives.iwae import IWAE

# The field's convention alone: K samples of the encoder's q, no pilot, and no exact value in the estimate's place.
evaluate = functools.partial(evaluate_any, proposal="encoder", pilot_share=0.0, truth="importance")

SOURCE = LinearGaussianData(num_dims=12, latent_dim=3, num_train=50, num_validation=20, num_test=203)


@pytest.fixture(scope="module")
def data() -> Tensor:
    return SOURCE.load(Path("none")).test


def true_model(covariance: str = "full", dtype: torch.dtype = torch.float64) -> LinearGaussian:
    """The model that the data was drawn from, with the best q of its family."""
    info = SOURCE.load(Path("none")).info
    model = LinearGaussian(info, latent_dim=3, covariance=covariance).double()  # type: ignore[arg-type]
    truth = SOURCE.parameters()
    model.set_parameters(truth.weight, truth.mean, truth.noise_std)
    model.set_best_posterior()
    return model.to(dtype)


@torch.no_grad()
def misspecified(model: LinearGaussian) -> LinearGaussian:
    """Shift q's mean and widen its scale: a proposal that is wrong, and wide enough to be used."""
    model.encoder.bias += 0.1
    if model.covariance == "full":
        model.raw_scale += 0.2 * torch.eye(3, dtype=model.raw_scale.dtype)
    else:
        model.raw_scale += 0.2
    return model


def exact_gap(model: LinearGaussian, x: Tensor) -> Tensor:
    """KL(q(z|x) ‖ p(z|x)) in closed form."""
    posterior = model.posterior(x)
    if isinstance(posterior, DiagonalNormal):
        scale_tril = torch.diag_embed(posterior.base_dist.scale)
        posterior = torch.distributions.MultivariateNormal(posterior.base_dist.loc, scale_tril=scale_tril)
    else:
        posterior = torch.distributions.MultivariateNormal(posterior.loc, scale_tril=posterior.scale_tril)
    exact = model.exact_posterior(x)
    return kl_divergence(posterior, torch.distributions.MultivariateNormal(exact.loc, scale_tril=exact.scale_tril))


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_log_px_minus_log_w_is_log_q_minus_log_posterior_draw_by_draw(covariance: str, data: Tensor) -> None:
    model, x = misspecified(true_model(covariance)), data[:17].double()
    draws = draw(model, x, 7, Noise(0, "test"))
    left = model.log_p_x(x) - draws.log_w
    right = draws.log_q_z_given_x - model.exact_posterior(x).log_prob(draws.z)
    assert (left - right).abs().max() < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["exact", "best diagonal", "misspecified full", "misspecified diagonal"])
def test_estimate_is_within_four_standard_errors_of_the_closed_form(
    kind: str, dtype: torch.dtype, data: Tensor
) -> None:
    model = true_model("diagonal" if "diagonal" in kind else "full", dtype)
    if "misspecified" in kind:
        misspecified(model)
    examples = evaluate(model, data, num_samples=1000, seed=3).examples
    error = examples["log_px"] - model.log_p_x(data.to(dtype)).detach().numpy()
    assert np.mean(np.abs(error) <= 4 * examples["log_px_se_mc"] + 1e-4) >= 0.99
    if kind == "exact":  # log w is then constant: nothing is left to estimate
        assert np.abs(error).max() < (1e-9 if dtype is torch.float64 else 1e-4)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_elbo_gap_is_the_kl_to_the_posterior(covariance: str, data: Tensor) -> None:
    model = misspecified(true_model(covariance))
    examples = evaluate(model, data, num_samples=2000, seed=1).examples
    exact = exact_gap(model, data.double()).detach().numpy()
    # The importance estimate is biased low by about half its variance: part of the gap's error.
    error = examples["elbo_gap"] - exact - examples["log_px_bias"]
    assert exact.min() > 0.05, "a gap of nothing would test nothing"
    assert np.mean(np.abs(error) <= 4 * examples["elbo_gap_se_mc"]) >= 0.99
    mean_error = error.mean() / math.sqrt((examples["elbo_gap_se_mc"] ** 2).sum()) * len(error)
    assert abs(mean_error) < 4  # the mean over examples sees a bias that one example hides


def test_gap_error_is_the_spread_of_the_gap_over_seeds(data: Tensor) -> None:
    model, x = misspecified(true_model("diagonal")), data[:40]
    runs = [evaluate(model, x, num_samples=400, seed=seed, bounds={"bound": IWAE(num_samples=8)}) for seed in range(60)]
    for name in ("log_px", "elbo_gap", "gaps/bound", "elbo_mc", "distortion", "L_5"):
        spread = np.stack([run.examples[name] for run in runs]).std(0, ddof=1)
        stated = np.stack([run.examples[f"{name}_se_mc"] for run in runs]).mean(0)
        # 40 ratios, each with a relative error of 1 / sqrt(2 * 59): their mean is known to about 1.5 %.
        assert np.mean(spread / stated) == pytest.approx(1, abs=0.08), name


def test_bounds_rates_and_distortion_meet_their_closed_forms(data: Tensor) -> None:
    model, x = misspecified(true_model("diagonal")), data.double()
    result = evaluate(model, x, num_samples=2000, bounds={"bound": BetaELBO(beta=3.0)})
    examples, q = result.examples, model.posterior(x).base_dist
    rate = 0.5 * (q.loc**2 + q.scale**2 - 1 - 2 * q.scale.log()).sum(1).detach().numpy()
    assert np.abs(examples["rate"] - rate).max() < 1e-12
    residual = x - q.loc @ model.weight.mT - model.mean
    expected = residual.square().sum(1) + (q.scale**2 @ model.weight.square().mT).sum(1)
    distortion = 0.5 * (expected / model.noise_std**2 + 12 * math.log(2 * math.pi) + 24 * model.log_noise_std)
    z = (examples["distortion"] - distortion.detach().numpy()) / examples["distortion_se_mc"]
    assert np.mean(np.abs(z) < 4) >= 0.99
    assert abs(z.mean()) * math.sqrt(len(z)) < 5
    for name, value in (("elbo_analytic", -distortion.detach().numpy() - rate),):
        assert np.mean(np.abs(examples[name] - value) <= 4 * examples[f"{name}_se_mc"]) >= 0.99
    assert examples["bounds/bound"] == pytest.approx(-examples["distortion"] - 3 * examples["rate"], abs=1e-9)
    assert examples["gaps/bound"] == pytest.approx(examples["log_px"] - examples["bounds/bound"], abs=1e-12)
    assert examples["elbo_gap"] == pytest.approx(examples["log_px"] - examples["elbo_mc"], abs=1e-12)


def test_curve_rises_from_the_elbo_to_log_px(data: Tensor) -> None:
    result = evaluate(misspecified(true_model("diagonal")), data, num_samples=1000)
    sizes = [*curve_sizes(1000), 1000]
    assert sizes == [1, 2, 5, 10, 20, 50, 64, 100, 200, 500, 1000]
    means = [result.metrics[f"L_{k}"]["value"] for k in sizes]
    assert means == sorted(means)
    assert result.metrics["L_1"] | {"label": ""} == result.metrics["elbo_mc"] | {"label": ""}
    same = {"label": "", "bias": None}
    assert result.metrics["L_1000"] | same == result.metrics["log_px"] | same


def test_the_trained_bound_is_the_curve_at_its_k(data: Tensor) -> None:
    result = evaluate(true_model("diagonal"), data, num_samples=103, bounds={"bound": IWAE(num_samples=20)})
    assert result.examples["bounds/bound"] == pytest.approx(result.examples["L_20"], abs=1e-12)
    assert result.examples["bounds/bound_se_mc"] == pytest.approx(result.examples["L_20_se_mc"], abs=1e-12)


def test_chunks_and_threads_change_nothing(data: Tensor) -> None:
    model = misspecified(true_model("diagonal"))
    bounds = {"bound": IWAE(num_samples=6)}

    def run(**options: int) -> Evaluation:
        return evaluate(model, data, num_samples=110, bounds=bounds, **options)  # type: ignore[arg-type]

    reference = run(chunk_size=64, workers=1)
    threaded = run(chunk_size=64, workers=3)
    for name, column in reference.examples.items():
        assert column.tobytes() == threaded.examples[name].tobytes(), name
    for chunk_size in (1, 7, 110, 4000):
        other = run(chunk_size=chunk_size)
        for name, column in reference.examples.items():
            assert other.examples[name] == pytest.approx(column, rel=1e-9, abs=1e-9, nan_ok=True), (name, chunk_size)


def test_padding_is_not_counted_and_examples_keep_their_numbers(data: Tensor) -> None:
    model, ids = true_model("diagonal"), torch.arange(203).flip(0)
    whole = evaluate(model, data, num_samples=20, block_size=32, ids=ids)
    assert whole.examples["id"].tolist() == ids.tolist()
    assert whole.metrics["log_px"]["n"] == 203
    part = evaluate(model, data[:33], num_samples=20, block_size=32)
    # Block 1 holds one example and 31 copies of it; in the whole it is full. Its own row is the same.
    assert part.examples["log_px"].tobytes() == whole.examples["log_px"][:33].tobytes()


def test_metric_is_the_mean_with_the_errors_it_states() -> None:
    values, errors = np.array([1.0, 2.0, 4.0]), np.array([0.3, 0.0, 0.4])
    metric = mean_over_examples(Estimate(values, errors), "a mean", bias="low")
    assert (metric["label"], metric["bias"]) == ("a mean", "low")
    assert metric["value"] == pytest.approx(7 / 3, abs=1e-15)
    assert metric["se_test"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(3), abs=1e-15)
    assert metric["se_mc"] == pytest.approx(0.5 / 3, abs=1e-15)
    assert (metric["n"], metric["unit"]) == (3, "nats")
    assert mean_over_examples(Estimate(values[:1], errors[:1]), "")["se_test"] is None


def test_sums_over_examples_do_not_cancel() -> None:
    values = np.array([1e16, 1.0, -1e16, 1.0])
    assert mean_over_examples(Estimate(values, np.zeros(4)), "a sum")["value"] == 0.5


class Planted(LinearGaussian):
    """Gives some examples a log-likelihood of our choosing, for some of their samples."""

    plan: tuple[tuple[int, float, bool], ...] = ()

    def likelihood(self, z: Tensor) -> torch.distributions.Distribution:  # type: ignore[override]
        likelihood, plan, rows = super().likelihood(z), self.plan, self.rows

        class Wrapped:
            def log_prob(self, x: Tensor) -> Tensor:
                value = likelihood.log_prob(x).clone()
                for example, planted, every in plan:
                    column = (x[:, 0] == rows[example, 0]).nonzero()[:, 0]
                    value[slice(None) if every else slice(0, 1), column] = planted
                return value

        return Wrapped()  # type: ignore[return-value]


def planted(data: Tensor, *plan: tuple[int, float, bool]) -> Planted:
    model = true_model("diagonal")
    model.__class__ = Planted
    model.plan, model.rows = plan, data.double()  # type: ignore[attr-defined]
    return model  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ((40, math.nan, False), "example 40: a log-weight is NaN"),
        ((97, math.inf, False), r"example 97: a log-weight is \+inf"),
        ((0, -math.inf, True), "example 0: every log-weight is -inf"),
        ((202, math.nan, True), "example 202: a log-weight is NaN"),
    ],
)
def test_a_number_that_is_none_fails_the_run_and_names_the_example(
    plan: tuple[int, float, bool], message: str, data: Tensor
) -> None:
    with pytest.raises(RunFailedError, match=f"^{message}$"):
        evaluate(planted(data, plan), data, num_samples=30)


def test_nothing_of_the_model_or_of_torch_is_left_changed(data: Tensor) -> None:
    model = true_model("diagonal")
    model.encoder.eval()
    before, threads, state = [m.training for m in model.modules()], torch.get_num_threads(), torch.get_rng_state()
    evaluate(model, data[:5], num_samples=10)
    assert [m.training for m in model.modules()] == before
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_model_is_evaluated_without_dropout(data: Tensor) -> None:
    model = true_model("diagonal")
    seen: list[tuple[bool, bool]] = []
    model.encoder.register_forward_hook(lambda *_: seen.append((model.encoder.training, torch.is_grad_enabled())))
    evaluate(model, data[:40], num_samples=10)
    assert seen == [(False, False)] * 4  # one for each block, however many chunks, and one for each of two checks


def test_active_units_are_those_whose_posterior_mean_varies(data: Tensor) -> None:
    model = true_model("diagonal")
    with torch.no_grad():
        means = model.posterior(data.double()).mean
        model.encoder.weight[1] *= 0.0099**0.5 / means[:, 1].std(correction=0)  # just below the limit
        model.encoder.weight[2] *= 0.0101**0.5 / means[:, 2].std(correction=0)  # just above it
    assert evaluate(model, data, num_samples=10).metrics["active_units"]["value"] == 2


def test_gate_wants_a_light_tail_and_a_small_bias() -> None:
    pareto_k, se_mc = np.array([0.69, 0.71, 0.3, np.nan, np.nan]), np.array([0.1, 0.1, 0.6, 0.1, 0.0])
    assert passes_gate(se_mc, pareto_k).tolist() == [True, False, False, False, True]


def test_too_narrow_a_proposal_is_a_lower_bound_only(data: Tensor) -> None:
    good, narrow = true_model("full"), true_model("full")
    with torch.no_grad():
        narrow.raw_scale -= 1.2 * torch.eye(3, dtype=torch.float64)
    assert evaluate(good, data, num_samples=1000).tier == "importance"
    result = evaluate(narrow, data, num_samples=1000)
    assert result.tier == "lower-bound-only"
    assert result.diagnostics["share_passing"] < 0.1


def test_a_bound_must_fit_twice_and_there_must_be_an_example(data: Tensor) -> None:
    with pytest.raises(ValueError, match="at least 22"):
        evaluate(true_model(), data[:3], num_samples=21, bounds={"bound": IWAE(num_samples=11)})
    with pytest.raises(ValueError, match="no example"):
        evaluate(true_model(), data[:0], num_samples=21)


def test_rate_without_a_closed_form_is_sampled(data: Tensor) -> None:
    class Mixed(LinearGaussian):
        def prior(self) -> torch.distributions.Distribution:  # type: ignore[override]
            mixing = torch.distributions.Categorical(torch.ones(2, dtype=torch.float64))
            parts = torch.distributions.Independent(
                torch.distributions.Normal(torch.zeros(2, 3, dtype=torch.float64), 1.0), 1
            )
            return torch.distributions.MixtureSameFamily(mixing, parts)

    model = misspecified(true_model("diagonal"))
    closed = evaluate(model, data, num_samples=500)
    model.__class__ = Mixed  # two equal parts: the same prior, without a KL in closed form
    sampled = evaluate(model, data, num_samples=500)
    assert "elbo_analytic" not in sampled.metrics
    assert (
        np.mean(np.abs(sampled.examples["rate"] - closed.examples["rate"]) < 4 * sampled.examples["rate_se_mc"]) > 0.99
    )
    assert sampled.metrics["log_px"]["value"] == pytest.approx(closed.metrics["log_px"]["value"], abs=1e-9)


def test_every_objective_value_may_use_closed_forms(data: Tensor) -> None:
    def entropy(draws: Draws) -> Tensor:
        return draws.posterior_entropy()

    entropy.samples_required = 3  # type: ignore[attr-defined]
    model = true_model("diagonal")
    result = evaluate(model, data, num_samples=10, bounds={"h": entropy, "e": ELBOAnalytic(num_samples=5)})  # type: ignore[dict-item]
    assert result.examples["bounds/h"] == pytest.approx(
        model.posterior(data.double()).entropy().detach().numpy(), abs=1e-12
    )
    assert result.examples["bounds/e"] == pytest.approx(result.examples["elbo_analytic"], abs=1e-9)


def test_no_two_examples_share_their_noise_and_none_shares_it_over_seeds(data: Tensor) -> None:
    model, same = misspecified(true_model("diagonal")), data[:1].expand(12, -1)
    estimates = [evaluate(model, same, num_samples=10, block_size=4, seed=seed).examples["log_px"] for seed in (0, 1)]
    assert len(set(np.concatenate(estimates).tolist())) == 24
