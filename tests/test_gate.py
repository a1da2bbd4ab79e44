"""The gate: each of its conditions alone keeps an example out, and the encoder's estimate has a gate of its own."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Distribution

from elbo_bench.data_info import DataInfo
from elbo_bench.distributions import standard_normal
from elbo_bench.evaluation import choice, evaluate
from elbo_bench.evaluation.metrics import passes, trusted
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
    values = {"log_px_se": se, "pareto_k": pareto_k, "missed": nats, "missed_errors": errors}
    columns = {name: np.array([value]) for name, value in values.items()}
    assert trusted(columns).tolist() == [expected]
    own = {"L_9_se": columns["log_px_se"], **{f"encoder_{name}": column for name, column in columns.items()}}
    assert passes(own, "L_9", "encoder_").tolist() == [expected]


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
    assert exact["L_1500"]["share_passing"] == passes(rows, "L_1500", "encoder_").mean()
    assert exact["log_px_is"]["share_passing"] == result.diagnostics["share_passing"]
    assert exact["L_1500"]["share_passing"] < exact["log_px_is"]["share_passing"]


def test_the_share_that_did_not_reach_the_target_is_stated() -> None:
    x = torch.ones(9, 6)
    keys = {"num_samples": 100, "proposal": "encoder", "truth": "importance"}
    never = evaluate(model_with_narrow_q(), x, target_se=1e-6, max_samples=200, **keys)
    always = evaluate(model_with_narrow_q(), x, target_se=50.0, **keys)
    assert (never.diagnostics["share_at_ceiling"], always.diagnostics["share_at_ceiling"]) == (1.0, 0.0)


def test_the_pilot_looks_beyond_the_prior() -> None:
    model, x = model_with_narrow_q(), torch.zeros(3, 6)
    pool = choice._pilot_pool(model, model.posterior(x), 3.0, 3, x.device)
    far = torch.full((1, 3, 2), 4.0)  # 5.7 standard deviations of the prior from its mean
    prior = standard_normal(2, like=x)
    assert (pool.log_prob(far) > prior.log_prob(far) + 8).all()


def test_starts_of_the_fit_lie_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    fit = choice.refine

    def spy(model: MLP, x: torch.Tensor, starts: torch.Tensor, *rest: torch.Tensor, **keys: Any) -> Any:
        seen.append(starts)
        return fit(model, x, starts, *rest, **keys)

    monkeypatch.setattr(choice, "refine", spy)
    model, x = model_with_narrow_q(), torch.zeros(3, 6)
    posterior: Distribution = model.posterior(x)
    z = Noise(1, "test").normal((400, 3, 2))
    log_w = -50 * z.square().sum(-1).double()  # the best draws are all in one place
    choice._fit(model, x, posterior, z, log_w, choice.Effort(10, 1, 0), Noise(0, "test").stream())
    drawn = seen[0][1:]
    distance = (drawn[:, None] - drawn[None]).norm(dim=-1) + torch.eye(len(drawn))[:, :, None]
    assert distance.min() >= choice._APART
