"""The gate: each of its conditions alone keeps an example out, and the encoder's estimate has a gate of its own."""

import numpy as np
import pytest
import torch
from torch.distributions import Distribution

from elbo_bench.data_info import DataInfo
from elbo_bench.distributions import standard_normal
from elbo_bench.evaluation import evaluate
from elbo_bench.evaluation.importance import Importance
from elbo_bench.evaluation.importance_sampling import choice
from elbo_bench.evaluation.metrics import passes_gate
from elbo_bench.evaluation.scored_model import EncodedBlock
from elbo_bench.models.mlp import MLP
from elbo_bench.noise import Noise


@pytest.mark.parametrize(
    ("se", "pareto_k", "nats", "errors", "expected"),
    [
        (0.1, 0.5, 0.0, 0.0, True),
        (0.1, 0.71, 0.0, 0.0, False),
        (0.1, np.nan, 0.0, 0.0, False),
        (1e-9, np.nan, 0.0, 0.0, True),  # weights without spread have no tail
        (0.49, 0.5, 0.0, 0.0, True),
        (0.51, 0.5, 0.0, 0.0, False),  # bias / SE = SE / 2
        (0.1, 0.5, 0.2, 2.9, True),
        (0.1, 0.5, 0.2, 3.1, False),
        (0.1, 0.5, 0.009, 9.0, True),  # a hundredth of a nat is not worth a warning
        (0.1, 0.5, 0.26, 1.6, True),
        (0.1, 0.5, 0.26, 1.7, False),
    ],
)
def test_each_condition(se: float, pareto_k: float, nats: float, errors: float, expected: bool) -> None:
    columns = [np.array([value]) for value in (se, pareto_k, nats, errors)]
    assert passes_gate(*columns).tolist() == [expected]


def model_with_narrow_q() -> MLP:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = MLP(DataInfo((6,), torch.full((6,), 0.5), 1, "discrete", 2), latent_dim=2, hidden=(8,))
    with torch.no_grad():
        model.encoder.head.log_scale.bias.fill_(-2.0)
    return model


def test_the_encoders_estimate_is_judged_by_the_draws_of_a_better_proposal() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        x = torch.bernoulli(torch.full((9, 6), 0.5))
    result = evaluate(model_with_narrow_q(), x, num_samples=1500)
    rows, exact = result.examples, result.diagnostics["exact"]
    better = rows["proposal"] != 0
    assert better.any()
    short = np.maximum(rows["log_px_is"] - rows["L_1500"], 0)
    assert rows["encoder_missed"][better] == pytest.approx(short[better], abs=1e-12)
    own = [rows[f"encoder_{name}"] for name in ("pareto_k", "missed", "missed_errors")]
    assert exact["L_1500"]["share_passing"] == passes_gate(rows["L_1500_se_mc"], *own).mean()
    assert exact["log_px_is"]["share_passing"] == result.diagnostics["share_passing"]
    own = [rows[f"encoder_{name}"] for name in ("pareto_k", "missed", "missed_errors")]
    assert exact["L_1500"]["share_passing"] < exact["log_px_is"]["share_passing"]


def test_the_share_that_did_not_reach_the_target_is_stated() -> None:
    x = torch.ones(9, 6)
    keys = {"num_samples": 100, "proposal": "encoder", "truth": "importance"}
    never = evaluate(model_with_narrow_q(), x, target_se=1e-6, max_samples=200, **keys)
    always = evaluate(model_with_narrow_q(), x, target_se=50.0, **keys)
    assert (never.diagnostics["share_at_ceiling"], always.diagnostics["share_at_ceiling"]) == (1.0, 0.0)


def test_the_pilot_looks_beyond_the_prior() -> None:
    model, x = model_with_narrow_q(), torch.zeros(3, 6)
    pool = choice._pilot_pool(Importance(widening=3.0), EncodedBlock(model, x, model.posterior(x), model.prior()))
    far = torch.full((1, 3, 2), 4.0)  # 5.7 standard deviations of the prior from its mean
    prior = standard_normal(2, like=x)
    assert (pool.log_prob(far) > prior.log_prob(far) + 8).all()


def test_starts_of_the_fit_are_distant() -> None:
    model, x = model_with_narrow_q(), torch.zeros(3, 6)
    posterior: Distribution = model.posterior(x)
    z = Noise(1, "test").normal((400, 3, 2))
    log_w = -50 * z.square().sum(-1).double()  # the best draws are all in one place
    block = EncodedBlock(model, x, posterior, model.prior())
    drawn = choice._starts(block, z, log_w, Noise(0, "test").stream())[0][1:]
    distance = (drawn[:, None] - drawn[None]).norm(dim=-1) + torch.eye(len(drawn))[:, :, None]
    assert distance.min() >= choice._LEAST_DISTANCE
