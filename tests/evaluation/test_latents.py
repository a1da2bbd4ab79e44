"""What is said of the latents against the linear Gaussian model, whose aggregated posterior is normal."""

import json
import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from support.linear_gaussian_case import MU, SIGMA, D, L, W, linear_gaussian
from torch import Tensor
from torch.distributions import Categorical, Cauchy, Independent, MixtureSameFamily, Normal

from elbo_bench.draws import sample
from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation import Evaluation
from elbo_bench.evaluation.aggregated_posterior import AggregatedPosterior
from elbo_bench.evaluation.evaluator import Request
from elbo_bench.evaluation.importance_sampling.active_units import (
    HalvedMean,
    active_unit_metrics,
    active_units_in_words,
    latent_layers,
    posterior_means,
    variance_of_mean,
)
from elbo_bench.evaluation.latents import Latents
from elbo_bench.models.linear_gaussian import LinearGaussian
from elbo_bench.noise import Noise


def examples(number: int) -> Tensor:
    random = np.random.default_rng(5)
    x = random.normal(size=(number, L)) @ W.T + MU + SIGMA * random.normal(size=(number, D))
    return torch.from_numpy(x)


def wide(covariance: str = "diagonal") -> LinearGaussian:
    """A model whose posteriors overlap, and whose codes are not spread as the prior is."""
    model = linear_gaussian(covariance)
    with torch.no_grad():
        model.encoder.bias += 0.3
        model.encoder.weight *= 0.8
        model.raw_scale += 0.3 * (torch.eye(L) if covariance == "full" else 1)
    return model


def measure(model: LinearGaussian, x: Tensor, seed: int = 0, **keys: object) -> Evaluation:
    return Latents(**keys).evaluate(model, x, Request(seed=seed))  # type: ignore[arg-type]


def moments(model: LinearGaussian) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and covariance of the population's aggregated posterior, and the covariance of each posterior."""
    with torch.no_grad():
        posterior = model.posterior(torch.from_numpy(MU)[None])
        scale_tril = getattr(posterior, "scale_tril", None)
        if scale_tril is None:
            scale_tril = torch.diag_embed(posterior.base_dist.scale)  # type: ignore[attr-defined]
        own = (scale_tril @ scale_tril.mT)[0].numpy()
        slope = model.encoder.weight.numpy()
        marginal = W @ W.T + SIGMA**2 * np.eye(D)
        return posterior.mean[0].numpy(), slope @ marginal @ slope.T + own, own


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_mutual_information_and_marginal_kl_are_the_closed_forms(covariance: str) -> None:
    """Within 5.6 standard errors and the 0.02 nat that 1500 components may lack; four tests, false failures < 1e-6."""
    model = wide(covariance)
    mean, total, own = moments(model)
    exact = {
        "mutual_information": 0.5 * (np.linalg.slogdet(total)[1] - np.linalg.slogdet(own)[1]),
        "marginal_kl": 0.5 * (np.trace(total) + mean @ mean - L - np.linalg.slogdet(total)[1]),
    }
    assert min(exact.values()) > 0.1
    result = measure(model, examples(1500), num_samples=3, block_size=500)
    for name, value in exact.items():
        metric = result.metrics[name]
        assert metric["se_test"] < 0.04
        assert abs(metric["value"] - value) < 5.6 * metric["se_test"] + 0.02, name
    assert result.metrics["rate"]["value"] == pytest.approx(
        sum(result.metrics[name]["value"] for name in exact), abs=1e-12
    )
    assert result.diagnostics["mutual_information_limit"] == pytest.approx(math.log(1500))


def test_rate_and_distortion_are_the_closed_forms_and_the_rate_splits_for_every_example() -> None:
    model, x = wide(), examples(37)
    result = measure(model, x, num_samples=400, block_size=10)
    rows = result.examples
    with torch.no_grad():
        posterior = model.posterior(x).base_dist  # type: ignore[union-attr]
        loc, scale = posterior.loc.numpy(), posterior.scale.numpy()
    by_dim = 0.5 * (scale**2 + loc**2 - 1) - np.log(scale)
    assert np.stack([rows[f"kl_{number:03d}"] for number in range(L)], 1) == pytest.approx(by_dim, abs=1e-12)
    assert rows["rate"] == pytest.approx(by_dim.sum(1), abs=1e-12)
    assert not rows["rate_se_mc"].any()
    assert rows["mutual_information"] + rows["marginal_kl"] == pytest.approx(rows["rate"], abs=1e-12)
    squares = ((x.numpy() - MU - loc @ W.T) ** 2).sum(1) + ((W * scale[:, None]) ** 2).sum((1, 2))
    distortion = 0.5 * (D * math.log(2 * math.pi * SIGMA**2) + squares / SIGMA**2)
    assert (np.abs(rows["distortion"] - distortion) < 6 * rows["distortion_se_mc"]).all()
    dimension = result.diagnostics["dimensions"][1]
    assert dimension["kl"] == pytest.approx(by_dim[:, 1].mean(), abs=1e-12)
    assert dimension["variance_of_mean"] == pytest.approx(loc[:, 1].var(), abs=1e-12)
    assert {"kl", "mean_first", "mean_second"}.isdisjoint(rows)


@pytest.mark.parametrize("kind", ["diagonal", "full", "unknown"])
def test_aggregated_posterior_is_the_mixture_of_all_examples(kind: str) -> None:
    model, x = wide("full" if kind == "full" else "diagonal"), examples(11)
    with torch.no_grad():
        posteriors = [model.posterior(piece) for piece in x.split(4)]
        z = sample(posteriors[0], 5, Noise(0, "test"), like=x).flatten(0, 1)
        _, _, own = moments(model)
        if kind == "unknown":  # an event of normals that is no `Independent` of one axis
            posteriors = [
                Independent(Independent(Normal(each.mean, each.stddev, validate_args=False), 0), 1)
                for each in posteriors
            ]
        found = AggregatedPosterior(tuple(posteriors)).log_prob(z)
        means = model.posterior(x).mean.numpy()
    densities = np.stack([scipy.stats.multivariate_normal(mean, own).logpdf(z.numpy()) for mean in means])
    assert found.numpy() == pytest.approx(scipy.special.logsumexp(densities, 0) - math.log(11), abs=1e-10)


def test_mixture_keeps_its_digits_where_posteriors_are_narrow_and_far_out() -> None:
    loc = torch.tensor([[1000.0, 0.0], [1000.0, 0.01], [1000.5, 7.0]])
    posterior = Independent(Normal(loc, torch.full((3, 2), 1e-3)), 1)
    z = loc + 1e-3
    found = AggregatedPosterior((posterior,)).log_prob(z)
    each = [scipy.stats.multivariate_normal(m, 1e-6 * np.eye(2)).logpdf(z.double().numpy()) for m in loc.double()]
    assert found.numpy() == pytest.approx(scipy.special.logsumexp(each, 0) - math.log(3), abs=1e-6)


class MixturePrior(LinearGaussian):
    """Two equal parts: the same prior, without a closed form."""

    def prior(self) -> MixtureSameFamily:  # type: ignore[override]
        parts = Independent(Normal(torch.zeros(2, L, dtype=torch.float64), 1.0, validate_args=False), 1)
        return MixtureSameFamily(Categorical(torch.ones(2, dtype=torch.float64)), parts)


def test_without_a_closed_form_everything_comes_from_the_same_samples() -> None:
    model, x = wide(), examples(40)
    closed = measure(model, x, num_samples=300)
    model.__class__ = MixturePrior
    sampled = measure(model, x, num_samples=300)
    assert (closed.diagnostics["rate"], sampled.diagnostics["rate"]) == ("closed form", "sampled")
    rows = sampled.examples
    assert rows["mutual_information"] + rows["marginal_kl"] == pytest.approx(rows["rate"], abs=1e-12)
    assert "kl_000" not in rows
    for name in ("rate", "mutual_information"):
        error = np.hypot(rows[f"{name}_se_mc"], closed.examples[f"{name}_se_mc"])
        assert (np.abs(rows[name] - closed.examples[name]) < 6 * error).all(), name
    assert rows["marginal_kl"] == pytest.approx(closed.examples["marginal_kl"], abs=1e-9)
    assert "kl" not in sampled.diagnostics["dimensions"][0]


def test_mutual_information_is_at_most_log_n_and_reaches_it_where_codes_do_not_overlap() -> None:
    model = wide()
    model.__class__ = MixturePrior
    with torch.no_grad():
        assert (measure(model, examples(9)).examples["mutual_information"] <= math.log(9)).all()
        model.raw_scale -= 8
    narrow = measure(model, examples(9)).metrics["mutual_information"]
    assert narrow["value"] == pytest.approx(math.log(9), abs=1e-6)


def test_stated_errors_are_the_spread_over_seeds() -> None:
    """30 examples x 50 seeds: the mean ratio is known to 2 %."""
    model, x = wide(), examples(30)
    runs = [measure(model, x, seed, num_samples=40) for seed in range(50)]
    for name in ("marginal_kl", "log_q_z", "distortion", "mutual_information"):
        spread = np.stack([run.examples[name] for run in runs]).std(0, ddof=1)
        stated = np.stack([run.examples[f"{name}_se_mc"] for run in runs]).mean(0)
        assert np.mean(spread / stated) == pytest.approx(1, abs=0.1), name
    assert runs[0].metrics["rate"]["se_mc"] == 0
    assert runs[0].metrics["marginal_kl"]["se_mc"] < runs[0].metrics["marginal_kl"]["se_test"]


def test_active_units_are_those_whose_posterior_mean_varies() -> None:
    model, x = wide(), examples(60)
    with torch.no_grad():
        means = model.posterior(x).mean
        model.encoder.weight[1] *= 0.0099**0.5 / means[:, 1].std(correction=0)  # just below the limit
        model.encoder.weight[2] *= 0.0101**0.5 / means[:, 2].std(correction=0)  # just above it
    result = measure(model, x)
    assert result.metrics["active_units"]["value"] == 2
    assert [each["active"] for each in result.diagnostics["dimensions"]] == [True, False, True]


def test_means_without_a_closed_form_are_sampled_and_their_noise_is_not_counted() -> None:
    class Meanless(Independent):
        @property
        def mean(self) -> Tensor:
            raise NotImplementedError

    class Hidden(LinearGaussian):
        def posterior(self, x: Tensor) -> Independent:  # type: ignore[override]
            return Meanless(super().posterior(x).base_dist, 1, validate_args=False)  # type: ignore[union-attr]

    model, x = wide(), examples(400)
    with torch.no_grad():
        model.encoder.weight[1] = 0  # q's own spread, far above the limit, would pass for activity
    closed = measure(model, x)
    model.__class__ = Hidden
    sampled = measure(model, x, num_samples=200)
    assert sampled.diagnostics["posterior_mean"] == "sampled"
    assert sampled.metrics["active_units"]["value"] == closed.metrics["active_units"]["value"] == 2
    for left, right in zip(sampled.diagnostics["dimensions"], closed.diagnostics["dimensions"], strict=True):
        assert left["variance_of_mean"] == pytest.approx(right["variance_of_mean"], rel=0.1, abs=0.003)


@pytest.mark.parametrize("count", [2, 7, 40])
@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_a_sampled_mean_is_that_of_each_half_of_the_stream(count: int, chunk: int) -> None:
    z = torch.randn(count, 5, 2, 3, generator=torch.Generator().manual_seed(0))
    halves = HalvedMean(count)
    assert halves.means() is None
    for piece in z.split(chunk):
        halves.update(piece)
    flat = z.double().flatten(2)
    expected = torch.stack([flat[: count // 2].mean(0), flat[count // 2 :].mean(0)], 1)
    found = halves.means()
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_labels_and_tails_without_a_mean_have_no_active_units() -> None:
    labels = HalvedMean(4)
    labels.update(torch.ones(4, 2, 3, dtype=torch.int64))
    assert labels.means() is None
    cauchy = Independent(Cauchy(torch.zeros(2, 3), torch.ones(2, 3)), 1)
    assert posterior_means(cauchy, Noise(0, "test").stream(), torch.zeros(2, 1)) is None


def test_the_variance_of_a_sampled_mean_is_not_that_of_its_noise() -> None:
    """4000 examples whose means are all zero, seen with noise of variance 1: false-fail 1e-8 (6 standard errors)."""
    means = np.random.default_rng(0).normal(size=(4000, 2, 3))
    variance, error = variance_of_mean(means)
    np.testing.assert_allclose(error, 4000**-0.5, rtol=0.15)
    assert (np.abs(variance) < 6 * error).all()
    closed = means[:, :1]
    np.testing.assert_allclose(variance_of_mean(closed)[0], closed[:, 0].var(0), rtol=1e-12)


def test_active_units_are_stated_by_layer() -> None:
    units, layers = np.array([True, False, True, True, True]), {"low": slice(0, 3), "high": slice(3, 5)}
    assert active_units_in_words(units, layers) == "2+2"
    assert active_units_in_words(units, {}) == "4"
    metrics = active_unit_metrics(units, layers, 7)
    assert {name: (each["value"], each["n"]) for name, each in metrics.items()} == {
        "active_units": (4, 7),
        "active_units_low": (2, 7),
        "active_units_high": (2, 7),
    }
    assert latent_layers(wide(), 3) == {}


def test_threads_change_no_byte_and_padding_is_not_counted() -> None:
    model, x, ids = wide(), examples(21), torch.arange(21) + 100
    runs = [
        Latents(num_samples=5, block_size=8, workers=workers).evaluate(model, x, Request(seed=3, ids=ids))
        for workers in (1, 2)
    ]
    assert runs[0].examples.keys() == runs[1].examples.keys()
    for name, column in runs[0].examples.items():
        assert column.tobytes() == runs[1].examples[name].tobytes(), name
        assert len(column) == 21
    assert json.dumps([runs[0].metrics, runs[0].diagnostics], allow_nan=False) == json.dumps(
        [runs[1].metrics, runs[1].diagnostics]
    )
    assert runs[0].examples["id"].tolist() == ids.tolist()
    assert runs[0].metrics["rate"]["n"] == 21
    assert runs[0].decoder_evaluations == 5 * 21
    assert (runs[0].tier, runs[0].estimator) == ("none", "latents")


def test_one_example_holds_no_information() -> None:
    result = measure(wide(), examples(1))
    assert result.metrics["mutual_information"]["value"] == pytest.approx(0, abs=1.5)
    assert result.metrics["active_units"]["value"] == 0


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="no example"):
        measure(wide(), examples(3)[:0])
    with pytest.raises(ValueError, match="num_samples=1"):
        Latents(num_samples=1)
    x = examples(6)
    x[4, 1] = math.inf
    with pytest.raises(RunFailedError, match=r"^example 4: log q\(z\|x\) is nan$"):
        measure(wide(), x)
