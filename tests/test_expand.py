"""Sweep files, in the format of W&B, expanded as its agent would run them."""

from pathlib import Path

import pytest

from elbo_bench.catalogue import conf_root
from elbo_bench.config import resolve, run_id
from elbo_bench.errors import UsageError
from elbo_bench.launch.expand import expand

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
    cells = expand(write(GRID))
    assert len(cells) == len({tuple(cell) for cell in cells}) == 8
    assert cells[0] == ["objective.name=iwae", "optimizer.lr=0.001", "model.hidden=[16]", "seed=0"]
    assert cells[1][-1] == "seed=1"
    assert cells[-1] == ["objective.name=elbo_mc", "optimizer.lr=0.001", "model.hidden=[8, 8]", "seed=1"]


def test_words_resolve_to_the_values_of_the_file() -> None:
    cfg = resolve(expand(write(GRID))[-1])
    assert (cfg["objective"]["name"], cfg["optimizer"]["lr"], cfg["model"]["hidden"], cfg["seed"]) == (
        "elbo_mc",
        1e-3,
        [8, 8],
        1,
    )


def test_experiments_are_cells_that_are_no_grid() -> None:
    cells = expand(write("parameters: {experiment: {values: [digits_beta4, digits_iwae64]}, seed: {value: 3}}"))
    configurations = [resolve(cell) for cell in cells]
    assert [cfg["objective"]["name"] for cfg in configurations] == ["beta", "iwae"]
    assert (configurations[0]["objective"]["beta"], configurations[1]["objective"]["num_samples"]) == (4.0, 64)
    assert {cfg["seed"] for cfg in configurations} == {3}
    # However a configuration was spelled, it is one run.
    assert run_id(resolve(["objective=iwae", "objective.num_samples=64", "seed=3"])) == run_id(configurations[1])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("parameters: {}", "needs parameters"),
        ("method: grid", "needs parameters"),
        ("method: bayes\nparameters: {seed: {value: 0}}", "method bayes"),
        ("method: random\nparameters: {seed: {values: [0]}}", "wandb sweep"),
        ("metod: grid\nparameters: {seed: {value: 0}}", "did you mean 'method'"),
        ("parameters: {seed: {min: 0, max: 3}}", "seed: a grid needs"),
        ("parameters: {seed: {values: []}}", "at least one value"),
        ("parameters: {seed: {values: 3}}", "must be a list"),
        ("parameters: {seed: [0, 1]}", "seed: a grid needs"),
        ("parameters: {seed: {value: 0, values: [1]}}", "seed: a grid needs"),
        ("parameters: {seed: {value: 0}, seed: {value: 1}}", "duplicate key seed"),
        (
            "parameters: {model.hidden: {value: [8]}, model: {parameters: {hidden: {value: [9]}}}}",
            "model.hidden is given twice",
        ),
        ("parameters: {model: {parameters: 3}}", "model: nested"),
        ("- 1", "mapping"),
        ("parameters: [", "not valid YAML"),
    ],
)
def test_what_is_no_sweep_is_refused_in_a_line(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=r"sweep\.yaml") as caught:
        expand(write(text))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", sorted((conf_root().parent / "sweeps").glob("*.yaml")), ids=lambda place: place.stem)
def test_every_sweep_of_the_project_expands_to_configurations(place: Path) -> None:
    cells = expand(place)
    assert len({run_id(resolve(cell)) for cell in cells}) == len(cells) > 0
