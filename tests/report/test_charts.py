"""What plots draw: the right number of the right configuration, under its right name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.records import full, metric, record, write, write_full

from elbo_bench.report.charts import plots
from elbo_bench.report.charts.plot import Plot
from elbo_bench.report.leaderboard import leaderboard
from elbo_bench.report.read import read_rows
from elbo_bench.report.shown import MOST, OTHERS, Shown


def drawn(root: Path) -> dict[str, Plot]:
    (rows,) = leaderboard(read_rows([root])[0])
    return {plot.name: plot for plot in plots(Shown.of(rows))}


def data(plot: Plot) -> list[dict[str, Any]]:
    """All rows of all layers; a data set that layers share once."""
    specification = plot.chart.to_dict()
    found = [specification, *specification.get("layer", [])]
    sets = [each["data"]["values"] for each in found if "data" in each]
    return [row for number, rows in enumerate(sets) if rows not in sets[:number] for row in rows]


@pytest.fixture
def two(tmp_path: Path) -> Path:
    for name, log_px, gap, rate in (("good", -20.0, 4.0, 7.0), ("tight", -24.0, 1.0, 2.0)):
        for seed in (0, 1):
            objective = {"name": name, "num_samples": 1, "direction": "lower"}
            result = full(f"{name}-s{seed}", log_px + seed, gap, objective=objective, seed=seed)
            result["metrics"] |= {"rate": metric(rate), "distortion": metric(gap - log_px - rate)}
            write_full(tmp_path, result, f"{name}-s{seed}")
    return tmp_path


def test_a_k_curve_has_each_bound_and_log_px_with_its_interval(two: Path) -> None:
    rows = data(drawn(two)["k-curve"])
    curve = {(row["label"], row["K"]): row["value"] for row in rows if "K" in row}
    assert curve["good", 1] == pytest.approx(-19.5 - 4.0)
    assert curve["tight", 100] == pytest.approx(-23.5 - 0.01)
    truths = {row["label"]: row for row in rows if row.get("kind") == "log p(x)"}
    assert truths["good"]["value"] == pytest.approx(-19.5)
    half = 1.959964 * 0.01 / np.sqrt(2)  # two seeds, each with 0.01
    assert truths["good"]["high"] - truths["good"]["value"] == pytest.approx(half)


def test_a_lower_bound_has_no_interval_in_a_k_curve(tmp_path: Path) -> None:
    write_full(tmp_path, full("a", -20.0, truth__tier="lower-bound-only"), "a")
    (truth,) = [row for row in data(drawn(tmp_path)["k-curve"]) if "kind" in row]
    assert truth["kind"] == "lower bound on log p(x)"
    assert "low" not in truth


def test_tightness_is_the_gap_and_that_of_the_bound_apart_only_where_they_differ(two: Path) -> None:
    rows = data(drawn(two)["tightness"])
    first = [row for row in rows if row["label"] == "good" and row["step"] == 100]
    assert {(row["kind"], row["gap"]) for row in first} == {
        ("ELBO gap", 24.0),
        ("gap of the objective", 4.0),
    }


def test_parts_of_a_gap_add_up_to_it(two: Path) -> None:
    rows = data(drawn(two)["gap-by-samples"])
    for label, gap in (("good", 4.0), ("tight", 1.0)):
        assert sum(row["nats"] for row in rows if row["label"] == label) == pytest.approx(gap)
        parts = [row["part"] for row in rows if row["label"] == label]
        assert parts == ["ELBO to L_5", "L_5 to L_50", "on to the largest K", "left to log p(x)"]
        assert rows[0]["nats"] == pytest.approx(4.0 * (1 - 1 / 5))


def test_a_gap_is_decomposed_by_the_evaluations_that_did_it(two: Path) -> None:
    assert "gap-decomposition" not in drawn(two)
    scored = record("x", -20.0, cfg={"evaluation": {"name": "gaps"}})
    scored["metrics"] |= {"approximation_gap": metric(1.5), "amortisation_gap": metric(2.5)}
    write(two / "good-s0" / "evaluations", scored, "1000000000")
    early = record("x", -20.0, cfg={"evaluation": {"name": "gaps"}}, checkpoint={"weights_sha256": "of epoch 1"})
    early["metrics"] |= {"approximation_gap": metric(80.0), "amortisation_gap": metric(10.0)}
    write(two / "good-s0" / "evaluations", early, "0000000000")
    fewer = record("x", -20.0, cfg={"evaluation": {"name": "gaps"}}, data__num_examples=10)
    fewer["metrics"] |= {"approximation_gap": metric(7.0), "amortisation_gap": metric(7.0)}
    write(two / "good-s0" / "evaluations", fewer, "0000000001")
    other = record("y", -20.0, cfg={"evaluation": {"name": "importance"}})
    write(two / "tight-s0" / "evaluations", other, "1111111111")
    (two / "tight-s0" / "evaluations" / "2222222222").mkdir()
    (two / "tight-s0" / "evaluations" / "2222222222" / "result.json").write_text("{")
    rows = data(drawn(two)["gap-decomposition"])
    assert {(row["label"], row["part"], row["nats"]) for row in rows} == {
        ("good", "approximation gap: the family", 1.5),
        ("good", "amortisation gap: the encoder", 2.5),
    }


def test_the_plane_has_the_rate_along_and_the_distortion_up(two: Path) -> None:
    plot = drawn(two)["rate-distortion"]
    points = {row["label"]: row for row in data(plot) if "label" in row}
    assert (points["good"]["rate"], points["good"]["distortion"]) == (7.0, 17.0)
    encoding = plot.chart.to_dict()["layer"][1]["encoding"]
    assert (encoding["x"]["field"], encoding["y"]["field"]) == ("rate", "distortion")
    assert "q(z|x) || p(z)" in encoding["x"]["title"]
    for line in (row for row in data(plot) if "x2" in row):  # one ELBO along each line
        assert line["x"] + line["y"] == pytest.approx(line["x2"] + line["y2"])


def test_the_gap_is_held_against_log_px(two: Path) -> None:
    plot = drawn(two)["gap-over-log-px"]
    points = {row["label"]: (row["log_px"], row["elbo_gap"]) for row in data(plot)}
    assert points == {"good": (-19.5, 4.0), "tight": (-23.5, 1.0)}


def test_a_histogram_has_every_example_of_a_run_once(two: Path) -> None:
    rows = data(drawn(two)["gap-histogram"])
    for label in ("good", "tight"):
        assert sum(row["share"] for row in rows if row["label"] == label) == pytest.approx(1.0)
        middle = sum(row["share"] * row["gap"] for row in rows if row["label"] == label)
        gaps = np.load(two / f"{label}-s0" / "examples.npz")["elbo_gap"]
        assert middle == pytest.approx(np.clip(gaps, None, rows[-1]["gap"]).mean(), rel=0.1)


def test_of_many_the_best_have_a_colour_and_the_rest_are_grey(tmp_path: Path) -> None:
    for number in range(MOST + 3):
        objective = {"name": f"bound_{number}", "num_samples": 1, "direction": "lower"}
        write_full(tmp_path, full(str(number), -20.0 - number, objective=objective), str(number))
    found = drawn(tmp_path)
    labels = [row["label"] for row in data(found["gap-over-log-px"])]
    assert labels == [*(f"bound_{number}" for number in range(MOST)), *[OTHERS] * 3]
    assert {row["label"] for row in data(found["k-curve"])} == set(labels[:MOST])
    scale = found["gap-over-log-px"].chart.to_dict()["encoding"]["color"]["scale"]
    assert len(set(scale["range"])) == MOST + 1


def test_series_of_one_name_have_names_of_their_own(tmp_path: Path) -> None:
    for number in range(3):
        cfg = {"optimizer": {"lr": number // 2}, "tag": number}
        write_full(tmp_path, full(str(number), -20.0 - number, cfg=cfg), str(number))
    (rows,) = leaderboard(read_rows([tmp_path])[0])
    labels = Shown.of(rows).labels
    assert labels == ["iwae K=8, optimizer.lr=0 (1)", "iwae K=8, optimizer.lr=0 (2)", "iwae K=8, optimizer.lr=1"]


def test_a_series_that_is_named_as_another_one_is_numbered_keeps_a_name_of_its_own(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "a", "a (2)")):
        objective = {"name": name, "num_samples": 1, "direction": "lower"}
        write_full(tmp_path, full(str(number), -20.0 - number, objective=objective), str(number))
    (rows,) = leaderboard(read_rows([tmp_path])[0])
    assert len(set(Shown.of(rows).labels)) == 3


def test_one_run_with_nothing_but_its_metrics_is_drawn_as_far_as_it_goes(tmp_path: Path) -> None:
    write(tmp_path, record("a", -20.0), "a")
    assert set(drawn(tmp_path)) == {"rate-distortion", "gap-over-log-px"}
