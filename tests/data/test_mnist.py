"""Real MNIST, trained for a short while: the ordering that every paper of the field reports."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from elbo_bench.cli import main
from elbo_bench.results.record import read_examples


@pytest.mark.slow
def test_iwae_ends_with_a_better_log_px_and_a_looser_elbo(capsys: pytest.CaptureFixture[str]) -> None:
    if not os.environ.get("ELBO_BENCH_DATA"):
        pytest.skip("ELBO_BENCH_DATA is not set: this test reads the upstream files")
    results = {}
    for objective in ("elbo_analytic", "iwae"):
        words = ["data=mnist_dynamic", f"objective={objective}", "trainer.max_epochs=3", "trainer.validate_every=null"]
        assert main(["train", *words, "evaluation.num_examples=200", "evaluation.num_samples=500", "--json"]) == 0
        results[objective] = json.loads(capsys.readouterr().out)
    rows = {name: read_examples(Path(result["folder"])) for name, result in results.items()}
    assert rows["iwae"]["id"].tolist() == rows["elbo_analytic"]["id"].tolist()
    # Paired on identical images: the spread between images, some 25 nats, cancels.
    difference = rows["iwae"]["log_px"] - rows["elbo_analytic"]["log_px"]
    assert difference.mean() > 4 * difference.std(ddof=1) / np.sqrt(len(difference))
    gaps = {name: result["metrics"]["elbo_gap"]["value"] for name, result in results.items()}
    assert gaps["iwae"] > gaps["elbo_analytic"] > 0
    # Three epochs leave either model within some ten nats of the values after 20 epochs, -94.4 and -93.1.
    assert all(-115 < result["metrics"]["log_px"]["value"] < -90 for result in results.values())


@pytest.mark.slow
def test_with_two_latent_dimensions_every_estimate_is_held_against_the_exact_value(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the README shows of 1,000 images after six epochs, on 100 images after two."""
    if not os.environ.get("ELBO_BENCH_DATA"):
        pytest.skip("ELBO_BENCH_DATA is not set: this test reads the upstream files")
    words = ["experiment=mnist_latent2", "trainer.max_epochs=2", "trainer.validate_every=null"]
    assert main(["train", *words, "evaluation.num_examples=100", "evaluation.num_samples=3000", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    exact = result["diagnostics"]["exact"]
    chosen, encoder = exact["log_px_is"], exact["L_3000"]
    print(json.dumps(exact, indent=1))
    assert result["truth"]["tier"] == "exact"
    assert exact["error_max"] <= 1e-6
    assert chosen["share_passing"] >= 0.8
    # 95 of 100 intervals cover at best: fewer than 85 of those that pass would be seen with probability 1e-4.
    assert chosen["coverage_where_passing"] >= 0.85
    assert chosen["absolute_mean"] < encoder["absolute_mean"] / 4  # its Monte Carlo error is what is left of it
    assert abs(chosen["short_mean"]) < encoder["short_mean"] / 10
    assert encoder["wrong"] > 5, "an encoder that is never wrong would test nothing"
    for estimate in (chosen, encoder):
        assert len(estimate["wrong_and_passing"]) <= 0.01 * max(100, estimate["wrong"])
    rows = read_examples(Path(result["folder"]))
    decoded = rows["decoded"] - 3000  # beside the encoder's pass: the pilot, the fit and the draws
    assert decoded.max() <= 3000 * 1.05
