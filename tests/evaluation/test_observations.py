"""Data off the support of a likelihood never get a number, and nothing that is an extra costs an estimate."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    Dirichlet,
    Distribution,
    Exponential,
    Gamma,
    Geometric,
    HalfNormal,
    Independent,
    LogNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    Uniform,
)

from elbo_bench.cli import main
from elbo_bench.distributions import (
    BernoulliArray,
    CategoricalArray,
    ContinuousBernoulliArray,
    DiscretisedLogisticArray,
    NormalArray,
)
from elbo_bench.evaluation import evaluate, observations
from elbo_bench.evaluation import importance as importance_module
from elbo_bench.evaluation.estimate import Estimate
from elbo_bench.evaluation.exact.log_p_x import Exact, exact_log_p_x

N, D, LATENTS = 12, 6, 2


class VAE(nn.Module):
    """A small model of any likelihood, made from logits `[*lead, D]`."""

    def __init__(self, family: Callable[[Tensor], Distribution]) -> None:
        super().__init__()
        self.encoder, self.decoder, self.family = nn.Linear(D, 2 * LATENTS), nn.Linear(LATENTS, D), family
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))

    def posterior(self, x: Tensor) -> Distribution:
        mean, log_scale = self.encoder(torch.tanh(x.to(self.encoder.weight.dtype).flatten(1))).chunk(2, -1)
        return Independent(Normal(mean, (0.1 * log_scale).exp()), 1)

    def prior(self) -> Distribution:
        return Independent(Normal(torch.zeros(LATENTS), torch.ones(LATENTS)), 1)

    def likelihood(self, z: Tensor) -> Distribution:
        return self.family(self.decoder(z))


def unchecked(family: Any, *names: str) -> Callable[[Tensor], Distribution]:
    """A family of torch's that does not check its values: it returns a number for anything."""
    return lambda logits: Independent(
        family(*(logits.exp() for _ in names), validate_args=False), 1, validate_args=False
    )


BINARY = torch.arange(N * D).reshape(N, D).remainder(2).float()
UNIT = torch.linspace(0.05, 0.95, N * D).reshape(N, D)
COUNTS = torch.arange(N * D).reshape(N, D).remainder(4).float()
FAMILIES: dict[str, tuple[Callable[[Tensor], Distribution], Tensor, list[float]]] = {
    # Family, data on its support, values off it.
    "BernoulliArray": (lambda u: BernoulliArray(u, 1), BINARY, [0.5, -1.0, 2.0, math.nan]),
    "Bernoulli": (
        lambda u: Independent(Bernoulli(logits=u, validate_args=False), 1, validate_args=False),
        BINARY,
        [0.5, -1.0, 2.0],
    ),
    "CategoricalArray": (lambda u: CategoricalArray(torch.stack([u] * 4, -1), 1), COUNTS, [0.5, -1.0, 4.0]),
    "Categorical": (
        lambda u: Independent(
            Categorical(logits=torch.stack([u] * 4, -1), validate_args=False), 1, validate_args=False
        ),
        COUNTS,
        [0.5, -1.0, 4.0],
    ),
    "DiscretisedLogisticArray": (lambda u: DiscretisedLogisticArray(u, u, 4, 1), COUNTS, [0.5, -1.0, 4.0]),
    "ContinuousBernoulliArray": (lambda u: ContinuousBernoulliArray(u, 1), UNIT, [-0.1, 1.1, math.nan]),
    "ContinuousBernoulli": (
        lambda u: Independent(ContinuousBernoulli(logits=u, validate_args=False), 1, validate_args=False),
        UNIT,
        [-0.1, 1.1],
    ),
    "Beta": (unchecked(Beta, "a", "b"), UNIT, [-0.1, 1.1]),
    "NormalArray": (lambda u: NormalArray(u, torch.zeros_like(u), 1), UNIT, [math.nan]),
    "Poisson": (unchecked(Poisson, "rate"), COUNTS, [0.5, -1.0]),
    "Geometric": (
        lambda u: Independent(Geometric(logits=u, validate_args=False), 1, validate_args=False),
        COUNTS,
        [0.5],
    ),
    "NegativeBinomial": (
        lambda u: Independent(NegativeBinomial(5.0, logits=u, validate_args=False), 1, validate_args=False),
        COUNTS,
        [0.5, -1.0],
    ),
    "Binomial": (
        lambda u: Independent(Binomial(3, logits=u, validate_args=False), 1, validate_args=False),
        COUNTS,
        [0.5, 4.0],
    ),
    "Exponential": (unchecked(Exponential, "rate"), UNIT, [-0.5]),
    "Gamma": (unchecked(Gamma, "a", "b"), UNIT, [-0.5]),
    "HalfNormal": (unchecked(HalfNormal, "scale"), UNIT, [-0.5]),
    "LogNormal": (unchecked(LogNormal, "loc", "scale"), UNIT, [-0.5]),
    "Dirichlet": (
        lambda u: Dirichlet(u.exp(), validate_args=False),
        torch.softmax(UNIT * 3, -1),
        [0.9],  # a row that does not sum to one
    ),
}
CASES = [pytest.param(name, value, id=f"{name} {value}") for name, (_, _, off) in FAMILIES.items() for value in off]


@pytest.mark.parametrize("name", FAMILIES)
def test_data_on_the_support_are_scored(name: str) -> None:
    family, x, _ = FAMILIES[name]
    assert math.isfinite(evaluate(VAE(family), x, num_samples=20).metrics["log_px"]["value"])


@pytest.mark.parametrize("truth", ["auto", "importance"])
@pytest.mark.parametrize(("name", "value"), CASES)
def test_data_off_the_support_are_refused_by_name(
    name: str, value: float, truth: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observations, "_CHUNK_VALUES", 8)
    family, x, _ = FAMILIES[name]
    x = x.clone()
    x[7, 3] = value
    with pytest.raises(ValueError, match=r"^example 107 (holds|is not on)") as refused:
        evaluate(VAE(family), x, num_samples=20, truth=truth, ids=torch.arange(100, 100 + N))
    line = str(refused.value)
    assert "\n" not in line
    assert ": " in line
    if name != "Dirichlet":
        assert f"holds {value:g} at 3, but the likelihood takes " in line


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.float64])
def test_binary_data_of_any_type_are_the_same_data(dtype: torch.dtype) -> None:
    model = VAE(lambda u: BernoulliArray(u, 1))
    expected = evaluate(model, BINARY, num_samples=20).metrics["log_px"]["value"]
    assert evaluate(model, BINARY.to(dtype), num_samples=20).metrics["log_px"]["value"] == pytest.approx(expected)


def test_a_support_that_depends_on_the_latent_is_not_checked() -> None:
    def around(u: Tensor) -> Distribution:
        return Independent(Uniform(u - 2, u + 2, validate_args=False), 1, validate_args=False)

    found = evaluate(VAE(around), UNIT, num_samples=50, truth="importance")
    assert math.isfinite(found.metrics["log_px"]["value"])


def test_whole_numbers_reach_a_model_that_needs_them() -> None:
    class Tokens(VAE):
        def __init__(self) -> None:
            super().__init__(lambda u: Independent(Categorical(logits=torch.stack([u, -u, 0 * u], -1)), 1))
            self.embedding = nn.Embedding(3, 1)

        def posterior(self, x: Tensor) -> Distribution:
            return super().posterior(self.embedding(x)[..., 0])

    x = torch.arange(N * D).reshape(N, D).remainder(3)
    assert math.isfinite(evaluate(Tokens(), x, num_samples=20).metrics["log_px"]["value"])


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, 1e-30, math.inf])
def test_a_bernoulli_array_gives_nothing_off_zero_and_one(value: float) -> None:
    p = BernoulliArray(torch.zeros(3, 4, requires_grad=True), 1)
    x = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, value, 1.0, 0.0]])
    found = p.log_prob(x[:, None])
    assert torch.equal(found.isneginf(), torch.tensor([[False] * 3, [True] * 3]))
    assert torch.equal(p.cross_log_prob(x).isneginf(), torch.tensor([[False, True]] * 3))
    (gradient,) = torch.autograd.grad(p.log_prob(x[:1]).sum(), p.logits)
    assert gradient.isfinite().all()


def test_training_on_data_off_the_support_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lab_of_greys.py").write_text(
        "from torch import nn\nfrom torch.distributions import *\n"
        "class Grey(nn.Module):\n"
        "    def __init__(self, info) -> None:\n"
        "        super().__init__(); self.e, self.d = nn.Linear(info.num_dims, 4), nn.Linear(2, info.num_dims)\n"
        "    def posterior(self, x):\n"
        "        m, s = self.e(x.flatten(1) / 16).chunk(2, -1); return Independent(Normal(m, s.exp()), 1)\n"
        "    def prior(self): z = self.d.weight.new_zeros(2); return Independent(Normal(z, z + 1), 1)\n"
        "    def likelihood(self, z):\n"
        "        h = self.d(z).unflatten(-1, (8, 8))\n"
        "        return Independent(Bernoulli(logits=h, validate_args=False), 2, validate_args=False)\n"
    )
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "grey.yaml").write_text("target: lab_of_greys:Grey\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["train", "--conf", "conf", "model=grey", "data.values=levels", "tracking=none"]) == 2
    error = capsys.readouterr().err
    assert "data=digits on model=grey: train example 0 holds " in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


# What is an extra costs no estimate.


class Plain:
    """The methods of a model without `nn.Module`: it cannot be copied into float64."""

    def __init__(self) -> None:
        self.inner = VAE(lambda u: NormalArray(u, torch.zeros_like(u), 1))
        self.posterior, self.prior, self.likelihood = self.inner.posterior, self.inner.prior, self.inner.likelihood


class Keeps(VAE):
    """Keeps a tensor with a graph: `deepcopy` refuses it."""

    def __init__(self) -> None:
        super().__init__(lambda u: NormalArray(u, torch.zeros_like(u), 1))
        self.last = self.decoder(torch.ones(LATENTS))


class Single(VAE):
    """Computes in float32 only."""

    def likelihood(self, z: Tensor) -> Distribution:
        return super().likelihood(z.float())


class NoDerivative(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, u: Tensor) -> Tensor:
        return u.clone()

    @staticmethod
    def backward(*_: Any) -> Tensor:
        raise RuntimeError("its derivative is not implemented")


class FirstOnly(torch.autograd.Function):
    """Has a derivative, which has none."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return u.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return gradients[0] + 0 * NoDerivative.apply(u)


class Layers(VAE):
    """Names layers that are no partition of its latent."""

    latent_layers = {"z1": slice(0, 1)}  # noqa: RUF012


def normal(u: Tensor) -> Distribution:
    return NormalArray(u, torch.zeros_like(u), 1)


EXTRAS: dict[str, tuple[Callable[[], Any], str]] = {
    "a plain class": (Plain, "no exact log p(x): "),
    "a kept tensor": (Keeps, "no exact log p(x): "),
    "float32 only": (lambda: Single(normal), "no exact log p(x): "),
    "no second derivatives": (lambda: VAE(lambda u: normal(FirstOnly.apply(u))), "no fitted proposal for 12 of 12"),
    "wrong layers": (lambda: Layers(normal), "no active units: ValueError: latent_layers="),
}


@pytest.mark.parametrize("name", EXTRAS)
def test_an_extra_that_fails_becomes_a_note(name: str) -> None:
    make, note = EXTRAS[name]
    result = evaluate(make(), UNIT, num_samples=2000)
    assert any(line.startswith(note) for line in result.diagnostics["notes"]), result.diagnostics["notes"]
    expected = evaluate(VAE(normal), UNIT, num_samples=2000, truth="importance").metrics["elbo_mc"]["value"]
    assert result.metrics["elbo_mc"]["value"] == pytest.approx(expected, abs=1e-5)
    json.dumps(result.diagnostics)


@pytest.mark.parametrize("broken", ["exact_log_p_x", "_active_units"])
@pytest.mark.parametrize(
    "error", [RuntimeError("x"), ValueError("x"), TypeError("x"), AssertionError("x"), MemoryError()]
)
def test_whatever_an_extra_raises_the_estimate_stands(
    broken: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(importance_module, broken, breaks)
    result = evaluate(VAE(normal), UNIT, num_samples=40)
    assert math.isfinite(result.metrics["log_px"]["value"])
    assert len(result.diagnostics["notes"]) == 1


def test_a_latent_that_is_a_number_is_scored() -> None:
    class Scalar(VAE):
        def posterior(self, x: Tensor) -> Distribution:
            mean = self.encoder(x)[:, 0]
            return Normal(mean, torch.ones_like(mean))

        def prior(self) -> Distribution:
            return Normal(torch.tensor(0.0), torch.tensor(1.0))

        def likelihood(self, z: Tensor) -> Distribution:
            return super().likelihood(torch.stack([z, -z], -1))

    result = evaluate(Scalar(normal), UNIT, num_samples=2000)
    assert result.metrics["active_units"]["value"] in (0, 1)
    z = torch.linspace(-8, 8, 4001)
    model = Scalar(normal)
    joint = model.likelihood(z).log_prob(UNIT[:, None]) + model.prior().log_prob(z)
    truth = torch.logsumexp(joint, 1) + math.log(16 / 4000)
    assert np.abs(result.examples["log_px"] - truth.detach().numpy()).max() < 0.1


def test_a_run_whose_pictures_fail_is_recorded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(*_: Any) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr("elbo_bench.runs.train._draw_pictures", breaks)
    words = ["model.hidden=[8]", "trainer.max_epochs=1", "evaluation.num_samples=20", "evaluation.num_examples=20"]
    assert main(["train", *words, "tracking=none"]) == 0
    assert "no pictures were drawn: RuntimeError: no such operation" in capsys.readouterr().err
    assert len(list(Path("runs").glob("*/result.json"))) == 1


# Exact values that estimates contradict.


@pytest.mark.parametrize("shift", [-0.5, 0.5])
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_an_exact_value_that_estimates_contradict_is_not_used(
    shift: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(*arguments: Any, **keys: Any) -> Exact:
        found = exact_log_p_x(*arguments, **keys)
        assert found is not None
        wrong = np.arange(N) < share * N
        log_px = Estimate(found.log_px.value + shift * wrong, found.log_px.se_mc)
        return Exact(found.method, log_px, found.decoder_evaluations)

    monkeypatch.setattr(importance_module, "exact_log_p_x", shifted)
    result = evaluate(VAE(normal), UNIT, num_samples=2000)
    assert result.tier == "importance"
    assert result.diagnostics["exact_contradicted"] == list(range(math.ceil(share * N)))
