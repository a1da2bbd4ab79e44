"""Sweep files, in the format of W&B, expanded as its agent would run them."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from elbo_bench.cli import main
from elbo_bench.config import resolve, run_id
from elbo_bench.config.catalogue import conf_root
from elbo_bench.errors import UsageError
from elbo_bench.launch.expand import expand, more_is_better

GRID = """
program: elbo_bench
method: grid
parameters:
  objective.name: {values: [iwae, elbo_mc]}
  optimizer.lr: {value: 1e-3}
  model:
    parameters:
      hidden: {values: [[16], [8, 8]]}
  seed: {values: [0, 1]}
"""


def write(text: str) -> Path:
    place = Path("sweep.yaml")
    place.write_text(text)
    return place


def test_grid_is_the_product_in_the_order_of_the_file() -> None:
    cells = expand(write(GRID)).cells
    assert len(cells) == len({tuple(cell) for cell in cells}) == 8
    assert cells[0] == ["objective.name=iwae", "optimizer.lr=0.001", "model.hidden=[16]", "seed=0"]
    assert cells[1][-1] == "seed=1"
    assert cells[-1] == ["objective.name=elbo_mc", "optimizer.lr=0.001", "model.hidden=[8, 8]", "seed=1"]


def test_words_resolve_to_the_values_of_the_file() -> None:
    cfg = resolve(expand(write(GRID)).cells[-1])
    assert (cfg["objective"]["name"], cfg["optimizer"]["lr"], cfg["model"]["hidden"], cfg["seed"]) == (
        "elbo_mc",
        1e-3,
        [8, 8],
        1,
    )


def test_experiments_are_cells_that_are_no_grid() -> None:
    cells = expand(write("parameters: {experiment: {values: [digits_beta4, digits_iwae64]}, seed: {value: 3}}")).cells
    configurations = [resolve(cell) for cell in cells]
    assert [cfg["objective"]["name"] for cfg in configurations] == ["beta", "iwae"]
    assert (configurations[0]["objective"]["beta"], configurations[1]["objective"]["num_samples"]) == (4.0, 64)
    assert {cfg["seed"] for cfg in configurations} == {3}
    # However a configuration was spelled, it is one run.
    assert run_id(resolve(["objective=iwae", "objective.num_samples=64", "seed=3"])) == run_id(configurations[1])


def test_a_range_of_whole_numbers_is_a_grid_and_steps_are_as_in_wandbs_own() -> None:
    text = "parameters: {seed: {min: 2, max: 4}, optimizer.lr: {distribution: q_uniform, min: 0.1, max: 0.4, q: 0.1}}"
    sweep = expand(write(text))
    assert [cell[0] for cell in sweep.cells[::3]] == ["seed=2", "seed=3", "seed=4"]
    # numpy.arange, by which W&B's server makes its grid, does not reach max.
    assert [cell[1] for cell in sweep.cells[:3]] == ["optimizer.lr=0.1", "optimizer.lr=0.2", "optimizer.lr=0.3"]


def test_run_cap_and_trials_take_the_first_of_a_grid() -> None:
    place = write("run_cap: 3\nparameters: {seed: {min: 0, max: 1000000000000}, model: {values: [mlp, conv]}}")
    assert [cell[0] for cell in expand(place).cells] == ["seed=0", "seed=0", "seed=1"]
    assert len(expand(place, trials=5).cells) == 5


def test_the_command_adds_its_words_and_folders() -> None:
    command = (
        '["${env}", python, -m, elbo_bench, train, --conf, mine, "${args_no_hyphens}", "model.hidden=[${envvar:WIDE}]"]'
    )
    sweep = expand(write(f"command: {command}\nparameters: {{seed: {{values: [0, 1]}}}}"))
    assert sweep.conf == ["mine"]
    assert sweep.cells == [["model.hidden=[WIDE]", "seed=0"], ["model.hidden=[WIDE]", "seed=1"]]


def test_the_metric_is_that_of_a_record() -> None:
    sweep = expand(write("metric: {name: test/elbo_gap}\nparameters: {seed: {value: 0}}\nearly_terminate: {type: x}"))
    assert (sweep.metric, sweep.maximize) == ("elbo_gap", False)
    assert len(sweep.notes) == 1
    assert "early_terminate" in sweep.notes[0]


MORE = ["log_px", "log_px_lower", "L_1", "L_5000", "elbo_mc", "elbo_analytic", "bound", "ess", "mutual_information"]
LESS = ["elbo_gap", "bound_gap", "L_64_gap", "amortisation_gap", "bits_per_dim", "kl_from_truth", "distortion", "width"]
UNKNOWN = [
    "rate",
    "active_units",
    "log_px_upper",
    "log_px_true",
    "eubo",
    "steps",
    "acceptance",
    "log_pxx",
    "val/log_px",
]


@pytest.mark.parametrize(("names", "expected"), [(MORE, True), (LESS, False), (UNKNOWN, None)])
def test_which_value_of_a_metric_is_better_is_known_under_each_of_its_names(
    names: list[str], expected: bool | None
) -> None:
    for name in names:
        both = [name, f"test/{name}"]
        assert {more_is_better(each) for each in both} == {expected}
        for each in both:
            sweep = expand(write(f"metric: {{name: {each}}}\nparameters: {{seed: {{value: 0}}}}"))
            assert (sweep.metric, sweep.maximize) == (name, expected)
            assert [note for note in sweep.notes if "add `goal: maximize`" in note] == sweep.notes
            assert len(sweep.notes) == (expected is None)


@pytest.mark.parametrize(("goal", "maximize"), [("maximize", True), ("minimize", False)])
@pytest.mark.parametrize(("name", "known"), [("log_px", True), ("test/elbo_gap", False), ("rate", None)])
def test_a_goal_is_taken_and_a_note_says_if_it_is_unusual(
    name: str, known: bool | None, goal: str, maximize: bool
) -> None:
    sweep = expand(write(f"metric: {{name: {name}, goal: {goal}}}\nparameters: {{seed: {{value: 0}}}}"))
    assert sweep.maximize is maximize
    assert [f"but the goal is {goal}" in note for note in sweep.notes] == [True] * (known is (not maximize))


RANDOM = """
method: random
run_cap: 400
parameters:
  a: {min: 0.5, max: 1.5}
  b: {min: -2, max: 2}
  c: {distribution: log_uniform_values, min: 1.0e-5, max: 1.0e-1}
  d: {distribution: log_uniform, min: -2, max: 1}
  e: {distribution: inv_log_uniform_values, min: 0.01, max: 10}
  f: {distribution: q_log_uniform_values, min: 1, max: 1000, q: 5}
  g: {distribution: normal, mu: 3, sigma: 0.5}
  h: {distribution: log_normal, mu: 1, sigma: 0.25}
  i: {distribution: beta, a: 2, b: 5}
  j: {distribution: q_normal, q: 0.5}
  k: {values: [x, y, z], probabilities: [0.2, 0.5, 0.3]}
  l: {values: [1, 2, 4]}
  m: {value: 7}
  n: {distribution: q_beta, q: 0.25}
  o: {distribution: inv_log_uniform, min: 1, max: 2}
"""


def draws(text: str = RANDOM, **keys: int) -> dict[str, list[str]]:
    cells = expand(write(text), **keys).cells
    return {
        key: [dict(word.split("=") for word in cell)[key] for cell in cells]
        for key in dict(w.split("=") for w in cells[0])
    }


def test_what_is_drawn_has_the_distribution_that_is_named() -> None:
    """Kolmogorov-Smirnov against SciPy's own, chi-square for categories; the draws are fixed, so no chance."""
    drawn = draws()
    number = {key: np.array([float(value) for value in drawn[key]]) for key in "abcdefghijlno"}
    continuous = {
        "a": stats.uniform(0.5, 1),
        "c": stats.loguniform(1e-5, 1e-1),
        "d": stats.loguniform(math.exp(-2), math.e),
        "e": stats.loguniform(0.01, 10),
        "g": stats.norm(3, 0.5),
        "h": stats.lognorm(0.25, scale=math.e),
        "i": stats.beta(2, 5),
        "o": stats.loguniform(math.exp(-2), math.exp(-1)),
    }
    assert all(stats.kstest(number[key], law.cdf).pvalue > 1e-3 for key, law in continuous.items())
    assert set(number["b"]) == {-2, -1, 0, 1, 2}
    assert stats.chisquare(np.unique(number["b"], return_counts=True)[1]).pvalue > 1e-3
    assert all(value % 5 == 0 and "." not in text for value, text in zip(number["f"], drawn["f"], strict=True))
    assert all((2 * number["j"]) % 1 == 0)
    assert abs(number["j"].mean()) < 4 / math.sqrt(400)
    assert set(number["n"]) <= {0, 0.25, 0.5, 0.75, 1}
    shares = [drawn["k"].count(name) for name in "xyz"]
    assert stats.chisquare(shares, [80, 200, 120]).pvalue > 1e-3
    assert stats.chisquare(np.unique(number["l"], return_counts=True)[1]).pvalue > 1e-3
    assert set(drawn["m"]) == {"7"}
    # Parameters are drawn apart from each other.
    correlations = np.corrcoef(np.stack([number[key] for key in "aceghi"])) - np.eye(6)
    assert abs(correlations).max() < 0.2


def test_a_draw_depends_on_seed_name_and_number_alone() -> None:
    drawn = draws()
    assert draws(trials=10) == {key: values[:10] for key, values in drawn.items()}
    alone = "method: random\nrun_cap: 400\nparameters: {c: {distribution: log_uniform_values, min: 1.0e-5, max: 0.1}}"
    assert draws(alone)["c"] == drawn["c"]
    assert draws(alone, seed=1)["c"] != drawn["c"]


WRONG = [
    ("parameters: {}", "needs parameters"),
    ("method: grid", "needs parameters"),
    ("method: bayes\nparameters: {seed: {value: 0}}", "`wandb sweep sweep.yaml`, then `wandb agent`"),
    ("method: custom\nparameters: {seed: {value: 0}}", "method custom needs W&B's server"),
    ("method: gird\nparameters: {seed: {value: 0}}", "did you mean 'grid'"),
    ("method: random\nparameters: {seed: {values: [0]}}", "run_cap: 20"),
    ("method: random\nrun_cap: 0\nparameters: {seed: {values: [0]}}", "run_cap: 0 is no number of trials"),
    ("method: random\nrun_cap: 1000000\nparameters: {seed: {values: [0]}}", "at most 100000"),
    ("metod: grid\nparameters: {seed: {value: 0}}", "did you mean 'method'"),
    ("job: entity/project/job:v1\nparameters: {seed: {value: 0}}", "W&B's own service"),
    ("name: 3\nparameters: {seed: {value: 0}}", "name: 3 must be text"),
    ("metric: test/log_px\nparameters: {seed: {value: 0}}", "metric needs a name"),
    ("metric: {name: a, goal: maximise}\nparameters: {seed: {value: 0}}", "did you mean 'maximize'"),
    ("parameters: {seed: {min: 0}}", "needs `max`"),
    ("parameters: {seed: {min: 3, max: 0}}", "min 3 is greater than max 0"),
    ("parameters: {seed: {min: 0, max: three}}", "`max: three` must be a finite number"),
    ("parameters: {lr: {min: 0.0, max: .inf}}", "must be a finite number"),
    ("parameters: {lr: {min: 0.0, max: 1.0}}", "or method random"),
    ("parameters: {a: {values: [1, 2], probabilities: [0.5, 0.5]}}", "no `probabilities`"),
    ("method: random\nrun_cap: 2\nparameters: {a: {values: [1, 2], probabilities: [0.5, 0.6]}}", "sum to 1"),
    ("method: random\nrun_cap: 2\nparameters: {a: {values: [1, 2], probabilities: [1]}}", "a list of 2"),
    ("method: random\nrun_cap: 2\nparameters: {a: {distribution: unifrom, min: 0, max: 1}}", "did you mean 'uniform'"),
    ("method: random\nrun_cap: 2\nparameters: {a: {distribution: log_uniform_values, min: 0, max: 1}}", "min > 0"),
    (
        "method: random\nrun_cap: 2\nparameters: {a: {distribution: log_uniform, min: 0, max: 1000}}",
        "range is that of log x",
    ),
    ("method: random\nrun_cap: 2\nparameters: {a: {distribution: q_uniform, min: 0, max: 1, q: 0}}", "must be > 0"),
    ("method: random\nrun_cap: 2\nparameters: {a: {distribution: normal, mean: 0}}", "valid: mu, sigma"),
    (
        "method: random\nrun_cap: 2\nparameters: {a: {distribution: int_uniform, min: 0.5, max: 1}}",
        "a: int_uniform needs integers",
    ),
    ("parameters: {seed: {values: []}}", "at least one value"),
    ("parameters: {seed: {values: 3}}", "must be a list"),
    ("parameters: {seed: {}}", "or a `distribution`"),
    ("parameters: {seed: [0, 1]}", "seed: needs `value: ...`"),
    ("parameters: {seed: 0}", "seed: needs `value: ...`"),
    ("parameters: {seed: {value: 0, values: [1]}}", "did you mean 'values'?"),
    ("parameters: {seed: {valeus: [1]}}", "needs `value: ...`"),
    ("parameters: {seed: {value: 0}, seed: {value: 1}}", "duplicate key seed"),
    ("parameters: {a-b: {value: 0}}", "a-b is no name of a key"),
    ("parameters: {a..b: {value: 0}}", "a..b is no name of a key"),
    (
        "parameters: {model.hidden: {value: [8]}, model: {parameters: {hidden: {value: [9]}}}}",
        "model.hidden is given twice",
    ),
    ("parameters: {model: {parameters: 3}}", "model: nested"),
    ("parameters: {seed: {min: 0, max: 100000000}}", "100000001 trials; at most 100000"),
    ("command: train\nparameters: {seed: {value: 0}}", "must be a list of strings"),
    ("command: [python, train.py, '${args}']\nparameters: {seed: {value: 0}}", "does not run elbo_bench"),
    ("command: [elbo-bench, evaluate, '${args_no_hyphens}']\nparameters: {seed: {value: 0}}", "not evaluate"),
    ("command: [elbo-bench, train, '${args}']\nparameters: {seed: {value: 0}}", "${args}: `train` takes key=value"),
    ("command: [elbo-bench, train]\nparameters: {seed: {value: 0}}", "it needs ${args_no_hyphens}, once"),
    (
        "command: [elbo-bench, train, --fast, '${args_no_hyphens}']\nparameters: {seed: {value: 0}}",
        "--fast is no key=value",
    ),
    (
        "command: [elbo-bench, train, seed=1, '${args_no_hyphens}']\nparameters: {seed: {value: 0}}",
        "seed is given twice",
    ),
    ("- 1", "mapping"),
    ("", "a sweep needs parameters"),
    ("parameters: [", "not valid YAML"),
    ("\x00", "not valid YAML"),
]


@pytest.mark.parametrize(("text", "named"), WRONG)
def test_what_is_no_sweep_is_refused_in_a_line(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=r"sweep\.yaml") as caught:
        expand(write(text))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sweep_that_is_wrong_ends_with_exit_code_2_and_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for text, _ in WRONG:
        write(text)
        assert main(["sweep", "sweep.yaml"]) == 2
        out, error = capsys.readouterr()
        assert (out, error.count("\n")) == ("", 1)
    assert [place.name for place in Path().iterdir()] == ["sweep.yaml"]


@pytest.mark.parametrize("place", sorted((conf_root().parent / "sweeps").glob("*.yaml")), ids=lambda place: place.stem)
def test_every_sweep_of_the_project_expands_to_configurations(place: Path) -> None:
    cells = expand(place).cells
    assert len({run_id(resolve(cell)) for cell in cells}) == len(cells) > 0
