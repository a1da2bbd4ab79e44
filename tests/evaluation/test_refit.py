"""Refit-then-score: a spoiled encoder is mended on the scored examples, and nothing else is touched."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from elbo_bench.data_info import DataInfo
from elbo_bench.distributions import DiagonalNormal
from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation.evaluator import Evaluation, Request
from elbo_bench.evaluation.gap_parts.refit import _batch, encoder_parameters, refit_encoder
from elbo_bench.evaluation.gaps import Gaps
from elbo_bench.models.linear_gaussian import LinearGaussian
from elbo_bench.models.mlp import MLP

N, L, D, K = 11, 3, 5, 500
REFIT = Gaps(refit_steps=400, refit_samples=6, refit_batch_size=4, refit_lr=0.03)


def spoiled() -> LinearGaussian:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        info = DataInfo((D,), torch.randn(D, dtype=torch.float64), 100, "continuous")
        model = LinearGaussian(info, latent_dim=L, covariance="full", noise_std=0.7).double()
    model.set_best_posterior()
    with torch.no_grad():
        model.encoder.bias += torch.tensor([0.9, -0.7, 0.8], dtype=torch.float64)
        model.raw_scale += 0.5 * torch.eye(L, dtype=torch.float64)
    return model


@pytest.fixture(scope="module")
def x() -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(9)
        return 1.5 * torch.randn(N, D, dtype=torch.float64)


@pytest.fixture(scope="module")
def tuned(x: Tensor) -> LinearGaussian:
    model = refit_encoder(REFIT, spoiled(), x, Request(seed=5))
    assert isinstance(model, LinearGaussian)
    return model


def evaluate(model: nn.Module, x: Tensor, **keys: Any) -> Evaluation:
    defaults = {"num_samples": K, "block_size": 4, "workers": 1, "max_steps": 100}
    return Gaps(**{**defaults, **keys}).evaluate(model, x, Request(seed=5))  # type: ignore[arg-type]


def test_refit_brings_a_spoiled_encoder_near_the_posterior(x: Tensor) -> None:
    keys = {
        "refit_steps": REFIT.refit_steps,
        "refit_samples": REFIT.refit_samples,
        "refit_batch_size": 4,
        "refit_lr": REFIT.refit_lr,
    }
    result = evaluate(spoiled(), x, **keys)
    examples, exact = result.examples, spoiled().log_p_x(x).detach().numpy()
    assert (exact - examples["elbo"]).mean() > 2
    assert abs((exact - examples["elbo_refit"]).mean()) < 0.1
    assert (np.abs(exact - examples["log_px_refit"]) <= 6 * examples["log_px_refit_se_mc"] + 0.001).all()
    assert {"log_px_refit", "log_px_refit_se_mc", "elbo_refit", "elbo_refit_se_mc"} <= set(examples)
    assert result.metrics["elbo_refit"]["n"] == N


def test_refit_columns_are_apart_and_never_the_default(x: Tensor) -> None:
    plain, refit = evaluate(spoiled(), x), evaluate(spoiled(), x, refit_steps=7, refit_samples=3, refit_batch_size=50)
    assert not [name for name in plain.examples if "refit" in name]
    for name, column in plain.examples.items():
        assert column.tobytes() == refit.examples[name].tobytes(), name
    assert refit.decoder_evaluations - plain.decoder_evaluations == N * K + 2 * 7 * 3 * N


def test_the_given_model_is_not_touched_and_its_decoder_not_tuned(tuned: LinearGaussian, x: Tensor) -> None:
    model = spoiled().train()
    model.mean.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    again = refit_encoder(REFIT, model, x, Request(seed=5))
    assert isinstance(again, LinearGaussian)
    for name, value in model.state_dict().items():
        assert value.equal(before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [name for name, each in model.named_parameters() if not each.requires_grad] == ["mean"]
    assert model.training
    for name, value in again.state_dict().items():
        assert value.equal(tuned.state_dict()[name]), f"{name} differs on a second call"
        assert value.equal(before[name]) == (name in {"weight", "mean", "log_noise_std"}), name


def test_the_seed_is_what_a_refit_depends_on(x: Tensor) -> None:
    few = Gaps(refit_steps=3, refit_samples=2, refit_batch_size=4, refit_lr=0.01)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    fits = [refit_encoder(few, spoiled(), x, Request(seed=seed)) for seed in (1, 1, 2)]
    first, same, other = [fit.encoder.bias for fit in fits]  # type: ignore[attr-defined]
    assert first.equal(same)
    assert not first.equal(other)
    assert torch.get_num_threads() == threads
    assert torch.get_rng_state().equal(state)


def test_every_example_is_seen_equally_often() -> None:
    batches = [_batch(step, 4, N, 0) for step in range(22)]
    assert {len(batch) for batch in batches} == {4}
    assert torch.cat(batches).bincount().tolist() == [8] * N
    assert torch.cat(batches)[:N].sort().values.tolist() == list(range(N))
    assert _batch(3, 64, N, 0).sort().values.tolist() == list(range(N))


def test_the_encoders_parameters_are_found_by_what_depends_on_them(x: Tensor) -> None:
    def names(model: nn.Module, x: Tensor) -> set[str]:
        own = {id(parameter) for parameter in encoder_parameters(model, x)}  # type: ignore[arg-type]
        return {name for name, parameter in model.named_parameters() if id(parameter) in own}

    assert names(spoiled(), x) == {"encoder.weight", "encoder.bias", "raw_scale"}
    mlp = MLP(DataInfo((6,), torch.full((6,), 0.4), 10, "discrete", 2), latent_dim=2, hidden=(7,))
    found = names(mlp, torch.ones(3, 6))
    assert found == {name for name, _ in mlp.named_parameters() if name.startswith("encoder.")}


class Shared(LinearGaussian):
    """Reads the latent with the weights that write it: nothing belongs to the encoder alone but its scale."""

    def posterior(self, x: Tensor) -> DiagonalNormal:
        return DiagonalNormal(x @ self.weight, self.scale.exp().expand(len(x), -1))


def test_parameters_shared_with_the_decoder_are_not_tuned(x: Tensor) -> None:
    model = spoiled()
    model.__class__ = Shared
    model.scale = nn.Parameter(torch.zeros(L, dtype=torch.float64))
    assert [id(each) for each in encoder_parameters(model, x)] == [id(model.scale)]
    model.scale = nn.Parameter(torch.zeros(L, dtype=torch.float64), requires_grad=False)
    with pytest.raises(ValueError, match="refit_steps: q\\(z\\|x\\) has no parameters of its own"):
        encoder_parameters(model, x)


def test_what_is_no_module_is_refused(x: Tensor) -> None:
    class Plain:
        def __init__(self) -> None:
            model = spoiled()
            self.posterior, self.prior, self.likelihood = model.posterior, model.prior, model.likelihood

    with pytest.raises(ValueError, match="refit_steps: the model is no torch module"):
        refit_encoder(REFIT, Plain(), x, Request())


def test_a_bound_that_is_no_number_names_its_example(x: Tensor) -> None:
    class Broken(LinearGaussian):
        def posterior(self, x: Tensor) -> Distribution:  # type: ignore[override]
            q = super().posterior(x)
            return DiagonalNormal(torch.where(x[:, :1] == bad, torch.nan, q.mean), q.stddev)

    model, bad = spoiled(), float(x[7, 0])
    model.__class__ = Broken
    with pytest.raises(RunFailedError, match=r"^example 93: its bound is not finite at step"):
        refit_encoder(REFIT, model, x, Request(ids=100 - torch.arange(N)))
