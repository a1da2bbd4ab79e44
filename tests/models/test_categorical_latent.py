"""Laws of a discrete latent: every sum over it by brute force, and all that the evaluator says of it."""

import itertools
import math

import numpy as np
import pytest
import scipy.special
import torch
from support.linear_gaussian_case import assert_mean, linear_gaussian, observations
from torch import Tensor, nn

from elbo_bench.config import build
from elbo_bench.data_info import DataInfo
from elbo_bench.distributions.categorical_vector import CategoricalVector
from elbo_bench.draws import NotReparameterisableError, draw, draw_for, enumerate_latents
from elbo_bench.errors import UsageError
from elbo_bench.evaluation import Evaluation, evaluate
from elbo_bench.evaluation.evaluator import Request
from elbo_bench.evaluation.importance import Importance
from elbo_bench.evaluation.latents import Latents
from elbo_bench.models.categorical_latent import CategoricalLatent
from elbo_bench.noise import Noise
from elbo_bench.objectives.beta_tc import BetaTC
from elbo_bench.objectives.elbo_analytic import ELBOAnalytic
from elbo_bench.objectives.enumerated import Enumerated
from elbo_bench.objectives.iwae import IWAE

V, C, B, K = 2, 3, 5, 7
SHAPE = (2, 3)
INFO = DataInfo(SHAPE, torch.linspace(0.1, 0.9, 6).reshape(SHAPE), 100, "discrete", 2)
STATES = np.array(list(itertools.product(range(C), repeat=V)))
NOISE = Noise(3, "latent")
X = (torch.randn(B, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) > 0).double()


def small(**keys: object) -> CategoricalLatent:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        keys = {"num_variables": V, "num_categories": C, "hidden": (7, 6), "learn_prior": True, **keys}
        model = build("model", "categorical_latent", info=INFO, **keys).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.5 * torch.randn_like(parameter)
    return model


def network(module: nn.Module, inputs: np.ndarray) -> np.ndarray:
    layers = [each for each in module.modules() if isinstance(each, nn.Linear)]
    for number, layer in enumerate(layers):
        inputs = inputs @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        inputs = np.tanh(inputs) if number < len(layers) - 1 else inputs
    return inputs


class Brute:
    """All the model's sums over its states, in NumPy."""

    def __init__(self, model: CategoricalLatent, x: Tensor) -> None:
        flat = x.flatten(1).numpy()
        logits = network(model.encoder, flat).reshape(len(x), V, C)
        each = scipy.special.log_softmax(logits, -1)
        self.log_q = sum(each[:, v, STATES[:, v]] for v in range(V)).T  # [S, B]
        prior = scipy.special.log_softmax(model.prior_logits.detach().numpy(), -1)
        self.log_p = sum(prior[v, STATES[:, v]] for v in range(V))
        outputs = network(model.decoder, np.eye(C)[STATES].reshape(len(STATES), V * C))
        self.log_p_x_given_z = flat @ outputs.T - np.logaddexp(0, outputs).sum(1)
        self.log_joint = (self.log_p_x_given_z + self.log_p).T
        self.log_px = scipy.special.logsumexp(self.log_joint, 0)
        self.elbo = (np.exp(self.log_q) * (self.log_joint - self.log_q)).sum(0)
        log_posterior = self.log_joint - self.log_px
        self.gap = (np.exp(self.log_q) * (self.log_q - log_posterior)).sum(0)
        self.rate = (np.exp(self.log_q) * (self.log_q - self.log_p[:, None])).sum(0)


# --- the model ---


def test_probabilities_sum_to_one_and_are_numpy_s() -> None:
    model, brute = small(), Brute(small(), X)
    draws = enumerate_latents(model, model.posterior(X), X)
    assert draws.z[:, 0].tolist() == STATES.tolist()
    assert draws.z.dtype is torch.int64
    np.testing.assert_allclose(draws.log_q_z_given_x.detach(), brute.log_q, rtol=1e-12)
    np.testing.assert_allclose(draws.log_p_z.detach(), np.tile(brute.log_p[:, None], B), rtol=1e-12)
    np.testing.assert_allclose(draws.log_p_x_given_z.detach(), brute.log_p_x_given_z.T, rtol=1e-11)
    np.testing.assert_allclose(draws.log_q_z_given_x.detach().exp().sum(0), 1, rtol=1e-13)
    np.testing.assert_allclose(draws.log_p_z.detach().exp().sum(0), 1, rtol=1e-13)
    np.testing.assert_allclose(draws.analytic_kl().detach(), brute.rate, rtol=1e-11)
    np.testing.assert_allclose(draws.analytic_kl_per_dim().detach().sum(1), brute.rate, rtol=1e-11)
    entropy = -(np.exp(brute.log_q) * brute.log_q).sum(0)
    np.testing.assert_allclose(draws.posterior_entropy().detach(), entropy, rtol=1e-11)


def test_labels_are_drawn_with_their_probabilities() -> None:
    """10^5 draws for each example; false-fail 1e-8, a probability off by 0.016 is seen."""
    model = small()
    z = draw(model, X, 100_000, NOISE, reparameterised=False).z
    assert z.shape == (100_000, B, V)
    states = z[..., 0] * C + z[..., 1]
    found = torch.nn.functional.one_hot(states, C**V).double()
    assert_mean(found, np.exp(Brute(model, X).log_q).T, detects=0.016)


def test_a_label_without_mass_is_never_drawn_and_one_that_is_no_number_shows_in_its_density() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf], [0.0, -math.inf, -math.inf, 2.0, -math.inf]])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = CategoricalVector(logits).sample((50_000,))
        broken = CategoricalVector(torch.full((V, C), math.nan)).sample((4,))
    assert sorted(drawn[:, 0].unique().tolist()) == [1, 3]
    assert sorted(drawn[:, 1].unique().tolist()) == [0, 3]
    assert broken.tolist() == [[0] * V] * 4
    assert CategoricalVector(torch.full((V, C), math.nan)).log_prob(broken).isnan().all()


def test_the_smallest_level_draws_no_label_without_mass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, dtype, device: torch.zeros(shape, dtype=dtype, device=device))
    assert CategoricalVector(torch.tensor([[-math.inf, 0.0, 0.0], [0.0, 0.0, -math.inf]])).sample().tolist() == [1, 0]


def test_expanding_changes_nothing_but_the_batch() -> None:
    prior = small().prior()
    wide = prior.expand(torch.Size([4, 2]))
    assert (wide.batch_shape, wide.event_shape) == ((4, 2), (V,))
    z = torch.from_numpy(STATES)[:, None, None]
    torch.testing.assert_close(wide.log_prob(z), prior.log_prob(z).expand(-1, 4, 2))


def test_labels_have_no_mean_and_no_gradient() -> None:
    model = small()
    with pytest.raises(NotImplementedError, match="labels have no mean"):
        _ = model.posterior(X).mean
    with pytest.raises(NotReparameterisableError, match=r"^samples of CategoricalVector have no gradient$"):
        draw(model, X, K, NOISE)
    with pytest.raises(NotReparameterisableError):
        draw_for(IWAE(num_samples=3), model, X, NOISE)


def test_a_latent_that_only_repeats_is_decoded_once_with_the_same_values_and_gradients() -> None:
    model = small()
    widths: list[tuple[int, ...]] = []
    model.decoder.register_forward_hook(lambda _module, given, _: widths.append(tuple(given[0].shape)))
    every = torch.from_numpy(STATES)[:, None].expand(-1, B, -1)
    values = [model.likelihood(z).log_prob(X) for z in (every, every.contiguous())]
    assert widths == [(C**V, 1, V * C), (C**V, B, V * C)]
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=0)
    weight = torch.randn(C**V, B, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradients = [torch.autograd.grad((weight * each).sum(), list(model.decoder.parameters())) for each in values]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    single = torch.from_numpy(STATES)[:1].expand(4, V)  # a batch of one latent, without an axis of samples
    assert model.likelihood(single).batch_shape == (4,)
    alike = torch.ones(1, dtype=torch.int64).expand(4, V)  # labels that repeat are labels all the same
    torch.testing.assert_close(model.likelihood(alike).mean, model.likelihood(alike.contiguous()).mean)


def test_the_prior_is_learned_or_uniform() -> None:
    assert "prior_logits" in dict(small().named_parameters())
    fixed = small(learn_prior=False)
    assert "prior_logits" not in dict(fixed.named_parameters())
    np.testing.assert_allclose(fixed.prior().log_prob(torch.from_numpy(STATES)), -V * math.log(C), rtol=1e-12)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"num_variables": 6}, "num_variables=6, num_categories=8: 8^6 latents cannot be summed over; at most 131072"),
        ({"num_variables": 10**9, "num_categories": 2}, "2^1000000000 latents cannot be summed over; at most 131072"),
        ({"num_categories": 1}, "num_categories=1: a label that takes one value says nothing; at least 2"),
    ],
)
def test_too_many_latents_are_refused_in_one_line(keys: dict[str, int], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        build("model", "categorical_latent", info=INFO, **keys)
    assert str(raised.value).startswith("model=categorical_latent: ")
    assert str(raised.value).endswith(said)
    assert build("model", "categorical_latent", info=INFO, num_variables=17, num_categories=2).num_variables == 17


# --- what the evaluator says ---


def scored(**keys: object) -> tuple[Evaluation, Brute]:
    model = small()
    keys = {"num_samples": 400, "bounds": {"bound": Enumerated(), "iwae": IWAE(num_samples=3)}, **keys}
    return evaluate(model, X, **keys), Brute(model, X)  # type: ignore[arg-type]


def test_log_p_x_is_the_sum_over_all_states() -> None:
    result, brute = scored()
    assert (result.tier, result.estimator) == ("exact", "enumeration")
    np.testing.assert_allclose(result.examples["log_px"], brute.log_px, rtol=1e-13)
    assert not result.examples["log_px_se_mc"].any()


def test_an_enumerated_bound_is_exact_and_its_gap_is_the_divergence_from_the_posterior() -> None:
    rows = scored()[0].examples
    brute = Brute(small(), X)
    np.testing.assert_allclose(rows["bounds/bound"], brute.elbo, rtol=1e-13)
    np.testing.assert_allclose(rows["gaps/bound"], brute.gap, rtol=1e-10)
    assert not rows["bounds/bound_se_mc"].any()
    assert not rows["gaps/bound_se_mc"].any()
    assert rows["gaps/bound"].min() > 0.01


@pytest.mark.parametrize("proposal", ["encoder", "auto"])
@pytest.mark.parametrize("target_se", [None, 0.02])
def test_against_an_estimate_its_gap_has_the_error_of_the_estimate(proposal: str, target_se: float | None) -> None:
    result, brute = scored(truth="importance", proposal=proposal, target_se=target_se)
    rows = result.examples
    np.testing.assert_allclose(rows["bounds/bound"], brute.elbo, rtol=1e-13)
    np.testing.assert_allclose(rows["gaps/bound"], rows["log_px"] - brute.elbo, rtol=1e-10)
    assert (rows["log_px_se_mc"] > 0).all()
    np.testing.assert_allclose(rows["gaps/bound_se_mc"], rows["log_px_se_mc"], rtol=1e-9)
    # A fixed seed; 5 examples within 5 standard errors.
    assert (np.abs(rows["log_px"] - brute.log_px) <= 5 * rows["log_px_se_mc"]).all()


def test_sampled_bounds_of_labels_lie_below_log_p_x_and_around_their_values() -> None:
    """A fixed seed: each of 5 examples within 5 of its standard errors."""
    result, brute = scored(num_samples=5000)
    rows = result.examples
    joint, q = brute.log_joint, np.exp(brute.log_q)
    log_w = joint - brute.log_q
    three = np.broadcast_arrays(log_w[:, None, None], log_w[None, :, None], log_w[None, None])
    triples = scipy.special.logsumexp(np.stack(three), axis=0) - math.log(3)
    chance = q[:, None, None] * q[None, :, None] * q[None, None]
    expected = {"elbo_mc": brute.elbo, "elbo_analytic": brute.elbo, "bounds/iwae": (chance * triples).sum((0, 1, 2))}
    for name, value in expected.items():
        assert (np.abs(rows[name] - value) <= 5 * rows[f"{name}_se_mc"]).all(), name
        assert (rows[name] <= brute.log_px + 5 * rows[f"{name}_se_mc"]).all(), name
    np.testing.assert_allclose(rows["rate"], brute.rate, rtol=1e-11)
    assert not rows["rate_se_mc"].any()
    assert "active_units" not in result.metrics  # labels have no mean


def test_every_latent_that_is_decoded_counts() -> None:
    keys = {"proposal": "encoder", "pilot_share": 0.0, "truth": "importance"}
    with_it, without = scored(**keys)[0], scored(**keys, bounds={})[0]
    assert with_it.decoder_evaluations - without.decoder_evaluations == C**V * B
    assert without.decoder_evaluations == 400 * B
    for name, column in without.examples.items():
        if name != "decoded":
            assert column.tobytes() == with_it.examples[name].tobytes(), name


def test_chunks_and_threads_do_not_change_a_sum_over_all() -> None:
    one, two = scored(chunk_size=1, num_samples=20)[0], scored(chunk_size=64, num_samples=20, workers=2)[0]
    np.testing.assert_allclose(one.examples["bounds/bound"], two.examples["bounds/bound"], rtol=1e-13)
    single = small().float()
    rows = evaluate(single, X.float(), num_samples=20, bounds={"bound": Enumerated()}).examples
    assert rows["bounds/bound"].dtype == np.float64
    np.testing.assert_allclose(rows["bounds/bound"], one.examples["bounds/bound"], rtol=1e-5)


def test_a_sum_over_all_needs_no_samples_and_no_room_in_k() -> None:
    class Greedy(Enumerated):
        @property
        def samples_required(self) -> int:
            return 10**6

    assert np.isfinite(
        scored(num_samples=2, proposal="encoder", bounds={"bound": Greedy()})[0].examples["bounds/bound"]
    ).all()


def test_a_sum_over_all_is_refused_where_there_is_none() -> None:
    with pytest.raises(
        ValueError, match=r"^bounds: bound cannot be evaluated: a sum over z: the latent of DiagonalNormal"
    ):
        evaluate(linear_gaussian(), observations(), num_samples=20, bounds={"bound": Enumerated()})

    class DrawOnly:
        def draw(self, x: Tensor, num_samples: int, noise: Noise) -> object:
            return draw(small(), x, num_samples, noise, reparameterised=False)

    with pytest.raises(ValueError, match=r"^bounds: bound sums over every latent, and this model can only draw"):
        evaluate(DrawOnly(), X, num_samples=20, bounds={"bound": Enumerated()})


def test_a_bound_of_a_whole_batch_is_never_evaluated_by_block() -> None:
    with pytest.raises(
        ValueError, match=r"^bounds: tc depends on all examples of its batch, and examples are scored in blocks"
    ):
        Importance().check(Request(bounds={"bound": ELBOAnalytic(), "tc": BetaTC(num_train=100)}))
    with pytest.raises(ValueError, match="all examples of its batch"):
        evaluate(linear_gaussian(), observations(), num_samples=20, bounds={"tc": BetaTC(num_train=100)})


def test_latents_of_labels_have_rates_and_no_active_units() -> None:
    model, brute = small(), Brute(small(), X)
    result = Latents(num_samples=4000).evaluate(model, X, Request())
    rows, q = result.examples, np.exp(brute.log_q)
    log_q_z = np.log(q.mean(1))
    exact = {
        "marginal_kl": (q * (log_q_z - brute.log_p)[:, None]).sum(0),
        "mutual_information": (q * (brute.log_q - log_q_z[:, None])).sum(0),
        "distortion": -(q * brute.log_p_x_given_z.T).sum(0),
    }
    for name, value in exact.items():  # a fixed seed: 15 numbers within 5 standard errors
        assert (np.abs(rows[name] - value) <= 5 * rows[f"{name}_se_mc"]).all(), name
    np.testing.assert_allclose(rows["rate"], brute.rate, rtol=1e-11)
    assert "active_units" not in result.metrics
    assert [set(row) for row in result.diagnostics["dimensions"]] == [{"dimension", "kl", "kl_se_test"}] * V
    kl = sum(row["kl"] for row in result.diagnostics["dimensions"])
    assert kl == pytest.approx(brute.rate.mean(), rel=1e-11)


def test_other_kinds_of_data_are_taken_with_their_likelihood() -> None:
    info = DataInfo((4,), torch.zeros(4), 100, "continuous")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(
            "model", "categorical_latent", info=info, num_variables=2, num_categories=3, likelihood="gaussian"
        ).double()
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = evaluate(model, x, num_samples=200, bounds={"bound": Enumerated()}).examples
    assert (rows["gaps/bound"] >= 0).all()
    with pytest.raises(UsageError, match="Bernoulli likelihood needs binary data"):
        build("model", "categorical_latent", info=info)
