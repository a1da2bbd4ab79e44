"""`elbo-bench speed` counts what it says it counts, and evaluation's memory does not grow with K."""

import json
import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from elbo_bench.cli import main
from elbo_bench.commands import speed
from elbo_bench.data_info import DataInfo
from elbo_bench.models.mlp import MLP
from elbo_bench.noise import Noise
from elbo_bench.runs.plain_loop import CHUNK, plain_loop

TINY = ["model.latent_dim=3", "model.hidden=[16]", "data.batch_size=50"]


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "BUDGET", 0.2)
    monkeypatch.setattr(speed, "ROUNDS", 3)
    monkeypatch.setattr(speed, "CHUNKS", 1)


@pytest.mark.usefixtures("brief")
def test_speed_counts_products_and_shows_rates_beside_their_ceiling(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed", "--json", *TINY, "objective=iwae", "objective.num_samples=4"]) == 0
    report = json.loads(capsys.readouterr().out)
    evaluating, training = report["rates"]["log-weights/s"], report["rates"]["steps/s"]
    assert list(evaluating) == ["decoder products", "evaluator", "plain loop"]
    assert list(training) == ["step products", "training step"]
    assert 0 < report["batch_share_of_step"]["median"] < 1
    decoder = 3 * 16 + 16 * 64
    assert evaluating["decoder products"]["flops"] == 2 * decoder
    # Every product has two more in the backward pass, but for the first: nothing asks for the gradient of x.
    encoder, first = 16 * 3 * 2, 64 * 16
    assert training["step products"]["flops"] == 2 * 50 * (3 * encoder + 2 * first + 4 * 3 * decoder)
    for rates in (evaluating, training):
        for found in rates.values():
            assert 0 < found["rate"]["min"] <= found["rate"]["median"] <= found["rate"]["max"]
            assert found["share_of_ceiling"]["median"] > 0
    assert evaluating["decoder products"]["share_of_ceiling"] == {"median": 1, "min": 1, "max": 1}
    assert report["largest_difference_nats"] < 1e-4
    assert (report["batch_size"], report["samples_per_example"], report["threads"]) == (50, 4, 1)


@pytest.mark.usefixtures("brief")
def test_speed_says_why_a_model_has_no_plain_loop(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed", "data=linear_gaussian_data", "model=linear_gaussian"]) == 0
    shown, told = capsys.readouterr()
    assert "plain loop: excluded, it knows only Bernoulli likelihoods" in shown
    assert "training step" in shown
    assert "of ceiling" in shown
    assert "measuring speed" in told


def test_a_mistake_is_named_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed", "objective=iwea"]) == 2
    assert "did you mean 'iwae'?" in capsys.readouterr().err


def test_the_plain_loop_is_log_mean_exp_of_the_textbook_s_weights() -> None:
    info = DataInfo((5, 4), torch.full((5, 4), 0.3, dtype=torch.float64), 100, "discrete", 2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MLP(info, latent_dim=3, hidden=(7,)).double()
    x = (Noise(0, "x").uniform((2, 5, 4)) < 0.3).double()
    count = CHUNK + 30  # the last chunk is smaller
    found = plain_loop(model, x, count, Noise(0, "test"))
    q, noise = model.posterior(x), Noise(0, "test").normal((count, 2, 3), dtype=torch.float64)
    z = q.base_dist.loc + q.base_dist.scale * noise
    logits = model.likelihood(z).logits
    log_p = -functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum((-1, -2))
    log_w = log_p - 0.5 * (z.square() - noise.square()).sum(-1) + q.base_dist.scale.log().sum(-1)
    torch.testing.assert_close(found, log_w.exp().mean(0).log(), rtol=1e-10, atol=0)


MEMORY = """
import resource, sys, torch
from elbo_bench.data_info import DataInfo
from elbo_bench.evaluation import evaluate
from elbo_bench.models.mlp import MLP

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform != "darwin" else 1024**2)

model = MLP(DataInfo((16,), torch.full((16,), 0.5), 100, "discrete", 2), latent_dim=50, hidden=(4,))
x = torch.zeros(32, 16)
keys = {"workers": 1, "proposal": "encoder", "pilot_share": 0.0}
evaluate(model, x, num_samples=2000, **keys)
before = peak()
evaluate(model, x, num_samples=20_000, **keys)
print(peak() - before)
"""


def test_peak_memory_does_not_grow_with_k() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    # The latents of 20,000 samples would take 128 MB, three log-densities of each 8 MB.
    assert int(done.stdout) <= 5, "MiB"
