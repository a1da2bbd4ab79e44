"""Annealing against the linear Gaussian model, whose log p(x) and posterior are known; HMC against normal laws."""

import itertools
import math

import numpy as np
import pytest
import torch
from support.linear_gaussian_case import (
    MU,
    SIGMA,
    B,
    L,
    W,
    X,
    assert_mean,
    exact_log_p_x,
    linear_gaussian,
    observations,
)
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from elbo_bench.draws import draw, sample
from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation.ais import AIS
from elbo_bench.evaluation.annealing import chains as annealing_module
from elbo_bench.evaluation.annealing.chains import (
    AnnealingPath,
    Start,
    forward,
    inverse_temperatures,
    mean_weight,
    reverse,
    tune,
)
from elbo_bench.evaluation.annealing.hmc import Density, leapfrog, point_at, transition
from elbo_bench.evaluation.evaluator import Request
from elbo_bench.evaluation.observations import CHECKED
from elbo_bench.models.linear_gaussian import LinearGaussian
from elbo_bench.noise import Noise

BOTH_WAYS = [(start, schedule) for start in ("prior", "encoder") for schedule in ("linear", "sigmoid")]
COVARIANCE = torch.tensor([[1.0, 0.6, 0.0], [0.6, 0.8, -0.3], [0.0, -0.3, 0.5]], dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def log_normal(z: Tensor) -> Tensor:
    shift = z - MEAN
    return -0.5 * (shift @ torch.linalg.inv(COVARIANCE) * shift).sum(-1)


def halves(z: Tensor) -> tuple[Tensor, Tensor]:
    """A normal log-density in two parts, which count 1 and 0.5."""
    return 0.7 * log_normal(z), 0.6 * log_normal(z)


def log_uniform(shape: tuple[int, ...], noise: Noise) -> Tensor:
    return torch.special.log_ndtr(noise.normal(shape, dtype=torch.float64))


def normals(seed: int, purpose: str, shape: tuple[int, ...]) -> Tensor:
    return Noise(seed, purpose).normal(shape, dtype=torch.float64)


def annealer(num_temperatures: int, num_chains: int = 6, num_leapfrog: int = 2, schedule: str = "linear") -> AIS:
    return AIS(
        num_chains=num_chains,
        num_temperatures=num_temperatures,
        num_leapfrog=num_leapfrog,
        schedule=schedule,  # type: ignore[arg-type]
    )


def path_of(start: str, model: LinearGaussian | None = None, x: Tensor | None = None) -> AnnealingPath:
    with torch.no_grad():
        x = observations() if x is None else x
        return AnnealingPath.of(model or linear_gaussian(), x, start, Noise(0, "scale"))  # type: ignore[arg-type]


def gentle() -> tuple[LinearGaussian, Tensor]:
    """The model with its W made smaller, a full q that is off, and examples: weights with light tails both ways.

    W'W < sigma^2, so the posterior is less than twice as precise as the prior: the square of their ratio is integrable.
    """
    model = linear_gaussian("full")
    weight = torch.from_numpy(W)
    model.set_parameters(weight * (0.8 * SIGMA / float(torch.linalg.matrix_norm(weight, 2))), model.mean, SIGMA)
    model.set_best_posterior()
    with torch.no_grad():
        model.encoder.bias += torch.tensor([0.6, -0.5, 0.4], dtype=torch.float64)
        model.raw_scale += 0.1 * torch.eye(L, dtype=torch.float64)
    return model, torch.from_numpy(MU + 0.6 * (X - MU))


# --- Hamiltonian Monte Carlo


def test_a_normal_law_is_left_as_it_is() -> None:
    # False-fail 1e-8; the means are seen to 0.04, the covariances to 0.06. A proposal is accepted 7 times in 10.
    chains, examples = 20_000, 2
    z = MEAN + normals(3, "z", (chains, examples, 3)) @ torch.linalg.cholesky(COVARIANCE).mT
    point, rates = point_at(halves, z), []
    for turn in range(4):
        point, rate = transition(
            Density(halves, (1.0, 0.5)),
            point,
            normals(3, f"momentum-{turn}", z.shape),
            log_uniform((chains, examples), Noise(3, f"accept-{turn}")),
            step=torch.tensor([[0.7], [0.6]], dtype=torch.float64).expand(2, 3),
            num_leapfrog=3,
        )
        rates.append(rate.mean(0))
    assert 0.4 < torch.stack(rates).mean() < 0.85, "proposals that are all accepted would not test acceptance"
    shift = point.z - MEAN
    assert_mean(shift, torch.zeros(examples, 3), detects=0.07)
    assert_mean(shift[..., None] * shift[..., None, :], COVARIANCE.expand(examples, 3, 3), detects=0.1)


def quartic(z: Tensor) -> tuple[Tensor]:
    return (-0.25 * z.pow(4).sum(-1) - 0.5 * (z[..., 0] * z[..., 1]).square() + 0.3 * z[..., 2],)


def test_a_trajectory_runs_back_when_its_momentum_turns_and_keeps_volume() -> None:
    step = torch.tensor([[0.1, 0.2, 0.15]] * 2, dtype=torch.float64)

    def flow(state: Tensor) -> Tensor:
        point, momentum = leapfrog(
            Density(quartic, (1.0,)), point_at(quartic, state[..., :3]), state[..., 3:], step=step, num_leapfrog=5
        )
        return torch.cat([point.z, momentum], -1)

    state = normals(1, "state", (4, 2, 6))
    sign = torch.tensor([1.0] * 3 + [-1.0] * 3, dtype=torch.float64)
    assert torch.allclose(flow(flow(state) * sign) * sign, state, atol=1e-12)
    assert (flow(state) - state).abs().min() > 1e-3
    columns = [(flow(state + h) - flow(state - h)) / 2e-5 for h in 1e-5 * torch.eye(6, dtype=torch.float64)]
    assert torch.allclose(torch.linalg.det(torch.stack(columns, -1)).abs(), torch.ones(4, 2).double(), atol=1e-6)


def test_acceptance_goes_to_one_as_the_step_goes_to_zero() -> None:
    rejected = []
    for size in (0.4, 0.2, 0.1, 0.05):
        z = normals(2, "z", (500, 2, 3))
        _, rate = transition(
            Density(quartic, (1.0,)),
            point_at(quartic, z),
            normals(2, "p", z.shape),
            log_uniform((500, 2), Noise(2, "u")),
            step=torch.full((2, 3), size, dtype=torch.float64),
            num_leapfrog=round(1 / size),
        )
        rejected.append(float(1 - rate.mean()))
    # The energy is off by O(step^2): halving the step divides what is rejected by four.
    assert all(b < a / 2.5 for a, b in itertools.pairwise(rejected)), rejected
    assert rejected[-1] < 0.005


def test_a_scale_for_each_dimension_is_a_change_of_coordinates() -> None:
    scale = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)
    z, momentum = normals(5, "z", (7, 2, 3)), normals(5, "p", (7, 2, 3))
    uniform = log_uniform((7, 2), Noise(5, "u"))
    step = torch.full((2, 3), 0.9, dtype=torch.float64)
    density, point = Density(quartic, (1.0,)), point_at(quartic, z)
    plain, rate = transition(density, point, momentum, uniform, step=step, num_leapfrog=4)

    def stretched(y: Tensor) -> tuple[Tensor]:
        return quartic(y / scale)

    there, other = transition(
        Density(stretched, (1.0,)),
        point_at(stretched, z * scale),
        momentum,
        uniform,
        step=step * scale,
        num_leapfrog=4,
    )
    assert torch.allclose(there.z / scale, plain.z, rtol=1e-9)
    assert torch.allclose(rate, other, rtol=1e-9)
    assert ((rate > 0.1) & (rate < 0.9)).any()


def test_running_off_is_a_rejection_and_a_density_that_is_no_number_is_not() -> None:
    z = normals(6, "z", (5, 2, 3))
    arguments = (normals(6, "p", z.shape), log_uniform((5, 2), Noise(6, "u")))
    huge = torch.full((2, 3), 1e40, dtype=torch.float64)
    density = Density(quartic, (1.0,))
    point, rate = transition(density, point_at(quartic, z), *arguments, step=huge, num_leapfrog=9)
    assert torch.equal(point.z, z)
    assert torch.equal(rate, torch.zeros(5, 2).double())
    assert all(torch.isfinite(value).all() for value in (*point.parts, *point.gradients))

    def broken(z: Tensor) -> tuple[Tensor]:
        return (torch.where(z[..., 0] > 0, math.nan, quartic(z)[0]),)

    small, density = torch.full((2, 3), 0.2).double(), Density(broken, (1.0,))
    point, _ = transition(density, point_at(broken, -z.abs() - 0.01), *arguments, step=small, num_leapfrog=9)
    assert torch.equal(torch.isnan(point.parts[0]), point.z[..., 0] > 0)
    assert torch.isnan(point.parts[0]).any()


# --- the path and its weights


@pytest.mark.parametrize("num_temperatures", [1, 2, 7, 500])
def test_schedules_rise_from_zero_to_one(num_temperatures: int) -> None:
    linear, sigmoid = (inverse_temperatures(name, num_temperatures) for name in ("linear", "sigmoid"))
    t = np.arange(num_temperatures + 1) / num_temperatures
    assert linear == pytest.approx(t, abs=1e-15)
    curve = 1 / (1 + np.exp(-4 * (2 * t - 1)))
    assert sigmoid == pytest.approx((curve - curve[0]) / (curve[-1] - curve[0]), abs=1e-14)
    for b in (linear, sigmoid):
        assert (b[0], b[-1], len(b)) == (0.0, 1.0, num_temperatures + 1)
        assert all(low < high for low, high in itertools.pairwise(b))


@pytest.mark.parametrize("start", ["prior", "encoder"])
def test_ends_of_the_path_are_r_and_the_joint(start: str) -> None:
    model, path = linear_gaussian(), path_of(start)
    z = normals(1, "z", (6, B, L))
    point = point_at(path.log_parts, z)
    q = model.posterior(observations())
    r = model.prior() if start == "prior" else q
    joint = model.prior().log_prob(z) + model.likelihood(z).log_prob(observations())
    assert torch.allclose(point.log_density(path.coefficients(0.0)), r.log_prob(z).detach(), rtol=1e-12)
    assert torch.allclose(point.log_density(path.coefficients(1.0)), joint.detach(), rtol=1e-12)
    middle = 0.7 * r.log_prob(z) + 0.3 * joint
    assert torch.allclose(point.log_density(path.coefficients(0.3)), middle.detach(), rtol=1e-12)
    assert torch.allclose(path.scale(1.0), q.stddev, rtol=1e-12)
    assert torch.allclose(path.scale(0.0), r.stddev.expand(B, L), rtol=1e-12)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("start", "schedule"), BOTH_WAYS)
def test_the_mean_weight_is_p_of_x(start: str, schedule: str) -> None:
    # Forward E w = p(x), in reverse E 1/w = 1/p(x): false-fail 1e-8 a case, errors of 14 % are seen. Few temperatures
    # and long moves, so that a move at the wrong temperature, or a weight taken after the move, is far off.
    model, x = gentle()
    path, annealing, chains = path_of(start, model, x), annealer(3, 16_000, num_leapfrog=3, schedule=schedule), 16_000
    with torch.no_grad():
        exact = model.log_p_x(x)
        steps = tune(annealing, path, Noise(0, "pilot").stream())
        up = forward(annealing, path, steps, Noise(0, "up").stream())
        z = sample(model.exact_posterior(x), chains, Noise(0, "posterior"), like=x)
        down = reverse(annealing, path, steps, z, noise=Noise(0, "down").stream())
    assert 0.5 < up.acceptance.mean() < 0.85
    assert (up.log_w - exact).exp().std() > 0.3, "weights without spread would test nothing"
    assert_mean((up.log_w - exact).exp(), torch.ones(B), detects=0.09)
    assert_mean((exact - down.log_w).exp(), torch.ones(B), detects=0.14)


@pytest.mark.parametrize("start", ["prior", "encoder"])
def test_one_temperature_is_importance_sampling(start: str) -> None:
    model, annealing = linear_gaussian(), annealer(1)
    with torch.no_grad():
        path = path_of(start, model)
        steps = tune(annealing, path, Noise(0, "pilot").stream())
        run = forward(annealing, path, steps, Noise(0, "run").stream())
        draws = draw(model, path.x, 6, Noise(0, "run"))
    assert steps.shape == (0, B)
    if start == "encoder":
        assert torch.allclose(run.log_w, draws.log_w, rtol=1e-12)
    else:
        z = Noise(0, "run").normal((6 * B, L), dtype=torch.float64).unflatten(0, (6, B))
        assert torch.allclose(run.log_w, model.likelihood(z).log_prob(path.x).detach(), rtol=1e-12)
    assert torch.equal(run.acceptance, torch.ones(6, B).double())
    down = reverse(annealing, path, steps, draws.z, noise=Noise(0, "run").stream())
    if start == "encoder":
        assert torch.equal(down.log_w, run.log_w)


@pytest.mark.parametrize("schedule", ["linear", "sigmoid"])
def test_chains_that_stand_still_have_the_weight_of_importance_sampling(schedule: str) -> None:
    path, still = path_of("encoder"), annealer(9, schedule=schedule)
    steps = torch.zeros(8, B, dtype=torch.float64)
    one = forward(annealer(1), path, steps[:0], Noise(0, "run").stream())
    nine = forward(still, path, steps, Noise(0, "run").stream())
    assert torch.allclose(nine.log_w, one.log_w, rtol=1e-10)
    assert torch.equal(nine.acceptance, torch.ones(6, B).double())


def test_where_q_is_the_posterior_every_weight_is_p_of_x() -> None:
    model = linear_gaussian("full", posterior="best")
    path, annealing = path_of("encoder", model), annealer(5)
    with torch.no_grad():
        steps = tune(annealing, path, Noise(0, "pilot").stream())
        up = forward(annealing, path, steps, Noise(0, "run").stream())
        down = reverse(annealing, path, steps, 3 * normals(0, "z", (6, B, L)), noise=Noise(0, "run").stream())
    exact = torch.from_numpy(exact_log_p_x()).expand(6, B)
    assert torch.allclose(up.log_w, exact, atol=1e-10)
    assert torch.allclose(down.log_w, exact, atol=1e-10)


# --- the steps, tuned and frozen


@pytest.mark.parametrize("start", ["prior", "encoder"])
def test_the_pilot_tunes_each_step_and_the_run_keeps_it(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, annealing = path_of(start), annealer(30, num_chains=50, num_leapfrog=3)
    with torch.no_grad():
        steps = tune(annealing, path, Noise(0, "pilot").stream())
    taken: list[tuple[tuple[float, float], Tensor]] = []

    def spy(density: Density, *args: object, **keys: object) -> object:
        taken.append((density.coefficients, keys["step"]))  # type: ignore[arg-type]
        return transition(density, *args, **keys)  # type: ignore[arg-type]

    monkeypatch.setattr(annealing_module, "transition", spy)
    b = inverse_temperatures("linear", 30)
    up = forward(annealing, path, steps, Noise(0, "run").stream())
    down = reverse(annealing, path, steps, normals(0, "z", (50, B, L)), noise=Noise(0, "run").stream())
    assert len(taken) == 2 * 29
    for (coefficients, step), t in zip(taken, [*range(1, 30), *range(29, 0, -1)], strict=True):
        assert coefficients == path.coefficients(b[t])
        assert torch.equal(step, steps[t - 1, :, None] * path.scale(b[t]))
    assert 0.5 < up.acceptance.mean() < 0.85
    assert 0.4 < down.acceptance.mean() < 0.9


def test_the_pilot_changes_a_run_only_by_its_steps() -> None:
    path, annealing = path_of("encoder"), annealer(8)
    with torch.no_grad():
        one, other = (tune(annealing, path, Noise(0, "pilot", place).stream()) for place in (0, 1))
        assert not torch.equal(one, other)
        runs = [forward(annealing, path, steps, Noise(0, "run").stream()).log_w for steps in (one, other, one.clone())]
    assert torch.equal(runs[0], runs[2])
    assert not torch.equal(runs[0], runs[1])


class Opaque(Distribution):
    """Independent normal numbers of the event's shape `[L, 1]`, which tell neither their scale nor take any noise."""

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.inner = Independent(Normal(loc[..., None], scale[..., None]), 2)
        super().__init__(self.inner.batch_shape, self.inner.event_shape, validate_args=False)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.inner.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.inner.log_prob(value)


class Shaped:
    """The linear Gaussian model with a latent of shape `[L, 1]`."""

    def __init__(self) -> None:
        self.inner = linear_gaussian()

    def posterior(self, x: Tensor) -> Opaque:
        q = self.inner.posterior(x).base_dist  # type: ignore[union-attr]
        return Opaque(q.loc, q.scale)

    def prior(self) -> Opaque:
        return Opaque(torch.zeros(L).double(), torch.ones(L).double())

    def likelihood(self, z: Tensor) -> Distribution:
        return self.inner.likelihood(z[..., 0])


@pytest.mark.parametrize("start", ["prior", "encoder"])
def test_any_shape_of_latent_and_any_distribution_will_do(start: str) -> None:
    keys = {"num_chains": 400, "num_temperatures": 40, "num_leapfrog": 2, "start": start}
    result = AIS(**keys).evaluate(Shaped(), observations(), Request())  # type: ignore[arg-type]
    # Four examples: |z| > 6 has probability 1e-8.
    assert np.abs((result.examples["log_px"] - exact_log_p_x()) / result.examples["log_px_se_mc"]).max() < 6
    assert result.examples["log_px_se_mc"].max() < 0.1


# --- the evaluator


@pytest.fixture
def short_pilot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the steps do not matter, a pilot costs more than the run."""
    monkeypatch.setattr(annealing_module, "PILOT_TRANSITIONS", 5)
    monkeypatch.setattr(annealing_module, "PILOT_WARM_UP", 2)


def many(count: int = 13) -> Tensor:
    return observations().repeat(count // B + 1, 1)[:count]


def test_error_bars_of_ais_cover_and_its_gate_passes() -> None:
    model, x = gentle()
    x = x.repeat(15, 1)
    result = AIS(num_chains=300, num_temperatures=6, num_leapfrog=2, block_size=30).evaluate(model, x, Request())
    z = (result.examples["log_px"] - model.log_p_x(x).detach().numpy()) / result.examples["log_px_se_mc"]
    # The variance of 60 z-values lies outside [0.35, 2.2] with probability below 1e-6.
    assert 0.35 < np.mean(z**2) < 2.2
    assert result.tier == "importance"
    assert result.diagnostics["share_passing"] == 1.0
    assert result.metrics["log_px"]["n"] == 60
    assert result.metrics["acceptance"]["value"] == pytest.approx(0.65, abs=0.15)
    few = AIS(num_chains=16, num_temperatures=5).evaluate(linear_gaussian(), many(5), Request())
    assert np.isnan(few.examples["pareto_k"]).all(), "16 chains have no tail to speak of"
    assert few.diagnostics["pareto_k_max"] is None
    assert few.tier == "lower-bound-only"


def test_log_of_a_mean_has_the_error_that_the_delta_method_gives() -> None:
    log_w = normals(0, "log_w", (5, 3)) - torch.tensor([0.0, 2000.0, -2000.0])
    estimate, ess = mean_weight(log_w)
    value, se = torch.from_numpy(estimate.value), torch.from_numpy(estimate.se_mc)
    w = (log_w - log_w.mean(0)).exp()
    assert torch.allclose(value, w.mean(0).log() + log_w.mean(0), rtol=1e-12)
    assert torch.allclose(se, w.std(0) / w.mean(0) / math.sqrt(5), rtol=1e-12)
    assert torch.allclose(torch.from_numpy(estimate.log_bias), -0.5 * se**2, rtol=1e-12)
    assert torch.allclose(ess, w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-12)


@pytest.mark.usefixtures("short_pilot")
def test_threads_ranks_and_padding_change_no_byte() -> None:
    def run(count: int, workers: int) -> dict[str, np.ndarray]:
        evaluator = AIS(num_chains=3, num_temperatures=6, num_leapfrog=1, block_size=5, workers=workers)
        return evaluator.evaluate(linear_gaussian(), many(count), Request(seed=4)).examples

    one, two, head = run(13, 1), run(13, 2), run(7, 1)
    for name, column in one.items():
        assert column.tobytes() == two[name].tobytes(), name
        assert column[:7].tobytes() == head[name].tobytes(), name
    assert len(set(one["log_px"].tolist())) == 13, "examples that are alike have noise of their own"


@pytest.mark.usefixtures("short_pilot")
def test_every_latent_that_is_decoded_is_counted() -> None:
    class Counting(LinearGaussian):
        decoded = 0

        def likelihood(self, z: Tensor) -> Independent:  # type: ignore[type-arg]
            self.decoded += z[..., 0].numel()
            return super().likelihood(z)

    model = linear_gaussian()
    model.__class__ = Counting
    for num_temperatures in (1, 6):
        model.decoded = 0  # type: ignore[assignment]
        evaluator = AIS(num_chains=3, num_temperatures=num_temperatures, num_leapfrog=2, block_size=5, workers=1)
        result = evaluator.evaluate(model, many(10), Request())
        assert result.decoder_evaluations == 2 * (model.decoded - CHECKED)  # each of them with its gradient


@pytest.mark.usefixtures("short_pilot")
@pytest.mark.parametrize("start", ["prior", "encoder"])
def test_an_encoder_that_is_no_number_fails_the_run_although_it_enters_no_weight_of_the_prior(start: Start) -> None:
    model = linear_gaussian()
    with torch.no_grad():
        model.raw_scale[0] = math.nan
    with pytest.raises(RunFailedError, match=r"^example 0: "):
        AIS(num_chains=3, num_temperatures=5, num_leapfrog=2, start=start).evaluate(model, many(4), Request())


@pytest.mark.usefixtures("short_pilot")
def test_what_is_no_number_fails_the_run_and_names_the_example() -> None:
    class Broken(LinearGaussian):
        def likelihood(self, z: Tensor) -> Distribution:  # type: ignore[override]
            likelihood = super().likelihood(z)

            class Wrapped:
                def log_prob(self, x: Tensor) -> Tensor:
                    bad = (x[:, 0] == 99.0) & (z[..., 0] < -0.5)
                    return torch.where(bad, math.nan, likelihood.log_prob(x))

            return Wrapped()  # type: ignore[return-value]

    model, x = linear_gaussian(), many(13)
    model.__class__ = Broken
    x[8, 0] = 99.0
    with pytest.raises(RunFailedError, match=r"^example 8: a log-weight is NaN$"):
        AIS(num_chains=3, num_temperatures=6, num_leapfrog=2, block_size=5, start="prior").evaluate(model, x, Request())


def test_discrete_latents_are_refused() -> None:
    class Discrete(LinearGaussian):
        def prior(self) -> Distribution:  # type: ignore[override]
            return Independent(Bernoulli(torch.full((L,), 0.5, dtype=torch.float64)), 1)

    model = linear_gaussian()
    model.__class__ = Discrete
    with pytest.raises(ValueError, match="these are discrete; use importance sampling"):
        AIS(num_temperatures=3).evaluate(model, many(3), Request())
