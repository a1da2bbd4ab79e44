"""Laws of two layers of latents: densities by other means, gradients by hand, and a chain whose log p(x) is known."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from support.linear_gaussian_case import Fixed, assert_mean
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from elbo_bench.config import build
from elbo_bench.data_info import DataInfo
from elbo_bench.distributions.chained_normal import ChainedNormal
from elbo_bench.distributions.diagonal_normal import DiagonalNormal
from elbo_bench.draws import Draws, NoClosedFormError, draw, sample
from elbo_bench.evaluation import evaluate
from elbo_bench.evaluation.ais import AIS
from elbo_bench.evaluation.evaluator import Request, UnsuitableModelError
from elbo_bench.evaluation.latents import Latents
from elbo_bench.models.mlp_2layer import MLP2Layer
from elbo_bench.noise import Noise
from elbo_bench.objectives.dreg import DReG
from elbo_bench.objectives.iwae import IWAE
from elbo_bench.objectives.iwae_stl import IWAESTL

K, B, L1, L2 = 5, 4, 3, 2
SHAPE = (2, 3)
INFO = DataInfo(SHAPE, torch.linspace(0.1, 0.9, 6).reshape(SHAPE), 100, "discrete", 2)
NOISE = Noise(3, "latent")
X = (torch.randn(B, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) > 0).double()


def small() -> MLP2Layer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MLP2Layer(INFO, latent_dims=(L1, L2), hidden=(7, 6), hidden_between=(4, 8)).double()
        with torch.no_grad():  # biases that are all zero would hide one that is left out
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
    return model


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- densities ---


def affine(layer: nn.Linear, inputs: np.ndarray) -> np.ndarray:
    return inputs @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def tanh_network(body: nn.Module, inputs: np.ndarray) -> np.ndarray:
    for layer in body.modules():
        if isinstance(layer, nn.Linear):
            inputs = np.tanh(affine(layer, inputs))
    return inputs


def normal_layer(layer: nn.Module, inputs: np.ndarray, value: np.ndarray) -> np.ndarray:
    features = tanh_network(layer.body, inputs)
    scale = np.exp(affine(layer.log_scale, features))
    return scipy.stats.norm(affine(layer.loc, features), scale).logpdf(value).sum(-1)


def test_log_densities_are_the_sums_of_their_conditionals_by_numpy() -> None:
    model = small()
    draws = draw(model, X, K, NOISE)
    z = draws.z.detach().numpy()
    z1, z2 = z[..., :L1], z[..., L1:]
    up, down = model.encoder.head, model.prior_part.lower
    features = tanh_network(model.encoder.body, X.flatten(1).numpy())
    log_q = normal_layer(up.lower, features, z1) + normal_layer(up.upper, z1, z2)
    log_p = scipy.stats.norm.logpdf(z2).sum(-1) + normal_layer(down, z2, z1)
    np.testing.assert_allclose(draws.log_q_z_given_x.detach(), log_q, rtol=1e-12)
    np.testing.assert_allclose(draws.log_p_z.detach(), log_p, rtol=1e-12)
    logits = affine(model.decoder.outputs, tanh_network(model.decoder.body, z1))
    log_p_x = scipy.stats.bernoulli.logpmf(X.flatten(1).numpy(), 1 / (1 + np.exp(-logits))).sum(-1)
    np.testing.assert_allclose(draws.log_p_x_given_z.detach(), log_p_x, rtol=1e-11)


@pytest.mark.parametrize("which", ["posterior", "prior"])
def test_transport_changes_the_density_of_the_noise_by_its_jacobian(which: str) -> None:
    model = small()
    distribution = model.posterior(X[:1]) if which == "posterior" else model.prior()
    noise = numbers(L1 + L2, seed=4)

    def one(eps: Tensor) -> Tensor:
        return distribution.transport(eps.expand(*distribution.batch_shape, -1)).reshape(-1)

    jacobian = torch.autograd.functional.jacobian(one, noise)
    by_hand = scipy.stats.norm.logpdf(noise.numpy()).sum() - np.linalg.slogdet(jacobian.numpy())[1]
    z = one(noise).expand(*distribution.batch_shape, -1)
    assert distribution.log_prob(z).item() == pytest.approx(by_hand, rel=1e-12)
    # The conditional one moves with the other: a chain whose layers are apart would be two distributions.
    assert jacobian[L1:, :L1].abs().max() > 1e-3 if which == "posterior" else jacobian[:L1, L1:].abs().max() > 1e-3


def test_samples_broadcast_against_the_batch() -> None:
    posterior, prior = small().posterior(X), small().prior()
    z = numbers(6, 1, L1 + L2)
    grid = posterior.log_prob(z)
    assert grid.shape == (6, B)
    alone = torch.stack([small().posterior(X[b : b + 1]).log_prob(z)[:, 0] for b in range(B)], 1)
    torch.testing.assert_close(grid, alone, rtol=1e-12, atol=0)
    assert prior.log_prob(numbers(6, B, L1 + L2)).shape == (6, B)
    assert (prior.batch_shape, prior.event_shape) == ((), (L1 + L2,))
    assert (posterior.batch_shape, posterior.event_shape) == ((B,), (L1 + L2,))


def test_samples_follow_the_chain() -> None:
    """2 x 10^5 samples by torch's generator and by transport: moments of z1, and of z2 about its mean given z1.

    False-fail 1e-8 a call; errors of 0.02 standard deviations are seen.
    """
    model, count = small(), 200_000
    for distribution, order in [(model.posterior(X[:1]), 1), (model.prior(), -1)]:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(7)
            drawn = distribution.rsample((count,)).reshape(count, -1)
            moved = sample(distribution, count, NOISE, like=X, reparameterised=False).reshape(count, -1)
        for z in (drawn, moved):
            parts = [z[:, :L1], z[:, L1:]][::order]
            given = distribution.second(parts[0]).base_dist
            standard = torch.cat(
                [
                    (parts[0] - distribution.first.base_dist.loc) / distribution.first.base_dist.scale,
                    (parts[1] - given.loc) / given.scale,
                ],
                1,
            )
            assert_mean(standard, torch.zeros(L1 + L2), detects=0.021)
            assert_mean(standard.square(), torch.ones(L1 + L2), detects=0.03)


def test_what_has_no_closed_form_is_not_made_up() -> None:
    model = small()
    draws = draw(model, X, K, NOISE)
    with pytest.raises(NoClosedFormError, match=r"^KL between ChainedNormal and ChainedNormal has no closed form$"):
        draws.analytic_kl()
    with pytest.raises(NoClosedFormError, match="ChainedNormal"):
        draws.posterior_entropy()
    with pytest.raises(NoClosedFormError, match="ChainedNormal"):
        draws.analytic_kl_per_dim()
    for name in ("mean", "stddev", "variance"):
        with pytest.raises(NotImplementedError):
            getattr(draws.posterior, name)


def test_the_data_depend_on_the_lower_layer_alone() -> None:
    model, z = small(), numbers(K, B, L1 + L2)
    other = z.clone()
    other[..., L1:] = 9.0
    assert torch.equal(model.likelihood(z).log_prob(X), model.likelihood(other).log_prob(X))
    assert not torch.equal(model.prior().log_prob(z), model.prior().log_prob(other))
    assert model.latent_layers == {"z1": slice(0, L1), "z2": slice(L1, L1 + L2)}


def test_networks_are_those_of_the_paper() -> None:
    info = DataInfo((28, 28), torch.full((28, 28), 0.2), 100, "discrete", 2)
    model = build("model", "mlp_2layer", info=info)

    def widths(module: nn.Module) -> list[tuple[int, int]]:
        return [(each.in_features, each.out_features) for each in module.modules() if isinstance(each, nn.Linear)]

    assert widths(model.encoder.body) == [(784, 200), (200, 200)]
    assert widths(model.encoder.head.lower) == [(200, 100)] * 2
    assert widths(model.encoder.head.upper) == [(100, 100), (100, 100), (100, 50), (100, 50)]
    assert widths(model.prior_part) == [(50, 100), (100, 100), (100, 100), (100, 100)]
    assert widths(model.decoder) == [(100, 200), (200, 200), (200, 784)]
    torch.testing.assert_close(model.decoder.outputs.bias, torch.logit(info.train_mean).flatten())
    assert widths(small().encoder.head.upper.body) == [(L1, 4), (4, 8)]
    assert widths(small().prior_part.lower.body) == [(L2, 8), (8, 4)]  # mirrored
    glorot = math.sqrt(6 / 300)
    largest = model.encoder.head.lower.loc.weight.abs().max().item()
    assert 0.99 * glorot < largest <= glorot


# --- gradients ---


def test_the_path_weight_has_the_value_of_log_w_and_lacks_exactly_the_score() -> None:
    model, frozen = small(), small()  # the same numbers; what is differentiated is `model`
    draws = draw(model, X, K, NOISE)
    assert torch.equal(draws.path_log_w, draws.log_w)
    encoder, decoder = list(model.encoder.parameters()), [*model.decoder.parameters(), *model.prior_part.parameters()]
    weight = numbers(K, B, seed=9)
    found = torch.autograd.grad((weight * draws.path_log_w).sum(), encoder + decoder, retain_graph=True)
    whole = torch.autograd.grad((weight * draws.log_w).sum(), encoder, retain_graph=True)
    # By hand: z moves with the encoder, and log q(z|x) is that of an encoder that does not.
    z = model.posterior(X).transport(NOISE.normal([K, B, L1 + L2], dtype=torch.float64))
    log_joint = model.likelihood(z).log_prob(X) + model.prior().log_prob(z)
    path = (weight * (log_joint - frozen.posterior(X).log_prob(z))).sum()
    for one, other in zip(found, torch.autograd.grad(path, encoder + decoder), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    score = torch.autograd.grad((weight * model.posterior(X).log_prob(z.detach())).sum(), encoder)
    for one, with_score, dropped in zip(found[: len(encoder)], whole, score, strict=True):
        torch.testing.assert_close(one, with_score + dropped, rtol=1e-9, atol=1e-11)
        assert dropped.abs().max() > 1e-6


A = torch.tensor([[0.9, -0.4], [0.5, 0.8], [-0.7, 0.3]], dtype=torch.float64)  # of z1 on z2
W = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.8, -0.9], [0.4, 0.4, 0.6], [-0.6, 0.1, 0.7]], dtype=torch.float64)
S1, SX = 0.7, 0.5


class Replicas:
    """A linear chain with an encoder of its own for each row: one backward pass, R gradients."""

    def __init__(self, count: int) -> None:
        def copies(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
            return (scale * numbers(*shape, seed=seed)).expand(count, *shape).clone().requires_grad_()

        self.loc, self.log_scale = copies(L1, seed=1, scale=0.5), copies(L1, seed=2, scale=0.2)
        self.slope, self.shift = copies(L2, L1, seed=3, scale=0.5), copies(L2, seed=4, scale=0.4)
        self.log_spread = copies(L2, seed=5, scale=0.2)
        self.x = numbers(1, len(W), seed=6).expand(count, -1)

    def parameters(self) -> list[Tensor]:
        return [self.loc, self.log_scale, self.slope, self.shift, self.log_spread]

    def posterior(self, x: Tensor) -> ChainedNormal:
        def second(z1: Tensor) -> DiagonalNormal:
            loc = (self.slope * z1.unsqueeze(-2)).sum(-1) + self.shift
            return DiagonalNormal(loc, self.log_spread.exp().expand_as(loc))

        return ChainedNormal(DiagonalNormal(self.loc, self.log_scale.exp()), second, L2)

    def prior(self) -> ChainedNormal:
        return linear_prior()

    def likelihood(self, z: Tensor) -> Distribution:
        return linear_likelihood(z)

    def gradients(self, bound) -> Tensor:
        draws = draw(self, self.x, bound.samples_required, NOISE)
        found = torch.autograd.grad(bound(draws).sum(), self.parameters())
        return torch.cat([each.flatten(1) for each in found], 1)


def linear_prior() -> ChainedNormal:
    top = DiagonalNormal(torch.zeros(L2, dtype=torch.float64), torch.ones(L2, dtype=torch.float64))
    return ChainedNormal(top, lambda z2: DiagonalNormal(z2 @ A.mT, torch.full_like(z2 @ A.mT, S1)), L1, "last to first")


def linear_likelihood(z: Tensor) -> Distribution:
    return Independent(Normal(z[..., :L1] @ W.mT, SX, validate_args=False), 1, validate_args=False)


def test_dreg_is_unbiased_for_the_gradient_of_l_k_on_two_layers() -> None:
    """40,000 pairs on the same noise, K = 4: false-fail 1e-8, and an error of 4 % of the gradient's length is seen.

    IWAE-STL, whose path has the weights w~ and not their squares, is off by more than that and found out.
    """
    replicas, bounds = Replicas(40_000), {"iwae": IWAE(num_samples=4), "dreg": DReG(num_samples=4)}
    found = {name: replicas.gradients(bound) for name, bound in bounds.items()}
    length = found["iwae"].mean(0).norm().item()
    zero = torch.zeros(found["iwae"].shape[1], dtype=torch.float64)
    assert_mean(found["dreg"] - found["iwae"], zero, detects=0.04 * length)
    biased = replicas.gradients(IWAESTL(num_samples=4))
    with pytest.raises(AssertionError, match="in units of their standard error"):
        assert_mean(biased - found["iwae"], zero, detects=0.04 * length)


# --- a chain whose log p(x) is known ---


def known_log_p_x(x: Tensor) -> np.ndarray:
    lower = S1**2 * np.eye(L1) + (A @ A.mT).numpy()
    covariance = SX**2 * np.eye(len(W)) + W.numpy() @ lower @ W.numpy().T
    return scipy.stats.multivariate_normal(np.zeros(len(W)), covariance).logpdf(x.numpy())


class Chain(nn.Module):
    """A linear Gaussian chain; q(z1|x) is the best with independent dimensions, and q(z2|z1) likewise."""

    latent_layers = {"z1": slice(0, L1), "z2": slice(L1, L1 + L2)}  # noqa: RUF012

    def __init__(self, widening: float = 1.0) -> None:
        super().__init__()
        lower = S1**2 * torch.eye(L1, dtype=torch.float64) + A @ A.mT
        precision = torch.linalg.inv(lower) + W.mT @ W / SX**2
        self.gain = nn.Parameter(torch.linalg.solve(precision, W.mT) / SX**2)
        self.scale = widening * precision.diagonal().rsqrt()
        above = torch.eye(L2, dtype=torch.float64) + A.mT @ A / S1**2
        self.slope = nn.Parameter(torch.linalg.solve(above, A.mT) / S1**2)
        self.spread = widening * above.diagonal().rsqrt()

    def posterior(self, x: Tensor) -> ChainedNormal:
        loc = x @ self.gain.mT
        first = DiagonalNormal(loc, self.scale.expand_as(loc))

        def second(z1: Tensor) -> DiagonalNormal:
            return DiagonalNormal(z1 @ self.slope.mT, self.spread.expand(*z1.shape[:-1], L2))

        return ChainedNormal(first, second, L2)

    def prior(self) -> ChainedNormal:
        return linear_prior()

    def likelihood(self, z: Tensor) -> Distribution:
        return linear_likelihood(z)


def chain_data(count: int) -> Tensor:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(11)
        return linear_likelihood(linear_prior().rsample((count,))).sample()


def test_the_mean_weight_is_p_x() -> None:
    """10^5 samples for each of 5 examples: false-fail 1e-8, an error of 0.03 nats is seen."""
    model, x = Chain(1.3), chain_data(5)
    with torch.no_grad():
        draws = draw(model, x, 100_000, NOISE)
    assert_mean((draws.log_w - torch.from_numpy(known_log_p_x(x))).exp(), torch.ones(5), detects=0.03)


def test_log_w_is_log_p_x_for_every_draw_where_q_is_the_posterior() -> None:
    def scalar(value: float) -> Tensor:
        return torch.full((1,), value, dtype=torch.float64)

    a, s1, w, sx = 0.8, 0.6, 1.4, 0.5

    class Scalar:
        def posterior(self, x: Tensor) -> ChainedNormal:
            precision, above = 1 / (a**2 + s1**2) + w**2 / sx**2, 1 + a**2 / s1**2
            first = DiagonalNormal(w / sx**2 / precision * x, scalar(precision**-0.5).expand_as(x))
            return ChainedNormal(
                first, lambda z: DiagonalNormal(a / s1**2 / above * z, torch.full_like(z, above**-0.5)), 1
            )

        def prior(self) -> ChainedNormal:
            top = DiagonalNormal(scalar(0), scalar(1))
            return ChainedNormal(top, lambda z: DiagonalNormal(a * z, torch.full_like(z, s1)), 1, "last to first")

        def likelihood(self, z: Tensor) -> Distribution:
            return Independent(Normal(w * z[..., :1], sx, validate_args=False), 1, validate_args=False)

    x = numbers(B, 1)
    draws = draw(Scalar(), x, K, NOISE)
    exact = scipy.stats.norm(0, math.sqrt(w**2 * (a**2 + s1**2) + sx**2)).logpdf(x[:, 0].numpy())
    np.testing.assert_allclose(draws.log_w, np.broadcast_to(exact, (K, B)), rtol=1e-12)


@pytest.mark.parametrize("proposal", ["encoder", "mixture", "auto"])
def test_importance_sampling_finds_the_known_log_p_x(proposal: str) -> None:
    """40 examples: a correct program has one beyond 5 of its errors with probability 2e-5 at most, on a fixed seed."""
    model, x = Chain(1.2), chain_data(40)
    result = evaluate(model, x, num_samples=3000, proposal=proposal, bounds={"bound": IWAE(num_samples=7)})
    rows = result.examples
    error = np.abs(rows["log_px"] - known_log_p_x(x))
    assert rows["log_px_se_mc"].max() < 0.06
    assert (error <= 5 * rows["log_px_se_mc"]).all()
    assert "elbo_analytic" not in rows
    assert (rows["rate_se_mc"] > 0).all()
    assert (rows["gaps/bound"] > -5 * rows["gaps/bound_se_mc"]).all()


@pytest.mark.parametrize("proposal", ["widened", "refined"])
def test_a_proposal_that_needs_a_mean_says_so(proposal: str) -> None:
    with pytest.raises(UnsuitableModelError, match=f"^proposal={proposal}: .*did you mean proposal=mixture"):
        evaluate(Chain(), chain_data(3), num_samples=3000, proposal=proposal)


@pytest.mark.parametrize("start", ["prior", "encoder"])
def test_annealing_moves_both_layers(start: str) -> None:
    """A fixed seed; a stochastic lower bound of 6 examples within five of its errors."""
    x = chain_data(6)
    result = AIS(num_temperatures=60, num_chains=16, start=start).evaluate(Chain(1.5), x, Request())
    error = np.abs(result.examples["log_px"] - known_log_p_x(x))
    assert (error <= 5 * result.examples["log_px_se_mc"] + 0.01).all()
    assert result.examples["log_px_se_mc"].max() < 0.3


# --- active units, by layer ---


def flat_above() -> Chain:
    """A chain in which the second dimension of each layer says nothing of x, though it varies as much as any."""
    model = Chain()
    with torch.no_grad():
        model.gain[1] = 0
        model.slope[1] = 0
    return model


def test_active_units_are_counted_by_layer_where_no_mean_is_known() -> None:
    model, x = flat_above(), chain_data(300)
    with torch.no_grad():
        z1 = x @ model.gain.mT
        exact = torch.cat([z1, z1 @ model.slope.mT], 1).var(0, correction=0).numpy()
    assert ((exact > 0.05) == [True, False, True, True, False]).all()
    found = evaluate(model, x, num_samples=101, chunk_size=17)
    assert {name: found.metrics[name]["value"] for name in found.metrics if name.startswith("active")} == {
        "active_units": 3,
        "active_units_z1": 2,
        "active_units_z2": 1,
    }
    measured = Latents(num_samples=4).evaluate(model, x, Request())
    assert measured.diagnostics["active_units"] == "2+1"
    assert measured.diagnostics["posterior_mean"] == "sampled"
    assert measured.metrics["active_units_z2"] == {**measured.metrics["active_units"], "value": 1}
    table = measured.diagnostics["dimensions"]
    assert [row["layer"] for row in table] == ["z1"] * L1 + ["z2"] * L2
    for row, variance in zip(table, exact, strict=True):
        # 5.5 standard errors of the covariance's own noise, which both estimates share with `exact` but for the noise
        # of 256 samples: 0.06 / sqrt(300).
        assert row["variance_of_mean"] == pytest.approx(variance, rel=0.05, abs=0.004)


def test_layers_must_hold_each_dimension_once() -> None:
    model = flat_above()
    model.latent_layers = {"z1": slice(0, L1), "z2": slice(L1 + 1, L1 + L2)}  # type: ignore[misc]
    with pytest.raises(ValueError, match="each of the 5 dimensions must be in one layer"):
        Latents(num_samples=4).evaluate(model, chain_data(4), Request())


def test_the_same_bytes_whatever_threads_and_close_ones_whatever_chunks() -> None:
    model, x = Chain(1.2), chain_data(21)
    keys = {"num_samples": 150, "block_size": 8, "bounds": {"bound": IWAE(num_samples=3)}}
    one, two = (evaluate(model, x, workers=workers, **keys) for workers in (1, 2))
    for name, column in one.examples.items():
        assert column.tobytes() == two.examples[name].tobytes(), name
    other = evaluate(model, x, chunk_size=500, proposal="encoder", **keys)
    np.testing.assert_allclose(other.examples["elbo_mc"], one.examples["elbo_mc"], rtol=1e-10)


def test_noise_decides_the_draws_and_a_cut_through_them_changes_nothing() -> None:
    model, x = Chain(), chain_data(B)
    noise = numbers(K, B, L1 + L2)
    whole = draw(model, x, K, Fixed(noise))
    assert isinstance(whole, Draws)
    by_hand = x @ model.gain.mT + model.scale * noise[..., :L1]
    above = by_hand @ model.slope.mT + model.spread * noise[..., L1:]
    torch.testing.assert_close(whole.z, torch.cat([by_hand, above], -1), rtol=1e-13, atol=1e-13)
