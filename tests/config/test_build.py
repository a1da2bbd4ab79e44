"""Every YAML of `conf/` says what its component's signature says, and builds."""

import copy
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from elbo_bench import config
from elbo_bench.config.catalogue import Catalogue, conf_root, load_yaml
from elbo_bench.config.typed import check_value, parameters
from elbo_bench.data_info import DataInfo
from elbo_bench.errors import UsageError
from elbo_bench.objectives.base import Objective
from elbo_bench.objectives.iwae import IWAE
from elbo_bench.training.optimizers import SGD, Adam
from elbo_bench.training.schedules import Burda

COMPONENTS = sorted(place for place in conf_root().glob("*/*.yaml") if place.parent.name not in ("experiment", "paper"))
EXPERIMENTS = sorted(place.stem for place in conf_root().glob("experiment/*.yaml"))
# What the program hands to a component, and no one configures.
INJECTED = {
    "engine": {"workers", "preload", "folder"},
    "model": {"info"},
    "module": {"model", "objective", "optimizer", "info", "seed"},
    "objective": {"num_train"},
}
BINARY = DataInfo(shape=(2, 3), train_mean=torch.full((2, 3), 0.5), num_train=10, observation="discrete", num_levels=2)
IMAGES = DataInfo(shape=(9, 8), train_mean=torch.full((9, 8), 0.5), num_train=10, observation="discrete", num_levels=2)
CONTINUOUS = DataInfo(shape=(6,), train_mean=torch.zeros(6), num_train=10, observation="continuous")

each_component = pytest.mark.parametrize("place", COMPONENTS, ids=lambda place: f"{place.parent.name}-{place.stem}")


def injected(group: str) -> list[dict[str, Any]]:
    """Return what a component of a group may be given; the first that it accepts will do."""
    if group == "model":
        return [{"info": BINARY}, {"info": CONTINUOUS}, {"info": IMAGES}]
    if group == "engine":
        return [{"folder": Path("jobs")}]
    if group == "objective":
        return [{"num_train": BINARY.num_train}]
    if group == "module":
        return [
            {
                "model": config.build("model", "mlp", info=BINARY),
                "objective": IWAE(),
                "optimizer": Adam(),
                "info": BINARY,
                "seed": 0,
            }
        ]
    return [{}]


def built(group: str, name: str) -> Any:
    refusals = []
    for given in injected(group):
        accepted = parameters(Catalogue.of().target(group, name))
        try:
            return config.build(group, name, **{key: value for key, value in given.items() if key in accepted})
        except UsageError as error:
            refusals.append(str(error))
    raise AssertionError(f"{group}={name} cannot be built: {refusals}")


@each_component
def test_a_yaml_lists_exactly_the_parameters_that_can_be_configured(place: Path) -> None:
    group = place.parent.name
    written = load_yaml(place)
    accepted = parameters(Catalogue.of().target(group, place.stem))
    assert set(written) - {"target"} == set(accepted) - INJECTED.get(group, set())


def own_default(target: Any, key: str) -> Any:
    """Return what a component takes for a parameter that is not given."""
    for field in dataclasses.fields(target) if dataclasses.is_dataclass(target) else ():
        if field.name == key and field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    return inspect.signature(target).parameters[key].default


@each_component
def test_a_yaml_has_the_defaults_of_its_target(place: Path) -> None:
    group = place.parent.name
    target = Catalogue.of().target(group, place.stem)
    hints = parameters(target)
    for key, value in load_yaml(place).items():
        if key == "target":
            continue
        own = own_default(target, key)
        if isinstance(value, dict):
            stated = config.build(key, value["name"]) if "name" in value else hints[key](**value)
        else:
            stated = check_value(value, hints[key])
        assert (stated, type(stated)) == (own, type(own)), f"{place}: {key} is {stated!r}, and {own!r} in the code"


@each_component
def test_a_component_builds_from_its_yaml_alone(place: Path) -> None:
    made = built(place.parent.name, place.stem)
    assert isinstance(made, Catalogue.of().target(place.parent.name, place.stem))


@each_component
def test_a_yaml_says_what_it_is_in_a_comment(place: Path) -> None:
    first = place.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith(".")


def test_the_defaults_of_a_run_name_components_that_exist_and_fit_their_types() -> None:
    written = load_yaml(conf_root() / "config.yaml")
    checked = config.check(config.resolve())
    assert list(checked) == list(written)
    for group, node in written.items():
        if isinstance(node, dict):
            assert checked[group]["name"] == node["name"]
            assert node["name"] in Catalogue.of().names(group)


def test_every_experiment_resolves_and_fits_its_types() -> None:
    for name in EXPERIMENTS:
        checked = config.check(config.resolve([f"experiment={name}"]))
        assert set(checked) == set(load_yaml(conf_root() / "config.yaml"))


def test_build_is_the_command_lines_twin() -> None:
    cfg = config.check(config.resolve(["objective=iwae", "objective.num_samples=50"]))
    twin = config.make("objective", cfg["objective"])
    assert config.build("objective", "iwae", num_samples=50) == twin == IWAE(num_samples=50)
    assert config.build("objective", "iwae") == IWAE(num_samples=5)


def test_build_accepts_a_nested_group_by_name_or_as_a_mapping() -> None:
    by_name = config.build("optimizer", "sgd", lr=1, schedule="burda")
    as_mapping = config.build("optimizer", "sgd", lr=1.0, schedule={"name": "burda", "stages": 8})
    assert by_name == as_mapping == SGD(lr=1.0, schedule=Burda(stages=8))
    assert isinstance(by_name.lr, float)


def test_build_passes_on_what_only_the_program_knows() -> None:
    model = config.build("model", "mlp", info=BINARY, latent_dim=4, hidden=[7])
    assert model.latent_dim == 4
    assert [layer.out_features for layer in model.encoder.body if isinstance(layer, nn.Linear)] == [7]
    assert model.decoder.outputs.out_features == 6


def test_build_leaves_its_arguments_alone() -> None:
    schedule = {"name": "steps", "milestones": [3]}
    before = copy.deepcopy(schedule)
    config.build("optimizer", "adam", schedule=schedule)
    assert schedule == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("objectiv", "iwae", {}), "objectiv: no such group; did you mean 'objective'?"),
        (("objective", "iwea", {}), "objective=iwea: no such objective; did you mean 'iwae'?"),
        (
            ("objective", "iwae", {"num_sample": 3}),
            "objective.num_sample: objective iwae has no such key; did you mean 'num_samples'?",
        ),
        (("objective", "iwae", {"num_samples": True}), "objective.num_samples=true: should be a valid integer"),
        (("objective", "iwae", {"num_samples": 0}), "objective.num_samples=0: should be greater than 0"),
        (("objective", "iwae", {"num_samples": None}), "objective.num_samples=null: should be a valid integer"),
        (("objective", "beta", {"beta": float("nan")}), "objective.beta=NaN: should be a finite number"),
        (("objective", "beta", {"kl": "exact"}), "objective.kl=exact: should be 'analytic' or 'mc'"),
        (("model", "mlp", {}), "model=mlp: its YAML does not fit MLP: missing a required argument: 'info'"),
        (
            ("model", "mlp", {"info": CONTINUOUS}),
            "model=mlp: a Bernoulli likelihood needs binary data, and this data is continuous: "
            "take gaussian, or continuous_bernoulli if all of it lies in [0, 1]",
        ),
        (("optimizer", "sgd", {"nesterov": True}), "optimizer=sgd: nesterov=true needs a momentum above 0"),
    ],
)
def test_build_says_in_one_line_what_is_wrong(arguments: tuple[str, str, dict[str, Any]], said: str) -> None:
    group, name, overrides = arguments
    with pytest.raises(UsageError) as raised:
        config.build(group, name, **overrides)
    assert str(raised.value) == said


@pytest.mark.parametrize("value", [torch.tensor(3), object(), {1, 2}, b"5", 5 + 0j])
def test_build_refuses_values_that_no_yaml_could_hold(value: object) -> None:
    with pytest.raises(UsageError, match="num_samples"):
        config.build("objective", "iwae", num_samples=value)


def test_a_component_made_in_python_checks_itself_as_strictly() -> None:
    with pytest.raises(ValueError, match=r"IWAE.num_samples=True: should be a valid integer"):
        IWAE(num_samples=True)
    with pytest.raises(ValueError, match=r"Adam.lr=nan: should be .*finite number"):
        Adam(lr=float("nan"))
    with pytest.raises(TypeError, match="abstract"):
        Objective()  # type: ignore[abstract]
