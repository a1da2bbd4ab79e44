"""Bits per dimension and the distance from the truth: the same number by every road that leads to it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.command_line import printed

from elbo_bench.cli import main
from elbo_bench.data.sets.digits import Digits
from elbo_bench.data.sets.linear_gaussian_data import LinearGaussianData
from elbo_bench.evaluation.data_units import beside_truth, in_bits
from elbo_bench.evaluation.estimate import Estimate, Scores
from elbo_bench.evaluation.evaluator import Evaluation
from elbo_bench.results.record import read_examples

SHORT = ["trainer.max_epochs=2", "trainer.validate_every=null", "tracking=none", "evaluation.num_samples=50"]
SMALL = ["model.latent_dim=3", "model.hidden=[20]", *SHORT]


def evaluation(log_px: list[float], errors: list[float]) -> Evaluation:
    scores = Scores({"log_px": Estimate(np.array(log_px), np.array(errors))}, {"id": np.arange(len(log_px))})
    metrics: dict[str, Any] = {"log_px": {"value": float(np.mean(log_px))}}
    return Evaluation(scores, metrics, "importance", "-", {}, 0)


def test_bits_are_minus_log2_per_dimension_with_the_volume_counted() -> None:
    measured = in_bits(evaluation([-10.0, -14.0, -12.0], [0.1, 0.2, 0.3]), np.array([1.0, 1.0, -5.0]), num_dims=4)
    nats = np.array([-9.0, -13.0, -17.0])
    expected = -nats / 4 / math.log(2)
    np.testing.assert_allclose(measured.examples["bits_per_dim"], expected, rtol=1e-14)
    np.testing.assert_allclose(measured.examples["bits_per_dim_se_mc"], np.array([0.1, 0.2, 0.3]) / 4 / math.log(2))
    metric = measured.metrics["bits_per_dim"]
    assert metric["value"] == pytest.approx(expected.mean(), rel=1e-14)
    assert metric["se_test"] == pytest.approx(expected.std(ddof=1) / 3**0.5)
    assert metric["se_mc"] == pytest.approx((0.01 + 0.04 + 0.09) ** 0.5 / 3 / 4 / math.log(2))
    assert (metric["n"], metric["unit"]) == (3, "bits/dim")


def test_an_evaluation_without_log_px_is_left_alone() -> None:
    nothing = Evaluation(Scores({}, {"id": np.arange(2)}), {}, "none", "-", {}, 0)
    assert in_bits(nothing, np.zeros(2), 3) is nothing
    assert beside_truth(nothing, np.zeros(2)) is nothing


def test_the_distance_from_the_truth_is_paired_by_example() -> None:
    measured = beside_truth(evaluation([-10.0, -30.0], [0.1, 0.1]), np.array([-9.0, -29.5]))
    assert measured.metrics["log_px_true"]["value"] == -19.25
    short = measured.metrics["kl_from_truth"]
    assert short["value"] == 0.75
    assert short["se_test"] == pytest.approx(0.25)  # not that of log p(x), which is 10


@pytest.mark.parametrize(
    ("values", "likelihood"),
    [("levels", "discretised_logistic"), ("dequantised", "continuous_bernoulli"), ("logit", "gaussian")],
)
def test_a_record_gives_bits_per_dimension_beside_nats(
    capsys: pytest.CaptureFixture[str], values: str, likelihood: str
) -> None:
    result = printed(capsys, "train", "data=digits", f"data.values={values}", f"model.likelihood={likelihood}", *SMALL)
    rows = read_examples(Path(result["folder"]))
    x = Digits(values=values).load(Path("no-files-needed")).test.double().flatten(1)  # type: ignore[arg-type]
    if values == "levels":
        volume = torch.zeros(250, dtype=torch.float64)
    elif values == "dequantised":
        volume = torch.full((250,), -64 * math.log(17), dtype=torch.float64)
    else:
        s = torch.sigmoid(x)
        volume = (math.log(1 - 2e-6) - (s * (1 - s)).log() - math.log(17)).sum(1)
    expected = -(rows["log_px"] + volume.numpy()) / (64 * math.log(2))
    np.testing.assert_allclose(rows["bits_per_dim"], expected, rtol=1e-9)
    assert result["metrics"]["bits_per_dim"]["value"] == pytest.approx(expected.mean(), rel=1e-12)
    # Uniform over 17 levels would cost log2(17) = 4.09 bits; no model codes these in less than one.
    assert 1 < result["metrics"]["bits_per_dim"]["value"] < 4.5
    assert result["data"]["observation"] == ("discrete" if values == "levels" else "continuous")
    assert (result["data"]["values"], result["data"]["num_levels"]) == (values, 17 if values == "levels" else None)


def test_binary_data_have_bits_in_the_record_and_not_on_the_board(capsys: pytest.CaptureFixture[str]) -> None:
    result = printed(capsys, "train", "data=digits", *SMALL)
    nats = result["metrics"]["log_px"]["value"]
    assert result["metrics"]["bits_per_dim"]["value"] == pytest.approx(-nats / 64 / math.log(2))
    assert main(["leaderboard", "--format", "markdown"]) == 0
    assert "bits/dim" not in capsys.readouterr().out
    printed(capsys, "train", "data=digits", "data.values=levels", "model.likelihood=categorical", *SMALL)
    assert main(["leaderboard", "--format", "markdown"]) == 0
    assert capsys.readouterr().out.count("bits/dim") == 1


def test_data_that_are_drawn_have_a_ceiling(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data=linear_gaussian_data", "model=linear_gaussian", "model.latent_dim=4"]
    result = printed(capsys, "train", *words, *SHORT)
    truth = LinearGaussianData()
    parameters, x = truth.parameters(), truth.load(Path("no-files-needed")).test.double()
    covariance = parameters.weight @ parameters.weight.T + 0.25 * torch.eye(16, dtype=torch.float64)
    centred = x - parameters.mean
    # By the formula rather than a distribution: -1/2 [d log 2 pi + log|C| + x' C^-1 x].
    quadratic = (centred @ torch.linalg.inv(covariance) * centred).sum(1)
    expected = -0.5 * (16 * math.log(2 * math.pi) + torch.logdet(covariance) + quadratic)
    rows = read_examples(Path(result["folder"]))
    np.testing.assert_allclose(rows["log_px_true"], expected, rtol=1e-10)
    metrics = result["metrics"]
    assert metrics["log_px_true"]["value"] == pytest.approx(float(expected.mean()))
    gap = metrics["log_px_true"]["value"] - metrics["log_px"]["value"]
    assert metrics["kl_from_truth"]["value"] == pytest.approx(gap)
    assert metrics["kl_from_truth"]["value"] > 0
    assert metrics["kl_from_truth"]["se_test"] < metrics["log_px"]["se_test"] + metrics["log_px_true"]["se_test"]
    assert "bits_per_dim" not in metrics  # there are no levels whose code it would be the length of


def test_a_record_says_where_the_data_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    data = printed(capsys, "train", "data=digits", *SMALL)["data"]
    assert data["licence"] == "CC BY 4.0"
    assert data["citation"].startswith("Alpaydin")
    assert data["homepage"].startswith("https://")
    assert data["test_binarization"] == "fixed"
    assert data["splits"] == {"train": 1297, "validation": 250, "test": 250}
    assert list(data["files_sha256"]) == ["sklearn.datasets.load_digits"]


def test_a_resampled_test_split_changes_with_the_seed_and_stays_on_one_board(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["data=digits", "data.test_binarization=resample", *SMALL]
    first, second = (printed(capsys, "train", *words, f"seed={seed}") for seed in (0, 1))
    assert first["data"] == second["data"]
    assert main(["leaderboard", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["num_seeds"] == 2
    # A fixed weight file, two evaluation seeds: the examples themselves differ.
    scored = []
    for seed in (5, 6):
        assert main(["evaluate", first["folder"], f"evaluation.seed={seed}", "--json"]) == 0
        scored.append(read_examples(Path(json.loads(capsys.readouterr().out)["folder"]))["log_px"])
    assert np.abs(scored[0] - scored[1]).max() > 1  # nats: more than Monte Carlo noise


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.values=levels"], "a Bernoulli likelihood needs binary data, and this data is of 17 levels"),
        (["data.values=dequantised"], "a Bernoulli likelihood needs binary data, and this data is continuous"),
        (["model.likelihood=gaussian"], "needs continuous data, and this data is of 2 levels: take bernoulli"),
        (["data.values=levels", "model.likelihood=gaussian"], "or dequantise the data"),
        (["data.values=logit", "model.likelihood=continuous_bernoulli"], "may be any real number: take gaussian"),
        (["data.values=dequantised", "model.likelihood=categorical"], "needs discrete data"),
    ],
)
def test_a_density_for_a_probability_or_the_reverse_is_refused_with_the_reason(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["train", "data=digits", *words, *SMALL]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not list(Path("runs").glob("*/*"))
