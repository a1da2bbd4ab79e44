"""The gradient lab against closed forms, and against estimators whose bias is known."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from support.linear_gaussian_case import MU, SIGMA, D, L, W, assert_mean, linear_gaussian
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from elbo_bench.distributions import DiagonalNormal
from elbo_bench.draws import Draws
from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation import Evaluation
from elbo_bench.evaluation.evaluator import Bound, Request
from elbo_bench.evaluation.gradient_lab.estimates import Estimator, GradientBatch, LargeK
from elbo_bench.evaluation.gradient_lab.moments import Moments, jackknife, measure_group, merge, snr_floor
from elbo_bench.evaluation.gradients import Gradients
from elbo_bench.models.linear_gaussian import LinearGaussian
from elbo_bench.numerics import log_mean_exp
from elbo_bench.objectives.elbo_analytic import ELBOAnalytic
from elbo_bench.objectives.elbo_mc import ELBOMC
from elbo_bench.objectives.iwae import IWAE

N = 6
BOUNDS: dict[str, Bound] = {"elbo_mc": ELBOMC(), "iwae": IWAE(), "elbo_analytic": ELBOAnalytic()}


def examples(number: int = N) -> Tensor:
    random = np.random.default_rng(3)
    x = random.normal(size=(number, L)) @ W.T + MU + SIGMA * random.normal(size=(number, D))
    return torch.from_numpy(x)


def off(covariance: str = "diagonal") -> LinearGaussian:
    """A model whose every gradient has an expectation well away from zero."""
    model = linear_gaussian(covariance)
    with torch.no_grad():
        model.encoder.bias += 0.3
        model.raw_scale += 0.2
        model.mean += 0.4
    return model


def measure(model: nn.Module, x: Tensor, bounds: dict[str, Bound] | None = None, **keys: object) -> Evaluation:
    """Few of everything, unless a test asks for more."""
    small = {"num_samples": (1, 5), "num_replicates": 16, "oracle_samples": 20, "oracle_replicates": 16}
    lab = Gradients(**{**small, **keys})  # type: ignore[arg-type]
    seed = lab.seed or 0
    named = {**BOUNDS, **(bounds or {})}
    return lab.evaluate(model, x, Request(seed=seed, trained_with=named.pop("bound", None), bounds=named))  # type: ignore[arg-type]


def row(result: Evaluation, objective: str, num_samples: int, part: str) -> dict[str, object]:
    """The one row of the table that these name."""
    (found,) = [
        each
        for each in result.diagnostics["table"]
        if (each["objective"], each["num_samples"], each["part"]) == (objective, num_samples, part)
    ]
    return found


class PathIWAE(IWAE):
    """The value of L_K, its gradient without the score term of q: biased for K > 1 in the encoder alone."""

    def __call__(self, draws: Draws) -> Tensor:
        weights = draws.log_w.detach().softmax(0)
        weighted = (weights * draws.path_log_w).sum(0)
        return log_mean_exp(draws.log_w.detach()) + (weighted - weighted.detach())


class DoublyReparameterised(IWAE):
    def __call__(self, draws: Draws) -> Tensor:
        return LargeK(self.num_samples)(draws)


@pytest.mark.parametrize("num_samples", [1, 5])
def test_variance_and_snr_of_the_elbo_are_the_closed_forms(num_samples: int) -> None:
    """The gradients in mu and in q's mean are linear in the noise: their mean and covariance are known.

    Thresholds of 5.6 standard errors: false failures below 1e-7 in all; errors of about 30 % of a variance and 20 %
    of a ratio would be seen.
    """
    model, x, replicates = off(), examples(), 400
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in ("mean", "encoder.bias"))
    result = measure(
        model, x, objectives=("elbo_mc",), num_samples=(num_samples,), num_replicates=replicates, block_size=4
    )
    with torch.no_grad():
        posterior = model.posterior(x)
        loc, scale = posterior.base_dist.loc.numpy(), model.raw_scale.exp().numpy()  # type: ignore[attr-defined]
        mean = model.mean.numpy()
    residual = x.numpy() - mean - loc @ W.T
    expected = {"decoder": residual.mean(0) / SIGMA**2, "encoder": (residual @ W / SIGMA**2 - loc).mean(0)}
    slope = {"decoder": W / SIGMA**2, "encoder": W.T @ W / SIGMA**2 + np.eye(L)}
    for part, signal in expected.items():
        covariance = (slope[part] * scale**2) @ slope[part].T / (N * num_samples)
        found = row(result, "elbo_mc", num_samples, part)
        assert found["num_parameters"] == len(signal)
        error = math.sqrt(2 * np.sum(covariance**2) / (replicates - 1))
        assert abs(found["variance"] - np.trace(covariance)) < 5.6 * error
        assert found["variance_se_mc"] == pytest.approx(error, rel=0.75)  # eight groups know it to about a quarter
        ratios = np.abs(signal) / np.sqrt(np.diag(covariance))
        # Errors of the parameters are correlated: taken as fully so.
        error = np.mean(np.sqrt((1 + ratios**2 / 2) / replicates))
        assert abs(found["snr"] - ratios.mean()) < 5.6 * error
        # The direction u is known up to its own noise; the exact moments along it follow from the same closed form.
        assert found["bias"] == found["bias_z"] == 0


def test_oracle_of_the_decoder_is_the_gradient_of_log_p_x_and_of_the_encoder_is_zero() -> None:
    """At K = 400 the gradient of L_K is within 0.01 of its limit; errors of 0.2 are seen, false failures < 1e-6."""
    model, x = linear_gaussian("full"), examples(30)
    with torch.no_grad():
        model.mean += 0.4
        model.set_best_posterior()
        model.encoder.bias += 0.1
    batch = GradientBatch.of(model, x, None, block_size=20)
    estimator = Estimator.of("oracle", LargeK(400), None)
    gradients = torch.stack([batch.gradient(estimator, 0, "test", each) for each in range(30)])
    exact = torch.autograd.grad(model.log_p_x(x).mean(), batch.parameters, allow_unused=True)
    expected = torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(exact, batch.parameters, strict=True)]
    )
    error = gradients.std(0) / math.sqrt(len(gradients))
    assert (5.6 + 3.1) * error.max() + 0.01 < 0.2
    assert ((gradients.mean(0) - expected).abs() < 5.6 * error + 0.01).all()
    assert expected[batch.parts[1]].abs().max() > 0.5


class Tied(nn.Module):
    """An encoder that uses the decoder's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(0.7 * W))
        self.scale = nn.Parameter(torch.full((L,), -0.3, dtype=torch.float64))
        self.mean = nn.Parameter(torch.from_numpy(MU))
        self.unused = nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def posterior(self, x: Tensor) -> DiagonalNormal:
        loc = 0.5 * x @ self.weight
        return DiagonalNormal(loc, self.scale.exp().expand_as(loc))

    def prior(self) -> DiagonalNormal:
        return DiagonalNormal(torch.zeros(L, dtype=torch.float64), torch.ones(L, dtype=torch.float64))

    def likelihood(self, z: Tensor) -> Independent:
        return Independent(Normal(z @ self.weight.mT + self.mean, SIGMA, validate_args=False), 1, validate_args=False)


def test_parts_are_what_each_density_depends_on_and_a_shared_parameter_is_in_both() -> None:
    result = measure(Tied(), examples())
    expected = {"encoder": L * D + L, "decoder": L * D + D, "shared": L * D, "neither": 4}
    assert result.diagnostics["num_parameters"] == expected
    assert row(result, "iwae", 5, "encoder")["num_parameters"] == L * D + L
    plain = measure(linear_gaussian(), examples()).diagnostics["num_parameters"]
    assert plain == {"encoder": L * D + 2 * L, "decoder": L * D + D + 1, "shared": 0, "neither": 0}


@pytest.mark.parametrize("make", [Tied, off])
def test_oracle_is_unbiased_for_the_gradient_of_its_bound(make: type) -> None:
    """DReG less IWAE, draw by draw, in every parameter, shared ones too; sees errors of 0.3 of gradients above 1.5."""
    batch, num_samples = GradientBatch.of(make(), examples(300), None, 300), 4
    pair = [Estimator.of(str(each), each, None) for each in (LargeK(num_samples), IWAE(num_samples=num_samples))]
    drawn = [torch.stack([batch.gradient(each, 0, "test", r) for r in range(60)]) for each in pair]
    assert_mean(drawn[0] - drawn[1], torch.zeros(batch.parts.shape[1]), detects=0.3)
    assert drawn[1].mean(0).abs().max() > 1.5


def test_a_biased_gradient_is_found_out_and_unbiased_ones_are_not() -> None:
    """z-scores above 8 for the planted bias; of the 10 others one beyond 5.5 has a probability below 4e-7."""
    bounds: dict[str, Bound] = {"path": PathIWAE(), "dreg": DoublyReparameterised()}
    names = ("path", "dreg", "iwae", "elbo_mc")
    result = measure(
        off(), examples(200), bounds, objectives=names, num_samples=(5,), num_replicates=150, block_size=200
    )
    assert [row(result, name, 5, "encoder")["reference"] for name in names] == ["iwae", "iwae", "iwae", "elbo_mc"]
    assert abs(row(result, "path", 5, "encoder")["bias_z"]) > 8
    for name in names:
        for part in ("encoder", "decoder"):
            found = row(result, name, 5, part)
            for score in ("bias_z", "bias_random_z"):
                if (name, part) != ("path", "encoder"):
                    assert abs(found[score]) < 5.5, (name, part, score)
    assert row(result, "dreg", 5, "encoder")["bias_se_mc"] > 0
    # The gradient of the ELBO is not that of log p(x), and of a bound that is as tight as the oracle's it nearly is.
    assert row(result, "elbo_mc", 5, "decoder")["oracle_bias_z"] > 8
    # What is plotted is what is recorded.
    metric = result.metrics["path_k5/encoder/bias"]
    assert metric["value"] == row(result, "path", 5, "encoder")["bias"]
    assert metric["value"] / metric["se_test"] == pytest.approx(
        result.metrics["path_k5/encoder/bias_z"]["value"], rel=1e-6
    )


def test_an_objective_whose_value_no_reference_has_shows_no_bias() -> None:
    result = measure(off(), examples(), objectives=("elbo_analytic", "elbo_mc"), references=("iwae",))
    assert row(result, "elbo_analytic", 5, "encoder")["bias_z"] is None
    assert row(result, "elbo_mc", 5, "encoder")["reference"] is None
    assert row(result, "elbo_mc", 1, "encoder")["reference"] == "iwae"  # of one sample both values are log w
    assert row(result, "elbo_mc", 1, "encoder")["bias_z"] == 0
    assert "elbo_mc_k5/encoder/bias_z" not in result.metrics
    assert "elbo_mc_k5/encoder/cosine" in result.metrics


class Gaussian(nn.Module):
    """z ~ N(mu, I), x|z ~ N(z, I), q = N(A x + b, 2/3 I) near its best (Rainforth et al., 2018, section 3.2)."""

    def __init__(self, num_dims: int) -> None:
        super().__init__()
        random = np.random.default_rng(1)
        self.mu = nn.Parameter(torch.zeros(num_dims, dtype=torch.float64))
        self.slope = nn.Parameter(torch.from_numpy(0.5 * np.eye(num_dims) + 0.05 * random.normal(size=(num_dims,) * 2)))
        self.shift = nn.Parameter(torch.from_numpy(0.22 * np.sign(random.normal(size=num_dims))))

    def posterior(self, x: Tensor) -> DiagonalNormal:
        loc = x @ self.slope.mT + self.shift
        return DiagonalNormal(loc, torch.full_like(loc, math.sqrt(2 / 3)))

    def prior(self) -> DiagonalNormal:
        return DiagonalNormal(self.mu, torch.ones_like(self.mu))

    def likelihood(self, z: Tensor) -> Independent:
        return Independent(Normal(z, 1.0, validate_args=False), 1, validate_args=False)


def slope(result: Evaluation, part: str, sizes: tuple[int, ...]) -> tuple[float, float]:
    """Least-squares slope of log SNR in log K, and its error if the rows were independent."""
    rows = [row(result, "iwae", size, part) for size in sizes]
    value, error = (np.array([each[name] for each in rows]) for name in ("snr", "snr_se"))
    centred = np.log(sizes) - np.log(sizes).mean()
    weights = centred / (centred**2).sum()
    return float(weights @ np.log(value)), float(np.sqrt(((weights * error / value) ** 2).sum()))


@pytest.mark.slow
def test_tighter_bounds_lose_the_encoders_signal_as_the_root_of_k_and_gain_the_decoders() -> None:
    """Slopes of -1/2 and +1/2 in log K, within 0.1; stated errors below 0.02, so that 5 of them fit."""
    random = np.random.default_rng(2)
    x = torch.from_numpy(1 + math.sqrt(2) * random.normal(size=(500, 1)))
    sizes = (8, 16, 32, 64)
    result = measure(Gaussian(1), x, objectives=("iwae",), num_samples=sizes, num_replicates=1500, block_size=500)
    for part, expected in {"encoder": -0.5, "decoder": 0.5}.items():
        found, error = slope(result, part, sizes)
        print(part, found, error, [row(result, "iwae", size, part)["snr"] for size in sizes], snr_floor(1500))
        assert error < 0.02
        assert abs(found - expected) < 0.1


def test_threads_change_no_byte() -> None:
    def told(**keys: object) -> str:
        result = measure(off(), examples(), **keys)
        return json.dumps([result.metrics, result.diagnostics])

    assert told(workers=1) == told(workers=2)
    assert told(workers=1) != told(workers=1, seed=1)


class Unsized:
    """Three samples, and no K to set."""

    samples_required = 3

    def __call__(self, draws: Draws) -> Tensor:
        return draws.log_w.mean(0)


def test_an_objective_without_a_k_is_measured_once_and_the_runs_own_by_its_name() -> None:
    result = measure(off(), examples(), {"mine": Unsized(), "bound": IWAE(num_samples=9)}, objectives=("mine", "bound"))
    assert [(each["objective"], each["num_samples"]) for each in result.diagnostics["table"][::2]] == [
        ("mine", 3),
        ("bound", 1),
        ("bound", 5),
    ]
    # It is the ELBO of three samples under another name: so the reference says, and the two do not differ.
    assert row(result, "mine", 3, "encoder")["reference"] == "elbo_mc"
    assert row(result, "mine", 3, "encoder")["bias"] == 0
    assert Gradients(objectives=("bound", "mine")).objective_names == ("mine", "elbo_mc", "iwae")


def test_what_a_record_says_of_the_work_and_the_batch() -> None:
    result = Gradients(num_samples=(2,), num_replicates=16, oracle_samples=7, oracle_replicates=17).evaluate(
        off(), examples(), Request(bounds=BOUNDS, ids=torch.arange(N) + 10)
    )
    assert result.decoder_evaluations == 2 * N * (2 * 2 * 16 + 2 * 17 * 7)
    assert result.examples.keys() == {"id"}
    assert result.examples["id"].tolist() == [10, 11, 12, 13, 14, 15]
    assert (result.tier, result.estimator) == ("none", "gradients")
    metric = result.metrics["iwae_k2/encoder/variance"]
    assert (metric["n"], metric["unit"]) == (16, "nats²")
    assert metric["se_test"] == metric["se_mc"] > 0
    json.dumps(result.diagnostics, allow_nan=False)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"objectives": ("iwae", "dreg")}, "^objectives names dreg"),
        ({"references": ("stl",)}, "^references names stl"),
        ({"objectives": ("iwae", "iwae")}, "^objectives=.* has an entry twice"),
        ({"num_samples": (5, 5)}, "^num_samples=.* has an entry twice"),
        (
            {"objectives": ("whole",), "block_size": 5, "num_examples": 6},
            "^block_size=5 is too small: whole needs all 6 examples in one block$",
        ),
        ({"objectives": ("picky",)}, "^num_samples=1 does not suit picky: two at least"),
        ({"num_samples": ()}, "num_samples"),
        ({"objectives": ()}, "objectives"),
        ({"num_replicates": 15}, "num_replicates=15"),
        ({"oracle_samples": 1}, "oracle_samples=1"),
    ],
)
def test_keys_that_cannot_be(keys: dict[str, object], message: str) -> None:
    class Whole(ELBOMC):
        scope = "batch"

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Picky(IWAE):
        def __post_init__(self) -> None:
            if self.num_samples < 2:
                raise ValueError("two at least")

    with pytest.raises(ValueError, match=message):
        measure(off(), examples(), {"whole": Whole(), "picky": Picky()}, **keys)


def test_a_model_must_have_parameters_and_an_example() -> None:
    frozen = off().requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter that is trained"):
        measure(frozen, examples())
    with pytest.raises(ValueError, match="no example"):
        measure(off(), examples()[:0])


def test_a_value_that_is_no_number_names_its_example() -> None:
    x = examples()
    x[4, 0] = math.nan
    with pytest.raises(RunFailedError, match=r"^example 4: the value of oracle_k20 is nan$"):
        measure(off(), x)


def test_finished_groups_are_not_drawn_again(tmp_path) -> None:
    lab = Gradients(num_samples=(3,), num_replicates=16, oracle_samples=5, oracle_replicates=16)
    told: list[tuple[int, int]] = []
    request = Request(bounds=BOUNDS, folder=tmp_path / "blocks", progress=lambda *at: told.append(at))
    first = lab.evaluate(off(), examples(), request)
    assert told[-1] == (32, 32)
    kept = sorted((tmp_path / "blocks").glob("block-*"))
    assert len(kept) == 32
    kept[-1].unlink()
    other = off()
    with torch.no_grad():
        other.raw_scale += 1  # whatever is drawn again now differs
    again = lab.evaluate(other, examples(), request)
    assert again.metrics["elbo_mc_k3/encoder/variance"] == first.metrics["elbo_mc_k3/encoder/variance"]
    assert again.metrics["iwae_k3/encoder/variance"] != first.metrics["iwae_k3/encoder/variance"]


def test_moments_are_those_of_all_values_however_grouped_and_constants_do_not_vary() -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(17, 4)) + 1e6)
    values[:, 2], values[:, 3] = 0.1, 0.0
    parts = torch.ones((2, 4), dtype=torch.bool)
    groups = []
    for piece in values.tensor_split(5):
        rows = measure_group(iter(piece), parts, torch.zeros((0, 2, 4), dtype=torch.float64))
        groups.append(Moments(int(rows["count"]), torch.from_numpy(rows["mean"]), torch.from_numpy(rows["squares"])))
    total = merge(groups)
    assert total.count == 17
    assert torch.allclose(total.mean, values.mean(0), rtol=1e-14)
    assert torch.allclose(total.variance, values.var(0), rtol=1e-8, atol=1e-30)
    assert total.squares[2:].tolist() == [0, 0]


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 1)))
    groups = [Moments(1, each, torch.zeros(1, dtype=torch.float64)) for each in values]
    value, error = jackknife(lambda moments: float(moments.mean[0]), groups)
    assert value == pytest.approx(float(values.mean()), abs=1e-15)
    assert error == pytest.approx(float(values.std()) / math.sqrt(8), rel=1e-12)
