"""Metrics of five small runs, as numbers: a change of the code that changes a result fails here.

The runs are in float64, so that the last bits of a machine do not matter. Write new values only with an entry under
"Results invalidated" in CHANGELOG.md.
"""

import json
from pathlib import Path

import pytest
from support.command_line import training

VALUES = json.loads((Path(__file__).parent / "golden_values.json").read_text(encoding="utf-8"))
"""Run -> "evaluator metric" -> value and Monte Carlo error."""

train = training(
    "trainer.max_steps=20",
    "trainer.precision=64-true",
    "trainer.validate_every=null",
    "model.hidden=[16]",
    "evaluation.num_samples=100",
    "evaluation.num_examples=30",
    "tracking=none",
)
ALL_EVALUATORS = """[
    {name: ais, num_temperatures: 8, num_examples: 8, num_chains: 3},
    {name: bdmc, num_temperatures: 8, num_examples: 8, num_chains: 3},
    {name: gaps, num_samples: 100, num_examples: 8, max_steps: 20, refit_steps: 5},
    {name: gradients, num_examples: 6, num_samples: [1, 4], num_replicates: 20, oracle_samples: 8,
     oracle_replicates: 20},
    {name: latents, num_examples: 40}]"""
RUNS = {
    "iwae": ["objective=iwae", "objective.num_samples=5", "model.latent_dim=4"],
    "flow prior": ["objective=stl", "model.latent_dim=3", "model.posterior=full_covariance", "model.prior=flow"],
    "categorical": [
        *["model=categorical_latent", "model.num_variables=4", "model.num_categories=3"],
        *["objective=vimco", "objective.num_samples=4"],
    ],
    "levels": [
        *["data.values=levels", "model.likelihood=discretised_logistic"],
        *["objective=elbo_analytic", "model.latent_dim=3"],
    ],
    "all evaluators": ["objective=elbo_mc", "model.latent_dim=2", f"then_evaluate={' '.join(ALL_EVALUATORS.split())}"],
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_has_the_metrics_that_it_always_had(name: str, tmp_path: Path) -> None:
    found = {}
    for path in train(*RUNS[name], runs=tmp_path / "runs").rglob("result.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        for key, metric in result["metrics"].items():
            found[f"{result['cfg']['evaluation']['name']} {key}"] = [metric["value"], metric["se_mc"]]
    assert VALUES[name]
    for key, (value, error) in VALUES[name].items():
        assert found[key][0] == pytest.approx(value, rel=1e-6, abs=1e-9), key
        assert (found[key][1] is None) == (error is None), key
        assert error is None or found[key][1] == pytest.approx(error, rel=1e-6, abs=1e-9), key
