"""One grammar for files, the command line and a record: what is written, and which run it names."""

import contextlib
import copy
import io
import itertools
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from elbo_bench import config
from elbo_bench.cli import _parse, _parser, main
from elbo_bench.config.catalogue import Catalogue, Config, conf_root, is_own, load_yaml, parse_yaml
from elbo_bench.config.compose import PLACEMENT as PLACEMENT_KEYS
from elbo_bench.config.overrides import parse_overrides
from elbo_bench.errors import UsageError, nearest, shown

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(_parser()[1])
# Where a run is computed, and how often it is saved.
PLACEMENT = {
    "data.in_memory",
    "data.path",
    "data.readers",
    "trainer.accelerator",
    "trainer.checkpoint_seconds",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "evaluation.workers",
    "then_evaluate",
}


def checked(*tokens: str, conf: Sequence[Path] = ()) -> Config:
    catalogue = Catalogue.of(conf)
    return config.check(config.resolve(tokens, catalogue), catalogue)


def name_of(*tokens: str, conf: Sequence[Path] = ()) -> str:
    return config.run_id(checked(*tokens, conf=conf))


def refusal(*tokens: str, conf: Sequence[Path] = ()) -> str:
    with pytest.raises(UsageError) as raised:
        checked(*tokens, conf=conf)
    return str(raised.value)


def experiment(folder: Path, text: str, name: str = "mine") -> Path:
    place = folder / "my_conf" / "experiment" / f"{name}.yaml"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")
    return folder / "my_conf"


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60, check=True)


# ---------------------------------------------------------------- the grammar


def test_a_group_equal_to_a_name_is_sugar_for_the_key_name() -> None:
    sugar = parse_overrides(["objective=iwae", "optimizer.schedule=burda"], Catalogue.of())
    assert sugar == {"objective": {"name": "iwae"}, "optimizer": {"schedule": {"name": "burda"}}}
    plain = parse_overrides(["objective.name=iwae", "optimizer.schedule.name=burda"], Catalogue.of())
    assert plain == sugar
    assert config.resolve(["objective=iwae"])["objective"] == {"name": "iwae", "num_samples": 5}


def test_a_mapping_is_what_its_keys_would_be_one_by_one() -> None:
    as_mapping = ["optimizer={name: sgd, momentum: 0.5, schedule: {name: steps, gamma: 0.3}}"]
    one_by_one = [
        "optimizer=sgd",
        "optimizer.momentum=0.5",
        "optimizer.schedule=steps",
        "optimizer.schedule.gamma=0.3",
    ]
    nested_sugar = ["optimizer={name: sgd, momentum: 0.5, schedule: steps}", "optimizer.schedule.gamma=0.3"]
    resolved = config.resolve(one_by_one)
    assert config.resolve(as_mapping) == config.resolve(nested_sugar) == resolved
    assert resolved["optimizer"]["schedule"] == {"name": "steps", "milestones": [50, 75], "gamma": 0.3}


def test_the_command_line_beats_the_experiment_which_beats_the_defaults(tmp_path: Path) -> None:
    conf = experiment(tmp_path, "seed: 7\nobjective: {name: iwae, num_samples: 50}\nmodel: {latent_dim: 9}\n")
    assert config.resolve()["seed"] == 0
    assert config.resolve()["model"]["latent_dim"] == 50
    layered = config.resolve(["experiment=mine", "model.latent_dim=3"], Catalogue.of([conf]))
    assert layered["seed"] == 7
    assert layered["objective"] == {"name": "iwae", "num_samples": 50}
    parts = {
        "posterior": {"name": "diagonal"},
        "prior": {"name": "standard_normal"},
        "likelihood": {"name": "bernoulli"},
    }
    own = {"name": "mlp", "latent_dim": 3, "hidden": [200, 200], "activation": "tanh"}
    assert layered["model"] == {**own, **parts}
    assert "experiment" not in layered


def test_an_experiment_may_name_a_component_as_the_command_line_does(tmp_path: Path) -> None:
    conf = experiment(tmp_path, "objective: iwae\noptimizer: {schedule: burda}\n")
    layered = config.resolve(["experiment=mine", "optimizer.schedule.stages=3"], Catalogue.of([conf]))
    assert layered["objective"] == {"name": "iwae", "num_samples": 5}
    assert layered["optimizer"]["name"] == "adam"
    assert layered["optimizer"]["schedule"] == {"name": "burda", "stages": 3}


def test_an_experiment_is_as_strict_as_the_command_line(tmp_path: Path) -> None:
    def said(text: str) -> str:
        return refusal("experiment=mine", conf=[experiment(tmp_path, text)])

    assert said("objectiv: iwae\n") == "objectiv: no such key; did you mean 'objective'?"
    assert said("objective: {num_sample: 3}\n").endswith("has no such key; did you mean 'num_samples'?")
    assert said("objective: {name: iwae, target: 'os:system'}\n").startswith("objective.target: ")
    assert said("seed: 1\nseed: 2\n").endswith("mine.yaml, line 2: not valid YAML: found duplicate key seed")
    assert said("seed: [1\n").split(": ")[0].endswith("mine.yaml, line 2")
    assert "must be a mapping" in said("- seed\n")
    assert "must be a mapping" in said("1: 2\n")
    assert said("seed\n") == "seed=null: should be a valid integer"


def test_picking_another_name_drops_what_was_set_for_the_one_before(tmp_path: Path) -> None:
    conf = experiment(
        tmp_path,
        "objective: {name: iwae, num_samples: 50}\noptimizer: {name: sgd, momentum: 0.5, schedule: {name: burda}}\n",
    )
    catalogue = Catalogue.of([conf])
    other = config.resolve(["experiment=mine", "objective=beta", "optimizer=adam"], catalogue)
    assert other["objective"] == {"name": "beta", "num_samples": 1, "beta": 4.0, "kl": "analytic"}
    assert other["optimizer"] == config.resolve()["optimizer"]
    schedule = config.resolve(["experiment=mine", "optimizer.schedule=cosine"], catalogue)["optimizer"]
    assert (schedule["name"], schedule["momentum"]) == ("sgd", 0.5)
    assert schedule["schedule"] == {"name": "cosine", "epochs": 100, "warmup_epochs": 0, "final": 0.0}


def test_picking_the_same_name_again_keeps_what_was_set(tmp_path: Path) -> None:
    conf = experiment(tmp_path, "objective: {name: iwae, num_samples: 50}\n")
    again = config.resolve(["experiment=mine", "objective=iwae"], Catalogue.of([conf]))
    assert again["objective"] == {"name": "iwae", "num_samples": 50}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1e-3", 0.001),
        ("1E-3", 0.001),
        ("3e4", 30000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("1", 1),
        ("-2", -2),
        ("0", 0),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("", None),
        ("'1'", "1"),
        ("32-true", "32-true"),
        ("[1, 2]", [1, 2]),
        ("1 # a comment", 1),
        ("a#b", "a#b"),
        ("a=b", "a=b"),
        ("ïwae", "ïwae"),
    ],
)
def test_a_value_is_read_as_yaml_and_1e_minus_3_is_a_number(written: str, read: Any) -> None:
    value = parse_overrides([f"seed={written}"], Catalogue.of())["seed"]
    assert (value, type(value)) == (read, type(read))
    if not isinstance(read, str) or not written.startswith("a="):
        assert parse_yaml(f"value: {written}", "a file") == {"value": read}


def test_keys_may_come_in_any_order() -> None:
    tokens = [
        "objective.num_samples=3",
        "objective={name: iwae}",
        "optimizer.schedule.stages=2",
        "optimizer.schedule=burda",
    ]
    assert len({name_of(*order) for order in itertools.permutations(tokens)}) == 1


@pytest.mark.parametrize(
    "tokens",
    [
        ["seed=1", "seed=1"],
        ["objective=iwae", "objective=iwae"],
        ["objective=iwae", "objective.name=iwae"],
        ["objective={name: iwae}", "objective=iwae"],
        ["objective={num_samples: 3}", "objective.num_samples=3"],
        ["optimizer.schedule=burda", "optimizer={schedule: burda}"],
        ["seed=1", "seed.x=1"],
        ["seed.x=1", "seed=1"],
        ["objective={num_samples: 3, num_samples: 3}"],
        ["experiment=a", "experiment=b"],
    ],
)
def test_a_key_that_is_given_twice_is_an_error_in_any_order(tokens: list[str]) -> None:
    for order in itertools.permutations(tokens):
        with pytest.raises(UsageError, match=r"twice|already has|duplicate key"):
            parse_overrides(order, Catalogue.of())


def test_a_key_that_stands_twice_in_a_file_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    place = tmp_path / "a.yaml"
    place.write_text("seed: 1\nmodel:\n  latent_dim: 1\n  latent_dim: 2\n", encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        load_yaml(place)
    assert str(raised.value) == f"{place}, line 4: not valid YAML: found duplicate key latent_dim"


def test_an_interpolation_takes_the_value_that_the_other_key_ends_with(tmp_path: Path) -> None:
    assert config.resolve(["seed=11", "evaluation.seed=${seed}"])["evaluation"]["seed"] == 11
    conf = experiment(tmp_path, "seed: 3\nevaluation: {seed: '${seed}'}\ndata: {batch_size: '${model.latent_dim}'}\n")
    layered = config.resolve(["experiment=mine", "seed=4", "model.latent_dim=6"], Catalogue.of([conf]))
    assert (layered["evaluation"]["seed"], layered["data"]["batch_size"]) == (4, 6)


@pytest.mark.parametrize(
    ("token", "key"),
    [
        ("seed=${nope}", "seed"),
        ("seed=${seed}", "seed"),
        ("seed=${data.nope}", "seed"),
        ("seed=${data}", "seed"),
        ("seed=${", "seed"),
        ("seed=${nope:3}", "seed"),
        ("seed=${oc.env:ELBO_BENCH_NO_SUCH_VARIABLE}", "seed"),
        ("optimizer.schedule=${nope}", "schedule"),
        ("objective.num_samples='${model}'", "objective.num_samples"),
        ("objective.num_samples=???", "objective.num_samples"),
    ],
)
def test_an_interpolation_that_leads_nowhere_is_one_line_that_names_its_key(token: str, key: str) -> None:
    said = refusal(token)
    assert said.startswith((f"{key}:", f"{key}="))
    assert "\n" not in said


def test_numbers_that_yaml_reads_in_base_8_or_60_are_refused() -> None:
    assert refusal("seed=010").startswith("seed=010: YAML takes this for the number 8;")
    assert refusal("seed=1:30").startswith("seed=1:30: YAML takes this for the number 90;")
    assert checked("seed=10")["seed"] == 10
    assert checked("optimizer.lr=0.5")["optimizer"]["lr"] == 0.5


def test_the_printed_configuration_is_a_configuration_that_names_the_same_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["objective=iwae", "objective.num_samples=7", "optimizer.schedule=burda", "seed=2"]
    assert main(["train", *words, "--print-config"]) == 0
    printed = capsys.readouterr().out
    conf = experiment(tmp_path, printed)
    assert parse_yaml(printed, "printed") == checked(*words)
    assert name_of("experiment=mine", conf=[conf]) == name_of(*words)
    assert not (tmp_path / "runs").exists()


def test_the_words_of_a_command_and_its_options_may_be_mixed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "objective=iwae", "seed=5", "--print-config", "--json", "--force"]
    seen = set()
    for order in list(itertools.permutations(words[1:]))[::13]:
        assert main([words[0], *order]) == 0
        seen.add(capsys.readouterr().out)
    assert [parse_yaml(text, "printed")["seed"] for text in seen] == [5]


# ---------------------------------------------------------------- which run it is


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


def with_leaf(cfg: Config, path: tuple[str, ...], value: Any) -> Config:
    changed = copy.deepcopy(cfg)
    node = changed
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return changed


def test_the_same_configuration_by_any_route_is_the_same_run(tmp_path: Path) -> None:
    conf = [experiment(tmp_path, "optimizer: {lr: 0.5}\nobjective: {num_samples: 50, name: iwae}\nseed: 3\n")]
    routes = [
        ["seed=3", "objective=iwae", "objective.num_samples=50", "optimizer.lr=0.5"],
        ["optimizer.lr=5e-1", "objective.num_samples=50", "objective.name=iwae", "seed=3"],
        ["optimizer={lr: 0.5}", "objective={num_samples: 50, name: iwae}", "seed=3"],
        ["optimizer={lr: 0.5}", "objective={name: iwae, num_samples: '${model.latent_dim}'}", "seed=3"],
        ["experiment=mine"],
        ["experiment=mine", "seed=3", "data=digits", "optimizer=adam", "data.batch_size=100", "evaluation=importance"],
    ]
    assert {name_of(*route, conf=conf) for route in routes} == {name_of(*routes[0])}
    assert name_of(*routes[0]).startswith("digits-mlp-iwae-k50-s3-")


def test_the_order_of_keys_within_a_configuration_does_not_change_the_run() -> None:
    cfg = checked("objective=iwae", "optimizer=sgd")

    def reversed_keys(node: Any) -> Any:
        return {key: reversed_keys(node[key]) for key in reversed(node)} if isinstance(node, dict) else node

    assert list(reversed_keys(cfg)) != list(cfg)
    assert config.run_id(reversed_keys(cfg)) == config.run_id(cfg)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("optimizer.lr=1", "optimizer.lr=1.0"),
        ("optimizer.lr=1e-3", "optimizer.lr=0.001"),
        ("optimizer.weight_decay=0", "optimizer.weight_decay=0.0"),
        ("trainer.gradient_clip_norm=1", "trainer.gradient_clip_norm=1.0"),
        ("optimizer.betas=[0, 0.9]", "optimizer.betas=[0.0, 0.9]"),
    ],
)
def test_a_whole_number_for_a_float_key_is_the_same_run(one: str, other: str) -> None:
    assert name_of(one) == name_of(other)


@pytest.mark.parametrize(
    "tokens",
    [
        ["trainer.devices=2"],
        ["trainer.devices=[0, 1]"],
        ["trainer.accelerator=gpu"],
        ["trainer.strategy=ddp"],
        ["trainer.num_nodes=4"],
        ["trainer.checkpoint_seconds=0"],
        ["evaluation.workers=1"],
    ],
)
def test_where_a_run_is_computed_does_not_change_its_name(tokens: list[str]) -> None:
    assert checked(*tokens) != checked()
    assert name_of(*tokens) == name_of()


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        ["objective=iwae"],
        ["objective=beta", "optimizer=sgd", "optimizer.schedule=cosine"],
        ["data=linear_gaussian_data", "model=linear_gaussian", "optimizer.schedule=steps"],
        ["data=mnist_dynamic", "optimizer.schedule=burda"],
    ],
)
def test_every_key_but_those_of_placement_changes_the_name(tokens: list[str]) -> None:
    cfg = checked(*tokens)
    changed = {".".join(path): config.run_id(with_leaf(cfg, path, "something else")) for path in leaves(cfg)}
    same = {path for path, name in changed.items() if name == config.run_id(cfg)}
    placement = {path for path in changed if path.startswith("tracking.") or path in PLACEMENT}
    assert same == placement
    others = [name for path, name in changed.items() if path not in placement]
    assert len(set(others)) == len(others)


def test_the_placement_keys_exist_and_are_no_others() -> None:
    cfg = checked("data=array")
    assert set(PLACEMENT_KEYS) == {"tracking", *PLACEMENT}
    assert {".".join(path) for path in leaves(cfg)} >= PLACEMENT
    assert "tracking" in cfg


def test_a_runs_name_says_what_it_is_and_fits_a_file_system() -> None:
    assert name_of().rsplit("-", 1)[0] == "digits-mlp-elbo_analytic-s0"
    assert name_of("objective=iwae", "seed=12").rsplit("-", 1)[0] == "digits-mlp-iwae-k5-s12"
    assert len(name_of().rsplit("-", 1)[1]) == 10
    cfg = checked()
    long = [with_leaf(cfg, ("model", "name"), "m" * length) for length in (4000, 3999)]
    assert all(len(config.run_id(each)) <= 255 for each in long)
    assert config.run_id(long[0]) != config.run_id(long[1])


def test_a_runs_name_does_not_depend_on_hash_randomisation_or_the_folder(tmp_path: Path) -> None:
    code = "from elbo_bench import config; print(config.run_id(config.resolve(['objective=iwae'])))"
    (tmp_path / "elsewhere").mkdir()
    os.chdir(tmp_path / "elsewhere")
    assert python(code, PYTHONHASHSEED="7").stdout.strip() == name_of("objective=iwae")


def test_a_configuration_holds_plain_values_only() -> None:
    for cfg in (config.resolve(["objective=iwae"]), checked("objective=iwae")):
        kinds = {
            type(value) for path in leaves(cfg) for value in [OmegaConf.select(OmegaConf.create(cfg), ".".join(path))]
        }
        assert type(cfg["model"]["hidden"]) is list
        assert type(cfg) is type(cfg["model"]) is dict
        assert kinds <= {int, float, str, bool, type(None), type(OmegaConf.create([]))}


def test_checking_leaves_the_given_configuration_alone() -> None:
    resolved = config.resolve(["optimizer.lr=1"])
    before = copy.deepcopy(resolved)
    assert config.check(resolved)["optimizer"]["lr"] == 1.0
    assert type(config.check(resolved)["optimizer"]["lr"]) is float
    assert resolved == before
    assert type(resolved["optimizer"]["lr"]) is int


# ---------------------------------------------------------------- folders of one's own


def test_the_users_folder_comes_first_and_may_redefine_a_name(tmp_path: Path) -> None:
    own = tmp_path / "mine" / "objective" / "iwae.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# Mine.\ntarget: elbo_bench.objectives.iwae:IWAE\nnum_samples: 64\n", encoding="utf-8")
    cfg = checked("objective=iwae", conf=[tmp_path / "mine"])
    assert cfg["objective"] == {"name": "iwae", "num_samples": 64}
    assert config.run_id(cfg) == name_of("objective=iwae", "objective.num_samples=64")
    second = tmp_path / "second" / "objective" / "iwae.yaml"
    second.parent.mkdir(parents=True)
    second.write_text("target: elbo_bench.objectives.iwae:IWAE\nnum_samples: 2\n", encoding="utf-8")
    both = checked("objective=iwae", conf=[tmp_path / "second", tmp_path / "mine"])
    assert both["objective"]["num_samples"] == 2


def test_a_folder_in_the_place_of_a_yaml_is_no_name(tmp_path: Path) -> None:
    (tmp_path / "mine" / "objective" / "odd.yaml").mkdir(parents=True)
    assert "odd" not in Catalogue.of([tmp_path / "mine"]).names("objective")
    assert refusal("objective=odd", conf=[tmp_path / "mine"]).startswith("objective=odd: no such objective; ")


def test_only_what_begins_with_the_packages_name_and_a_dot_is_its_own() -> None:
    assert is_own("elbo_bench.objectives.iwae:IWAE")
    assert not any(map(is_own, ["os:system", "elbo_bench_evil.x:Y", "elbo_bench:x", "my.elbo_bench.x:Y", ""]))


def test_every_yaml_of_the_project_names_code_of_the_project() -> None:
    places = [place for place in conf_root().glob("*/*.yaml") if place.parent.name not in ("experiment", "paper")]
    assert len(places) > 10
    assert all(is_own(load_yaml(place)["target"]) for place in places)


# ---------------------------------------------------------------- errors and shown values


def test_the_nearest_name_is_offered_only_if_it_is_near() -> None:
    assert nearest("iwea", ["iwae", "elbo_mc"]) == "did you mean 'iwae'?"
    assert nearest("zzz", ["b", "a"]) == "valid: a, b"
    assert nearest("zzz", []) == "there is none"
    assert nearest(None, ["a"]) == "valid: a"
    assert nearest(["iwae"], ["iwae"]) == "did you mean 'iwae'?"


def test_values_are_shown_as_the_user_writes_them() -> None:
    assert [shown(value) for value in (None, True, 1.0, "a", [1, "b"])] == ["null", "true", "1.0", "a", '[1, "b"]']


# ---------------------------------------------------------------- cost


HEAVY = "print(sorted({'torch', 'lightning', 'wandb', 'sklearn', 'scipy', 'pydantic', 'rich'} & set(sys.modules)))"


def test_resolving_names_imports_nothing_heavy() -> None:
    code = f"import sys; from elbo_bench.config import resolve; resolve(['objective=iwae', 'model=mlp']); {HEAVY}"
    found = python(code).stdout.strip()
    assert found in ("[]", "['pydantic']")


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from elbo_bench.cli import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
{HEAVY}
print("omegaconf" in sys.modules)
"""
    assert python(code).stdout.splitlines()[-2:] == ["[]", "False"]


def test_help_takes_less_than_three_tenths_of_a_second() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    def seconds(*words: str) -> float:
        started = time.perf_counter()
        done = subprocess.run([sys.executable, *words], capture_output=True, env=env, timeout=60, check=True)
        assert done.stderr == b""
        return time.perf_counter() - started

    bare, helped = zip(*((seconds("-c", "pass"), seconds("-m", "elbo_bench", "--help")) for _ in range(5)), strict=True)
    # A machine on which Python itself takes long to start is busy with something else.
    assert statistics.median(helped) < max(0.3, statistics.median(bare) + 0.25)


@pytest.mark.parametrize("words", [["--help"], *([command, "--help"] for command in COMMANDS)], ids=" ".join)
def test_every_help_has_an_example_that_is_a_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    example = shlex.split(out.rpartition("example:")[2])
    assert example[0] == "elbo-bench"
    assert example[1] == (words[0] if len(words) == 2 else "train")
    parsed = _parse(example[1:])
    assert parsed.command == example[1]
    parse_overrides(getattr(parsed, "overrides", []), Catalogue.of())
    if parsed.command == "train":
        assert config.run_id(checked(*parsed.overrides)) != name_of()


def test_without_a_command_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: elbo-bench")
    assert err == ""
    assert {"train", "evaluate", "data"} <= set(COMMANDS)
    assert all(f"\n    {command}" in out for command in COMMANDS)


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    from elbo_bench import __version__

    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert (stop.value.code, out.getvalue()) == (0, f"elbo-bench {__version__}\n")
