"""Bad input ends with exit code 2 and one line that says what is wrong, before anything is computed or written."""

import copy
import gzip
import hashlib
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from elbo_bench.cli import main
from elbo_bench.config import catalogue, compose
from elbo_bench.config.catalogue import Catalogue, conf_root, load_yaml
from elbo_bench.errors import nearest
from elbo_bench.results.record import read_result

TINY = [
    "model.latent_dim=2",
    "model.hidden=[4]",
    "trainer.max_epochs=1",
    "evaluation.num_samples=20",
    "evaluation.num_examples=10",
]


def tree(*roots: Path) -> dict[str, bytes | None]:
    """Return every path below some folders, with the content of the files."""
    paths = [path for root in roots for path in (root, *root.rglob("*")) if path.exists()]
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the folders in which nothing may appear: the current one, that of the runs, that of the data."""
    places = [tmp_path / name for name in ("work", "runs", "data")]
    for place in places:
        place.mkdir()
    monkeypatch.chdir(places[0])
    monkeypatch.setenv("ELBO_BENCH_RUNS", str(places[1]))
    monkeypatch.setenv("ELBO_BENCH_DATA", str(places[2]))
    return places


Refused = Callable[..., str]


@pytest.fixture
def refused(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return a function that runs a command, checks that it is refused as it should be, and returns the line."""

    def run(*words: str, also: tuple[Path, ...] = ()) -> str:
        watched = [*folders, *also]
        capsys.readouterr()
        before = tree(*watched)
        code = main(list(words))
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), err
        assert err.count("\n") == 1, err
        assert err.startswith("elbo-bench: ")
        assert err.endswith("\n")
        assert err[:-1].isprintable()
        assert "Traceback" not in err
        assert tree(*watched) == before
        return err.removeprefix("elbo-bench: ").removesuffix("\n")

    return run


# ---------------------------------------------------------------- the command line

NO_KEY_VALUE = "is not of the form key=value, such as objective=iwae or optimizer.lr=1e-3"
NO_TARGET = "a target cannot be set from the command line; write a YAML and give its folder by --conf DIR"
EVALUATE = "evaluate does not change how a run was trained"
OWN = Catalogue.of()


def others(name: object, group: str) -> str:
    """Return what is offered in the place of a name; what that is has tests of its own in test_config.py."""
    return nearest(name, OWN.names(group))


def keys(name: str) -> str:
    """Return what is offered in the place of a key of the whole configuration."""
    return nearest(name, [*load_yaml(conf_root() / "config.yaml"), "experiment"])


# The words after `elbo-bench`, and the whole line.
LINES: list[tuple[list[str], str]] = [
    # Commands and options.
    (["trian"], "trian: no such command; did you mean 'train'?"),
    (["Train"], "Train: no such command; did you mean 'train'?"),
    (["--versoin"], "--versoin: no such option; did you mean '--version'?"),
    (["train", "--print-conf"], "--print-conf: no such option; did you mean '--print-config'?"),
    (["train", "--forse", "seed=1"], "--forse: no such option; did you mean '--force'?"),
    (["train", "--conf"], "argument --conf: expected one argument (see elbo-bench train --help)"),
    (["train", "--json=3"], "argument --json: ignored explicit argument '3' (see elbo-bench train --help)"),
    (["train", "--conf", "nowhere"], "--conf 'nowhere' is not a folder"),
    (["train", "--conf", ""], "--conf '' is not a folder"),
    (["train", "--conf", "a\0b"], "--conf 'a\\x00b' is not a folder"),
    (["train", "--conf", os.devnull], f"--conf '{os.devnull}' is not a folder"),
    (["evaluate"], "the following arguments are required: RUN (see elbo-bench evaluate --help)"),
    (["data"], "the following arguments are required: action (see elbo-bench data --help)"),
    (
        ["data", "fetsh"],
        "argument action: invalid choice: 'fetsh' (choose from 'list', 'fetch', 'verify', 'show') "
        "(see elbo-bench data --help)",
    ),
    (["data", "verify", "digit"], "data=digit: no such data; did you mean 'digits'?"),
    (
        ["data", "list", "--json", "iris"],
        f"data=iris: no such data; {others('iris', 'data')}",
    ),
    # Words that are not of the grammar.
    (["train", "iwae"], f"'iwae' {NO_KEY_VALUE}"),
    (["train", ""], f"'' {NO_KEY_VALUE}"),
    (["train", "=x"], f"'=x' {NO_KEY_VALUE}"),
    (["train", "="], f"'=' {NO_KEY_VALUE}"),
    (["train", "a..b=1"], f"'a..b=1' {NO_KEY_VALUE}"),
    (["train", ".seed=1"], f"'.seed=1' {NO_KEY_VALUE}"),
    (["train", "seed.=1"], f"'seed.=1' {NO_KEY_VALUE}"),
    (["train", "objective", "iwae"], f"'objective' {NO_KEY_VALUE}"),
    (["train", "objective:iwae"], f"'objective:iwae' {NO_KEY_VALUE}"),
    (["train", "seed =1"], f"'seed =1' {NO_KEY_VALUE}"),
    (["train", "a-b=1"], f"'a-b=1' {NO_KEY_VALUE}"),
    (["train", "\u202e=1"], f"'\\u202e=1' {NO_KEY_VALUE}"),
    (["train", "objective={1: 2}"], f"'objective={{1: 2}}' {NO_KEY_VALUE}"),
    (["train", "objective={a b: 2}"], f"'objective={{a b: 2}}' {NO_KEY_VALUE}"),
    # Names.
    (["train", "objectiv=iwae"], "objectiv: no such key; did you mean 'objective'?"),
    (["train", "objektïve=iwae"], "objektïve: no such key; did you mean 'objective'?"),
    (["train", "posterior=full"], f"posterior: no such key; {keys('posterior')}"),
    (["train", "schedule=burda"], f"schedule: no such key; {keys('schedule')}"),
    (["train", "name=iwae"], f"name: no such key; {keys('name')}"),
    (["train", "objective=iwea"], "objective=iwea: no such objective; did you mean 'iwae'?"),
    (["train", "objective.name=iwea"], "objective=iwea: no such objective; did you mean 'iwae'?"),
    (["train", "objective=IWAE"], f"objective=IWAE: no such objective; {others('IWAE', 'objective')}"),
    (["train", "objective="], f"objective=null: no such objective; {others('None', 'objective')}"),
    (["train", "objective=5"], f"objective=5: no such objective; {others('5', 'objective')}"),
    (["train", "objective=[iwae]"], "objective=[\"iwae\"]: no such objective; did you mean 'iwae'?"),
    (
        ["train", "objective.name.name=iwae"],
        f'objective={{"name": "iwae"}}: no such objective; {others({"name": "iwae"}, "objective")}',
    ),
    (
        ["train", "objective='../objective/iwae'"],
        f"objective=../objective/iwae: no such objective; {others('../objective/iwae', 'objective')}",
    ),
    (
        ["train", "objective=/etc/passwd"],
        f"objective=/etc/passwd: no such objective; {others('/etc/passwd', 'objective')}",
    ),
    (["train", "optimizer.schedule=burd"], "schedule=burd: no such schedule; did you mean 'burda'?"),
    (["train", "optimizer.schedule=null"], f"schedule=null: no such schedule; {others('None', 'schedule')}"),
    (["train", "trainer=lightening"], "trainer=lightening: no such trainer; did you mean 'lightning'?"),
    (["train", "module=nope"], f"module=nope: no such module; {others('nope', 'module')}"),
    (
        ["train", "objective.num_sample=3"],
        "objective.num_sample: objective elbo_analytic has no such key; did you mean 'num_samples'?",
    ),
    (["train", "objective.nme=iwae"], "objective.nme: objective elbo_analytic has no such key; valid: num_samples"),
    (
        ["train", "objective=iwae", "objective.beta=2"],
        "objective.beta: objective iwae has no such key; valid: num_samples",
    ),
    (
        ["train", "optimizer.shedule=burda"],
        "optimizer.shedule: optimizer adam has no such key; did you mean 'schedule'?",
    ),
    (
        ["train", "optimizer.schedule.stages=3"],
        "optimizer.schedule.stages: schedule constant has no such key; there is none",
    ),
    (
        ["train", "optimizer.schedule=burda", "optimizer.schedule.stage=3"],
        "optimizer.schedule.stage: schedule burda has no such key; did you mean 'stages'?",
    ),
    (["train", "seed.x=1"], 'seed={"x": 1}: seed is a plain value, not a group'),
    (["train", "seed={}"], "seed={}: seed is a plain value, not a group"),
    (["train", "experiment=burda"], f"experiment=burda: no such experiment; {others('burda', 'experiment')}"),
    (["train", "experiment="], f"experiment=null: no such experiment; {others('None', 'experiment')}"),
    (["train", "seed=1", "seed=1"], "seed is given twice"),
    (["train", "objective=iwae", "objective.name=iwae"], "objective.name is given twice"),
    # Code that may not be named here.
    (["train", "objective.target=os:system"], f"objective.target: {NO_TARGET}"),
    (["train", 'objective={name: iwae, target: "os:system"}'], f"objective.target: {NO_TARGET}"),
    (["train", 'optimizer={schedule: {target: "os:system"}}'], f"optimizer.schedule.target: {NO_TARGET}"),
    (["train", "target=os:system"], f"target: {NO_TARGET}"),
    (["evaluate", "some_run", "evaluation.target=os:system"], "some_run is not a run; there is none"),
    # Types.
    (["train", "objective.num_samples=five"], "objective.num_samples=five: should be a valid integer"),
    (["train", "objective.num_samples='5'"], "objective.num_samples=5: should be a valid integer"),
    (["train", "objective.num_samples=true"], "objective.num_samples=true: should be a valid integer"),
    (["train", "objective.num_samples=2.0"], "objective.num_samples=2.0: should be a valid integer"),
    (["train", "objective.num_samples=1e2"], "objective.num_samples=100.0: should be a valid integer"),
    (["train", "objective.num_samples=[5]"], "objective.num_samples=[5]: should be a valid integer"),
    (["train", "objective.num_samples="], "objective.num_samples=null: should be a valid integer"),
    (["train", "objective.num_samples.x=3"], 'objective.num_samples={"x": 3}: should be a valid integer'),
    (["train", "objective.num_samples=2020-01-01"], "objective.num_samples=2020-01-01: should be a valid integer"),
    (["train", "optimizer.lr=abc"], "optimizer.lr=abc: should be a valid number"),
    (["train", "optimizer.lr=true"], "optimizer.lr=true: should be a valid number"),
    (["train", "optimizer.lr=nan"], "optimizer.lr=nan: should be a valid number"),
    (["train", "optimizer.betas=0.9"], "optimizer.betas=0.9: should be a valid array"),
    (["train", "optimizer.betas=[0.9]"], "optimizer.betas=[0.9]: [1]: field required"),
    (["train", "optimizer.betas=[0.9, x]"], 'optimizer.betas=[0.9, "x"]: should be [1] a valid number'),
    (["train", "model.hidden=200"], "model.hidden=200: should be a valid array"),
    (["train", "model.hidden=[200, 2.5]"], "model.hidden=[200, 2.5]: should be [1] a valid integer"),
    (["train", "data.shuffle=1"], "data.shuffle=1: should be a valid boolean"),
    (["train", "trainer.strategy=3"], "trainer.strategy=3: should be a valid string"),
    (["train", "seed=1.5"], "seed=1.5: should be a valid integer"),
    (["train", "seed=1.0"], "seed=1.0: should be a valid integer"),
    (["train", "seed=true"], "seed=true: should be a valid integer"),
    (["train", "seed=null"], "seed=null: should be a valid integer"),
    (
        ["train", "seed=!!binary YWJj"],
        "seed=\"b'abc'\": should be a plain value: a number, a string, true, false, null or a list",
    ),
    # Ranges.
    (["train", "seed=-1"], "seed=-1: should be greater than or equal to 0"),
    (["train", "seed=1e400"], "seed=Infinity: should be a finite number"),
    (["train", f"seed={2**63}"], f"seed={2**63}: should fit into 64 bits"),
    (["train", f"seed={-(2**63) - 1}"], f"seed={-(2**63) - 1}: should fit into 64 bits"),
    (["train", f"model.hidden=[{2**63}]"], f"model.hidden=[{2**63}]: should fit into 64 bits"),
    (["train", f"trainer.threads={10**30}"], f"trainer.threads={10**30}: should fit into 64 bits"),
    (["train", "objective.num_samples=0"], "objective.num_samples=0: should be greater than 0"),
    (["train", "objective.num_samples=-3"], "objective.num_samples=-3: should be greater than 0"),
    (["train", "optimizer.lr=0"], "optimizer.lr=0: should be greater than 0"),
    (["train", "optimizer.lr=-1e-3"], "optimizer.lr=-0.001: should be greater than 0"),
    (["train", "optimizer.lr=.nan"], "optimizer.lr=NaN: should be a finite number"),
    (["train", "optimizer.lr=.inf"], "optimizer.lr=Infinity: should be a finite number"),
    (["train", "optimizer.lr=-.inf"], "optimizer.lr=-Infinity: should be a finite number"),
    (["train", "optimizer.lr=1e400"], "optimizer.lr=Infinity: should be a finite number"),
    (["train", "optimizer.betas=[0.9, 1.0]"], "optimizer.betas=[0.9, 1.0]: should be [1] less than 1"),
    (["train", "optimizer.betas=[.nan, 0.9]"], "optimizer.betas=[NaN, 0.9]: should be a finite number"),
    (
        ["train", "optimizer.betas=[0.9, 0.99, 0.999]"],
        "optimizer.betas=[0.9, 0.99, 0.999]: tuple should have at most 2 items after validation, not 3",
    ),
    (["train", "model.latent_dim=0"], "model.latent_dim=0: should be greater than 0"),
    (["train", "model.hidden=[0]"], "model.hidden=[0]: should be [0] greater than 0"),
    (["train", "data.batch_size=0"], "data.batch_size=0: should be greater than 0"),
    (["train", "trainer.max_epochs=0"], "trainer.max_epochs=0: should be greater than 0 or 'auto'"),
    (["train", "trainer.checkpoint_seconds=-1"], "trainer.checkpoint_seconds=-1: should be greater than or equal to 0"),
    (["train", "trainer.gradient_clip_norm=0"], "trainer.gradient_clip_norm=0: should be greater than 0"),
    (["train", "evaluation.num_samples=1"], "evaluation.num_samples=1: should be greater than or equal to 2"),
    (["train", "evaluation.num_examples=0"], "evaluation.num_examples=0: should be greater than 0"),
    (
        ["train", "data=mnist_dynamic", "data.num_validation=10001"],
        "data.num_validation=10001: should be less than or equal to 10000",
    ),
    (
        ["train", "optimizer.schedule=burda", "optimizer.schedule.stages=0"],
        "optimizer.schedule.stages=0: should be greater than or equal to 1",
    ),
    # One of a few words.
    (["train", "model.activation=gelu"], "model.activation=gelu: should be 'tanh', 'relu', 'elu' or 'softplus'"),
    (["train", "evaluation.split=tset"], "evaluation.split=tset: should be 'test', 'validation' or 'train'"),
    (
        ["train", "trainer.precision=16"],
        "trainer.precision=16: should be '32-true', '64-true', '16-mixed' or 'bf16-mixed'",
    ),
    (["train", "trainer.checkpoint=first"], "trainer.checkpoint=first: should be 'last' or 'best'"),
    # Values that do not go together.
    (
        ["train", "trainer.max_epochs=null"],
        "trainer=lightning: one of max_epochs, max_steps and the keys of budget must be a number",
    ),
    (["train", "optimizer=sgd", "optimizer.nesterov=true"], "optimizer=sgd: nesterov=true needs a momentum above 0"),
    (
        ["train", "optimizer.schedule=cosine", "optimizer.schedule.warmup_epochs=100"],
        "schedule=cosine: warmup_epochs=100 must be less than epochs=100",
    ),
    (
        ["train", "objective=iwae", "objective.num_samples=6", "evaluation.num_samples=11"],
        "evaluation.num_samples=11 is too few for the objective trained with (6 a value, "
        "and its error takes two values): at least 12",
    ),
    (["train", "evaluation.num_examples=251"], "evaluation.num_examples=251: the test split has 250 examples"),
    (
        ["train", "evaluation.split=train", "evaluation.num_examples=1298"],
        "evaluation.num_examples=1298: the train split has 1297 examples",
    ),
    (
        ["train", "data=linear_gaussian_data"],
        "model=mlp: a Bernoulli likelihood needs binary data, and this data is continuous: "
        "take gaussian, or continuous_bernoulli if all of it lies in [0, 1]",
    ),
    (
        ["train", "model=linear_gaussian"],
        "model=linear_gaussian: a Gaussian likelihood needs continuous data, and this data is discrete",
    ),
    # YAML that is none.
    (["train", "seed=[1"], "seed=[1: not valid YAML: did not find expected ',' or ']'"),
    (["train", "seed={"], "seed={: not valid YAML: did not find expected node content"),
    (["train", 'seed="'], 'seed=": not valid YAML: found unexpected end of stream'),
    (["train", "seed=a: b: c"], "seed=a: b: c: should be a valid integer"),
    (["train", "seed=@"], "seed=@: should be a valid integer"),
    (["train", "seed=*a"], "seed=*a: should be a valid integer"),
    (["train", "seed=!!int x"], "seed=!!int x: should be a valid integer"),
    (["train", "seed={a: 1, a: 2}"], "seed={a: 1, a: 2}: not valid YAML: found duplicate key a"),
    (
        ["train", "seed=!!python/object/apply:os.system [ls]"],
        "seed=!!python/object/apply:os.system [ls]: should be a valid integer",
    ),
    # Values that would break a line, a terminal or a parser.
    (["train", "seed=1\n2"], "seed=1 2: should be a valid integer"),
    (["train", "seed=1\n"], "seed=1 : should be a valid integer"),
    (["train", "seed=1\rmodel: 2"], "seed=1 model: 2: should be a valid integer"),
    (["train", "seed=1\u2028model: 2"], "seed=1 model: 2: should be a valid integer"),
    (
        ["train", "objective=\x1b[31m"],
        "objective=\\x1b[31m: not valid YAML: unacceptable character #x001b: control characters are not allowed",
    ),
    (["train", 'objective="\\e[31miwae"'], "objective=\\x1b[31miwae: no such objective; did you mean 'miwae'?"),
    (["train", 'objective="i\\nwae"'], "objective=i wae: no such objective; did you mean 'iwae'?"),
    (["train", "objective=i\u202ewae"], "objective=i\\u202ewae: no such objective; did you mean 'iwae'?"),
    (["train", "objective=ïwae"], "objective=ïwae: no such objective; did you mean 'iwae'?"),
    (
        ["train", "objective=\udc80"],
        "objective=\\udc80: not valid YAML: 'utf-8' codec can't encode character '\\udc80' in position 7: "
        "surrogates not allowed",
    ),
    (
        ["train", "objective=\0"],
        "objective=\\x00: not valid YAML: unacceptable character #x0000: control characters are not allowed",
    ),
    # What evaluate refuses before it reads a record.
    (["evaluate", "nothing"], "nothing is not a run; there is none"),
    (["evaluate", "a\0b"], "a\\x00b is not a run; there is none"),
    (["evaluate", os.devnull], f"{os.devnull} is not a run; there is none"),
    (["evaluate", "."], ". is not a run; there is none"),
    (["evaluate", "nothing", "--forse"], "--forse: no such option; did you mean '--force'?"),
]


@pytest.mark.parametrize(
    ("words", "line"), LINES, ids=lambda value: ascii(" ".join(value))[1:80] if isinstance(value, list) else ""
)
def test_bad_words_are_refused_in_one_line(refused: Refused, words: list[str], line: str) -> None:
    assert refused(*words) == line


# The words, and what the line must hold: where others word it, or it is long.
HOLDING: list[tuple[list[str], list[str]]] = [
    (["frobnicate", "seed=1"], ["frobnicate: no such command; valid: ", "evaluate", "train"]),
    (["objective=iwae"], ["objective=iwae: no such command; valid: ", "evaluate", "train"]),
    ([""], [": no such command; valid: ", "evaluate", "train"]),
    (["train", "seed=1", "-x"], ["-x: no such option; valid: ", "--conf", "--print-config"]),
    (["train", "--trust"], ["--trust: no such option; "]),
    (["train", "--objective=iwae"], ["--objective=iwae: no such option; valid: ", "--conf", "--print-config"]),
    (["train", "objective=" + "a" * 100_000], ["objective=aaa", " ... ", "aaa: no such objective; valid: ", "iwae"]),
    (["train", "a" * 100_000 + "=1"], ["aaaa", " ... ", "aaaa: no such key; valid: ", "objective"]),
    (["train", "a." * 3000 + "a=1"], ["a: no such key; valid: ", "objective"]),
    (["train", "objective." + "a." * 3000 + "a=1"], ["objective.a: objective elbo_analytic has no such key"]),
    (["train", "seed=" + "[" * 5000], ["seed=[[[", "not valid YAML"]),
    (["train", "seed=" + "[" * 5000 + "]" * 5000], ["seed=[[[", "not valid YAML"]),
    (["train", "seed=" + "[" * 300 + "]" * 300], ["seed=[[["]),
    (["train", "seed=" + "9" * 5000], ["seed=999", "not valid YAML", "4300 digits"]),
    (["train", f"objective.num_samples={10**18}"], ["evaluation.num_samples=5000", str(2 * 10**18)]),
    (["train", f"model.latent_dim={10**12}"], ["model=mlp: too large for this machine: ", "allocate"]),
    (["train", f"model.latent_dim={10**18}"], ["model=mlp: too large for this machine: "]),
    (
        ["train", "data=linear_gaussian_data", "model=linear_gaussian", f"data.num_train={10**15}"],
        ["data=linear_gaussian_data: too large for this machine: ", "PiB"],
    ),
    (
        ["train", f"objective.num_samples={10**14}", f"evaluation.num_samples={10**15}"],
        ["objective=elbo_analytic: too large for this machine: ", "PiB"],
    ),
    (["train", "seed=${nope}"], ["seed: ", "'nope' not found"]),
    (["train", "seed=${seed}"], ["seed: ", "Recursive interpolation"]),
    (["train", "trainer.devices=0"], ["trainer.devices=0: should be greater than 0"]),
    (["train", "trainer.devices=-1"], ["trainer.devices=-1: should be greater than 0"]),
    (["train", "trainer.devices=2.0"], ["trainer.devices=2.0: should be a valid integer"]),
    (["train", "trainer.devices=all"], ["trainer: ", "devices"]),
    (["train", "trainer.devices=[]"], ["trainer: ", "devices=[]"]),
    (["train", "trainer.devices=[-1]"], ["trainer: ", "devices"]),
    (["train", "trainer.accelerator=warp"], ["trainer: ", "accelerator='warp'", "cpu"]),
    (["train", "trainer.accelerator='\\n'"], ["trainer: ", "accelerator"]),
    (["train", "trainer.strategy=dpp"], ["trainer: ", "strategy='dpp'", "ddp"]),
    (["train", "data=mnist_dynamic"], ["train-images-idx3-ubyte.gz is missing", "ELBO_BENCH_DATA"]),
    (
        ["train", "data=mnist_static"],
        ["binarized_mnist_train.amat is missing", "ELBO_BENCH_DATA", "`elbo-bench data fetch mnist_static`"],
    ),
    (["evaluate", "x" * 5000], ["xxx", "is not a run"]),
    (["evaluate", "a/" * 4000], ["a/a/", "is not a run"]),
    (["evaluate", "~nobody_of_that_name/run"], ["~nobody_of_that_name/run is not a run"]),
    (["evaluate", ""], ["is not a run"]),
]


@pytest.mark.parametrize(("words", "held"), HOLDING, ids=lambda value: ascii(" ".join(value))[1:60])
def test_bad_words_that_others_judge_are_refused_in_one_line(
    refused: Refused, words: list[str], held: list[str]
) -> None:
    line = refused(*words)
    assert all(part in line for part in held), line
    assert len(line) < 1000


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_gpu_that_is_not_there_is_refused(refused: Refused, accelerator: str) -> None:
    line = refused("train", f"trainer.accelerator={accelerator}")
    assert line.startswith("trainer: ")
    assert accelerator in line.lower()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train", "objective=iwea"], "objective=iwea: no such objective; did you mean 'iwae'?"),
        (["train", "objective.num_samples=0"], "objective.num_samples=0: should be greater than 0"),
        (["train", "evaluation.num_examples=251"], "evaluation.num_examples=251: the test split has 250 examples"),
        (["evaluate", "run"], "run is not a run; there is none"),
    ],
)
def test_bad_words_are_refused_whatever_the_folder_of_runs_is(
    refused: Refused, folders: list[Path], monkeypatch: pytest.MonkeyPatch, words: list[str], line: str
) -> None:
    (folders[0] / "a_file").write_text("not a folder", encoding="utf-8")
    for place in (folders[0] / "a_file", folders[0] / "a_file" / "runs", folders[0] / "not_there"):
        monkeypatch.setenv("ELBO_BENCH_RUNS", str(place))
        assert refused(*words) == line
    monkeypatch.delenv("ELBO_BENCH_RUNS")
    assert refused(*words) == line
    folders[1].chmod(0o555)
    monkeypatch.setenv("ELBO_BENCH_RUNS", str(folders[1]))
    assert refused(*words) == line


def test_a_folder_of_runs_that_cannot_be_made_is_refused_before_training(
    refused: Refused, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders[0] / "a_file").write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv("ELBO_BENCH_RUNS", str(folders[0] / "a_file"))
    line = refused("train", *TINY)
    assert line.startswith(f"run folder {folders[0] / 'a_file'}/digits-mlp-elbo_analytic-s0-")
    assert line.endswith("cannot be made: Not a directory")


def failed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must fail on the way, and return the last line."""
    code = main(list(words))
    out, err = capsys.readouterr()
    assert (code, out) == (3, ""), err
    assert "Traceback" not in err
    return err.splitlines()[-1]


def test_memory_that_runs_out_on_the_way_fails_the_run_and_leaves_no_record(
    folders: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    line = failed(capsys, "train", *TINY, f"evaluation.block_size={10**15}")
    assert line.startswith("elbo-bench: out of memory: ")
    assert [path.name for path in folders[1].glob("*/*")].count("result.json") == 0
    assert [path.name for path in folders[1].glob("*/*")].count("config.yaml") == 1


def test_a_disk_that_is_full_fails_the_run_in_one_line(
    folders: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(place: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(place))

    monkeypatch.setattr(Path, "write_text", full)
    line = failed(capsys, "train", *TINY)
    assert line.endswith("/config.yaml: No space left on device")
    assert not list(folders[1].glob("*/result.json"))


def test_a_home_of_nobody_is_refused(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELBO_BENCH_RUNS", "~no_one_of_that_name/runs")
    assert refused("train", *TINY) == "ELBO_BENCH_RUNS=~no_one_of_that_name/runs: home folder not found"


# ---------------------------------------------------------------- YAML


def conf(folder: Path, text: str, group: str = "objective", name: str = "mine") -> str:
    place = folder / "my_conf" / group / f"{name}.yaml"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")
    return str(folder / "my_conf")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("num_samples: 1\n", "its YAML must say `target: package.module:Name`, not None"),
        ("", "its YAML must say `target: package.module:Name`, not None"),
        ("target: 5\n", "its YAML must say `target: package.module:Name`, not 5"),
        ("target: os.system\n", "its YAML must say `target: package.module:Name`, not 'os.system'"),
        ("target: a:b:c\n", "its YAML must say `target: package.module:Name`, not 'a:b:c'"),
        (
            "target: no_such_package.bounds:Mine\n",
            "cannot import no_such_package.bounds:Mine (ModuleNotFoundError: No module named 'no_such_package'); "
            "is it installed, or on PYTHONPATH?",
        ),
        (
            "target: elbo_bench.objectives.iwae:Nope\n",
            "cannot import elbo_bench.objectives.iwae:Nope (AttributeError: module 'elbo_bench.objectives.iwae' "
            "has no attribute 'Nope'); is it installed, or on PYTHONPATH?",
        ),
        (
            "target: ':Mine'\n",
            "cannot import :Mine (ValueError: Empty module name); is it installed, or on PYTHONPATH?",
        ),
        ("target: math:pi\n", "math:pi is not callable"),
        (
            "target: elbo_bench.objectives.base:Objective\nnum_samples: 1\n",
            "elbo_bench.objectives.base:Objective is abstract: it does not define __call__, direction",
        ),
    ],
)
def test_a_yaml_whose_target_is_nothing_to_call_is_refused(
    refused: Refused, tmp_path: Path, text: str, line: str
) -> None:
    assert refused("train", "--conf", conf(tmp_path, text), "objective=mine") == f"objective=mine: {line}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("target: [1\n", "mine.yaml, line 2: not valid YAML: did not find expected ',' or ']'"),
        ("- target\n", "mine.yaml: must be a mapping of names to values"),
        ("target: a\ntarget: b\n", "mine.yaml, line 2: not valid YAML: found duplicate key target"),
        (
            "a: \x1b[31m\n",
            "mine.yaml: not valid YAML: unacceptable character #x001b: control characters are not allowed",
        ),
    ],
)
def test_a_yaml_that_is_none_is_refused_with_its_line(refused: Refused, tmp_path: Path, text: str, line: str) -> None:
    folder = conf(tmp_path, text)
    assert refused("train", "--conf", folder, "objective=mine") == f"{folder}/objective/{line}"


def test_a_yaml_that_is_not_utf_8_is_refused(refused: Refused, tmp_path: Path) -> None:
    folder = conf(tmp_path, "")
    Path(folder, "objective", "mine.yaml").write_bytes(b"target: \xff\xfe\n")
    line = refused("train", "--conf", folder, "objective=mine")
    assert line.startswith(f"{folder}/objective/mine.yaml cannot be read: 'utf-8' codec")


@pytest.mark.parametrize(
    ("group", "text", "line"),
    [
        (
            "objective",
            "target: elbo_bench.errors:shown\nvalue: 3\n",
            "objective=mine: it is no elbo_bench.objectives.base.Objective",
        ),
        (
            "objective",
            "target: builtins:dict\n",
            "objective=mine: its parameters cannot be read "
            "(ValueError: no signature found for builtin type <class 'dict'>)",
        ),
        ("model", "target: collections:Counter\n", "model=mine: it is no torch.nn.modules.module.Module"),
        (
            "optimizer",
            "target: collections:Counter\n",
            "optimizer=mine: it is no elbo_bench.training.optimizers.Optimizer",
        ),
        (
            "trainer",
            "target: collections:Counter\n",
            "trainer=mine: it is no elbo_bench.training.options.TrainerOptions",
        ),
        (
            "evaluation",
            "target: collections:Counter\n",
            "evaluation=mine: it is no elbo_bench.evaluation.evaluator.Evaluator",
        ),
        ("data", "target: collections:Counter\n", "data=mine: it is no elbo_bench.data.dataset.DataSource"),
        (
            "module",
            "target: collections:Counter\n",
            "module=mine: it must be a LightningModule with an attribute `model`",
        ),
    ],
)
def test_a_target_of_another_kind_is_refused(
    refused: Refused, tmp_path: Path, group: str, text: str, line: str
) -> None:
    assert refused("train", "--conf", conf(tmp_path, text, group), f"{group}=mine") == line


def test_the_projects_own_yaml_may_not_name_code_from_elsewhere(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = tmp_path / "conf"
    shutil.copytree(catalogue.conf_root(), copied)
    (copied / "objective" / "evil.yaml").write_text("target: planted_in_conf:Bound\n", encoding="utf-8")
    plant(tmp_path, monkeypatch, "planted_in_conf")
    for module in (catalogue, compose):
        monkeypatch.setattr(module, "conf_root", lambda: copied)
    assert refused("train", "objective=evil") == (
        "objective=evil: planted_in_conf:Bound is not part of elbo_bench; name it from a folder of your own, --conf DIR"
    )
    assert "planted_in_conf" not in sys.modules
    assert not (tmp_path / "it_ran").exists()


# ---------------------------------------------------------------- data files


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("mnist_dynamic", "mnist/train-images-idx3-ubyte.gz"),
        ("mnist_static", "static_mnist/binarized_mnist_train.amat"),
        ("caltech101_silhouettes", "caltech101_silhouettes/caltech101_silhouettes_28_split1.mat"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"not gzip", gzip.compress(b"\0" * 100, mtime=0), b"\x1f\x8b"])
def test_a_data_file_that_is_not_the_official_one_is_refused(
    refused: Refused, folders: list[Path], name: str, path: str, content: bytes
) -> None:
    place = folders[2] / path
    place.parent.mkdir()
    place.write_bytes(content)
    line = refused("train", f"data={name}")
    assert line.startswith(f"data file {place} is not the official one: {len(content)} bytes, expected ")


@pytest.mark.parametrize("content", [b"", b"not MATLAB"])
def test_a_data_file_of_no_known_size_is_refused_by_its_hash(
    refused: Refused, folders: list[Path], content: bytes
) -> None:
    place = folders[2] / "omniglot" / "chardata.mat"
    place.parent.mkdir()
    place.write_bytes(content)
    found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()[:16]
    line = refused("train", "data=omniglot_burda")
    assert line == f"data file {place} is not the official one: git's SHA-1 {found}..., expected 016a3536ffe5e1d3..."


def test_a_data_file_that_is_a_folder_is_refused(refused: Refused, folders: list[Path]) -> None:
    place = folders[2] / "mnist" / "train-images-idx3-ubyte.gz"
    place.mkdir(parents=True)
    assert refused("train", "data=mnist_dynamic") == f"data file {place} is not a file"


# ---------------------------------------------------------------- records


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of one small run."""
    runs = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELBO_BENCH_RUNS", str(runs))
        assert main(["train", *TINY]) == 0
    (folder,) = runs.iterdir()
    return folder


@pytest.fixture
def run(trained: Path, folders: list[Path]) -> Path:
    """Return a copy of the run that a test may spoil."""
    return Path(shutil.copytree(trained, folders[1] / "a_run"))


def plant(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Put a module on the path that leaves a file behind when it is imported."""
    code = [
        "from pathlib import Path",
        f"Path({str(folder / 'it_ran')!r}).touch()",
        "from elbo_bench.objectives.iwae import IWAE as Bound",
    ]
    (folder / "planted").mkdir()
    (folder / "planted" / f"{name}.py").write_text("\n".join(code), encoding="utf-8")
    monkeypatch.syspath_prepend(folder / "planted")
    monkeypatch.delitem(sys.modules, name, raising=False)


def rewrite(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    record = json.loads((run / "result.json").read_text(encoding="utf-8"))
    (run / "result.json").write_text(json.dumps(change(record) or record), encoding="utf-8")


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for part in parents:
            record = record[part]
        record[last] = value

    return change


def drop(path: str) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for part in parents:
            record = record[part]
        del record[last]

    return change


def nest(record: dict[str, Any]) -> None:
    node = record["cfg"]["optimizer"]
    for _ in range(450):
        node["schedule"] = {"name": "constant"}
        node = node["schedule"]


def test_the_run_that_these_tests_spoil_can_be_evaluated(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert main(["evaluate", str(run), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["metrics"] == before["metrics"]
    assert Path(again["folder"]).parent == run / "evaluations"
    assert again["run_id"] == before["run_id"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "is not a result: Expecting value"),
        ("{", "is not a result: Expecting property name"),
        ('{"schema_version": 3, "run_id": "a', "is not a result: Unterminated string"),
        ("null", "is not a result: it is not a mapping"),
        ("[]", "is not a result: it is not a mapping"),
        ('"text"', "is not a result: it is not a mapping"),
        ("{}", "is not a result: its schema_version is None, and this program reads 3"),
        ('{"a": NaN}', "is not a result: it holds NaN"),
        ('{"a": Infinity}', "is not a result: it holds Infinity"),
        ('{"a": -Infinity}', "is not a result: it holds -Infinity"),
        ('{"a": 1e400}', "is not a result: it holds 1e400"),
        ("[" * 100_000, "is not a result: maximum recursion depth exceeded"),
        ('{"a": ' + "9" * 5000 + "}", "is not a result: Exceeds the limit (4300 digits)"),
        ("\ufeff{}", "is not a result: Unexpected UTF-8 BOM"),
        (" " * (16 * 2**20 + 1), "is not a result: it is larger than 16777216 bytes"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_record_that_is_no_json_is_refused(refused: Refused, run: Path, text: str, line: str) -> None:
    (run / "result.json").write_text(text, encoding="utf-8")
    assert refused("evaluate", str(run)).startswith(f"{run}/result.json {line}")


def test_a_record_that_is_no_text_is_refused(refused: Refused, run: Path) -> None:
    (run / "result.json").write_bytes(b"\xff\xfe{}")
    assert refused("evaluate", "a_run").startswith(f"{run}/result.json is not a result: 'utf-8' codec")


INTEGER, NUMBER, TEXT, MAPPING = (f"should be a valid {kind}" for kind in ("integer", "number", "string", "dictionary"))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (put("schema_version", 1), "its schema_version is 1, and this program reads 3"),
        (put("schema_version", "3"), "its schema_version is '3', and this program reads 3"),
        (put("schema_version", True), "its schema_version is True, and this program reads 3"),
        (put("schema_version", None), "its schema_version is None, and this program reads 3"),
        (drop("run_id"), "it has no run_id"),
        (drop("cfg"), "it has no cfg"),
        (drop("provenance"), "it has no provenance"),
        (put("run_id", 5), f"run_id: {TEXT}"),
        (put("run_id", "\x1b[31mred"), "run_id: it cannot be printed"),
        (put("run_id", "\ud800"), "unexpected end of hex escape at line 1 column 40"),
        (put("seed", True), f"seed: {INTEGER}"),
        (put("seed", 1.0), f"seed: {INTEGER}"),
        (put("cfg", []), f"cfg: {MAPPING}"),
        (put("checkpoint", None), f"checkpoint: {MAPPING}"),
        (put("metrics", []), f"metrics: {MAPPING}"),
        (put("metrics.log_px", 3), f"metrics.log_px: {MAPPING}"),
        (put("metrics.log_px", []), f"metrics.log_px: {MAPPING}"),
        (drop("metrics.log_px.se_test"), "it has no metrics.log_px.se_test"),
        (put("metrics.log_px.more", 1), "metrics.log_px.more: a metric has no such key"),
        (put("metrics.log_px.value", "3"), f"metrics.log_px.value: {NUMBER}"),
        (put("metrics.log_px.value", None), f"metrics.log_px.value: {NUMBER}"),
        (put("metrics.log_px.value", True), f"metrics.log_px.value: {NUMBER}"),
        (put("metrics.log_px.value", 10**400), f"metrics.log_px.value: {NUMBER}"),
        (put("metrics.log_px.se_test", "0.1"), f"metrics.log_px.se_test: {NUMBER}"),
        (put("metrics.log_px.se_test", True), f"metrics.log_px.se_test: {NUMBER}"),
        (put("metrics.log_px.n", 2.5), f"metrics.log_px.n: {INTEGER}"),
        (put("metrics.log_px.unit", None), f"metrics.log_px.unit: {TEXT}"),
        (put("metrics.log_px.unit", "\x07"), "metrics.log_px.unit: it cannot be printed"),
        (drop("data.num_examples"), "it has no data.num_examples"),
        (drop("objective.name"), "it has no objective.name"),
        (put("truth.num_samples", "many"), f"truth.num_samples: {INTEGER}"),
        (put("truth", {}), "it has no truth.tier"),
        (put("diagnostics.share_passing", "all"), f"diagnostics.share_passing: {NUMBER}"),
        (put("diagnostics.pareto_k_max", "none"), f"diagnostics.pareto_k_max: {NUMBER}"),
    ],
)
def test_a_record_of_another_form_is_refused(
    refused: Refused, run: Path, change: Callable[[dict[str, Any]], None], line: str
) -> None:
    rewrite(run, change)
    assert refused("evaluate", str(run)) == f"{run}/result.json is not a result: {line}"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (put("cfg", {}), "the recorded configuration has no seed"),
        (drop("cfg.seed"), "the recorded configuration has no seed"),
        (drop("cfg.model"), "the recorded configuration has no model"),
        (drop("cfg.model.name"), "the recorded configuration does not say which model the run used"),
        (put("cfg.model.name", ["mlp"]), "the recorded configuration does not say which model the run used"),
        (put("cfg.modell", {"name": "mlp"}), "the recorded configuration has the key modell; did you mean 'model'?"),
        (put("cfg.model.name", "mpl"), "model=mpl: no such model; did you mean 'mlp'?"),
        (put("cfg.model", None), f"model=null: no such model; {others('None', 'model')}"),
        (put("cfg.model", 3), f"model=3: no such model; {others(3, 'model')}"),
        (put("cfg.model.latent", 3), "model.latent: model mlp has no such key; did you mean 'latent_dim'?"),
        (put("cfg.model.latent_dim", 0), "model.latent_dim=0: should be greater than 0"),
        (put("cfg.model.latent_dim", "3"), "model.latent_dim=3: should be a valid integer"),
        (put("cfg.seed", -1), "seed=-1: should be greater than or equal to 0"),
        (put("cfg.seed", {"name": "x"}), 'seed={"name": "x"}: seed is a plain value, not a group'),
        (put("cfg.optimizer.schedule.name", "burd"), "schedule=burd: no such schedule; did you mean 'burda'?"),
        (
            put("cfg.objective.num_samples", "${oc.env:HOME}"),
            "the recorded configuration contains an interpolation, which is not allowed in a record",
        ),
        (put("cfg.objective.num_samples", "???"), "objective.num_samples=???: should be a valid integer"),
        (put("cfg.evaluation.num_samples", 1), "evaluation.num_samples=1: should be greater than or equal to 2"),
        (
            put("cfg.trainer.max_epochs", None),
            "trainer=lightning: one of max_epochs, max_steps and the keys of budget must be a number",
        ),
        (
            put("cfg.objective", {"name": "iwae", "num_samples": 11}),
            "evaluation.num_samples=20 is too few for the objective trained with (11 a value, "
            "and its error takes two values): at least 22",
        ),
        (
            put("cfg.data", {"name": "linear_gaussian_data"}),
            "model=mlp: a Bernoulli likelihood needs binary data, and this data is continuous: "
            "take gaussian, or continuous_bernoulli if all of it lies in [0, 1]",
        ),
    ],
)
def test_a_recorded_configuration_that_cannot_be_run_is_refused(
    refused: Refused, run: Path, change: Callable[[dict[str, Any]], None], line: str
) -> None:
    rewrite(run, change)
    assert refused("evaluate", str(run)) == line


def test_a_recorded_configuration_without_end_is_refused(refused: Refused, run: Path) -> None:
    rewrite(run, nest)
    line = refused("evaluate", str(run))
    assert any(words in line for words in ("nested too deeply", "schedule", "recursion limit"))


@pytest.mark.parametrize(
    "where", ["objective", "model", "data", "module", "optimizer.schedule", "trainer", "evaluation"]
)
@pytest.mark.parametrize("name", ["mine", None], ids=["a name of its own", "the project's name"])
def test_code_that_only_a_record_names_is_not_imported(
    refused: Refused, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, name: str | None
) -> None:
    plant(tmp_path, monkeypatch, "planted_in_record")
    rewrite(run, put(f"cfg.{where}.target", "planted_in_record:Bound"))
    if name:
        rewrite(run, put(f"cfg.{where}.name", name))
    line = refused("evaluate", str(run))
    assert line.startswith(f"the run used {where.split('.')[-1]} ")
    assert line.endswith(
        "from outside elbo_bench (planted_in_record:Bound): give its folder by --conf DIR, or --trust the record"
    )
    assert "planted_in_record" not in sys.modules
    assert not (tmp_path / "it_ran").exists()


def test_a_folder_of_the_users_is_no_consent_to_other_code_of_the_record(
    refused: Refused, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, monkeypatch, "planted_in_record")
    rewrite(run, put("cfg.objective", {"name": "mine", "target": "planted_in_record:Bound", "num_samples": 3}))
    given = conf(tmp_path, "target: elbo_bench.objectives.iwae:IWAE\nnum_samples: 3\n")
    assert "planted_in_record:Bound" in refused("evaluate", str(run), "--conf", given)
    assert not (tmp_path / "it_ran").exists()


def test_code_that_a_record_names_is_imported_if_the_user_trusts_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(tmp_path, monkeypatch, "planted_in_record")
    rewrite(run, put("cfg.objective", {"name": "mine", "target": "planted_in_record:Bound", "num_samples": 3}))
    assert main(["evaluate", str(run), "--trust", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objective"]["samples_required"] == 3
    assert (tmp_path / "it_ran").exists()


def test_trusted_code_may_stand_within_trusted_code(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"lr": 0.1, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "their_training.py").write_text(
        "from elbo_bench.training.optimizers import Adam\nfrom elbo_bench.training.schedules import Burda\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path / "theirs")
    schedule = {"name": "theirs", "target": "their_training:Burda", "stages": 2}
    rewrite(run, put("cfg.optimizer", {"name": "theirs", "target": "their_training:Adam", **own, "schedule": schedule}))
    assert main(["evaluate", str(run), "--trust", "--json"]) == 0
    optimizer = json.loads(capsys.readouterr().out)["cfg"]["optimizer"]
    assert optimizer == {"name": "theirs", "target": "their_training:Adam", **own, "schedule": schedule}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["data.batch_size=3"], f"data.batch_size: {EVALUATE}; "),
        (["data=mnist_static"], f"data.name: {EVALUATE}; "),
        (
            ["data.path=x"],
            "data.path: data digits has no such key; "
            "valid: batch_size, logit_alpha, shuffle, test_binarization, values",
        ),
        (["model.latent_dim=3"], f"model: {EVALUATE}; "),
        (["model=mlp"], f"model: {EVALUATE}; "),
        (["seed=3"], f"seed: {EVALUATE}; "),
        (["objective=iwae"], f"objective: {EVALUATE}; "),
        (
            ["evaluatoin.seed=3"],
            f"evaluatoin: {EVALUATE}; did you mean 'evaluation'?",
        ),
        (
            ["trainer.max_epochs=3"],
            f"trainer.max_epochs: {EVALUATE}; ",
        ),
        (
            ["trainer.device=3"],
            f"trainer.device: {EVALUATE}; did you mean 'devices'?",
        ),
        (
            ["trainer=lightning"],
            f"trainer.name: {EVALUATE}; ",
        ),
        (
            ["evaluation.num_sample=3"],
            "evaluation.num_sample: evaluation importance has no such key; did you mean 'num_samples'?",
        ),
        (["evaluation.num_samples=1"], "evaluation.num_samples=1: should be greater than or equal to 2"),
        (["evaluation.num_samples=2.5"], "evaluation.num_samples=2.5: should be a valid integer"),
        (["evaluation.num_examples=251"], "evaluation.num_examples=251: the test split has 250 examples"),
        (["evaluation=exact"], f"evaluation=exact: no such evaluation; {others('exact', 'evaluation')}"),
        (["evaluation.target=os:system"], f"evaluation.target: {NO_TARGET}"),
        (["evaluation.seed=1", "evaluation.seed=1"], "evaluation.seed is given twice"),
        (["batch"], f"'batch' {NO_KEY_VALUE}"),
        (["--conf", "nowhere"], "--conf 'nowhere' is not a folder"),
    ],
)
def test_evaluate_refuses_what_is_not_its_business(refused: Refused, run: Path, words: list[str], line: str) -> None:
    said = refused("evaluate", str(run), *words)
    assert said.startswith(line)
    assert said == line or line.endswith("; ")


@pytest.fixture
def no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """See to it that a launch that is not refused fails the test, and does not start thousands of processes."""

    def launched(*_: object, **__: object) -> None:
        raise AssertionError("this would have been started")

    monkeypatch.setattr("elbo_bench.runs.train.fit", launched)
    monkeypatch.setattr("lightning.fabric.Fabric.launch", launched)


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize("devices", ["64000", "'64000'"])
def test_far_more_processes_than_cores_are_refused(
    refused: Refused, run: Path, no_launch: None, command: str, devices: str
) -> None:
    words = [str(run), "evaluation.seed=4"] if command == "evaluate" else TINY
    cores = os.cpu_count() or 1
    line = refused(command, *words, "trainer.accelerator=cpu", f"trainer.devices={devices}")
    assert line == f"trainer.devices=64000: too many processes for {cores} cores; at most {4 * cores}"


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_processes_that_are_no_commands_of_their_own_are_refused(
    refused: Refused, run: Path, no_launch: None, command: str, strategy: str
) -> None:
    words = [str(run), "evaluation.seed=4"] if command == "evaluate" else TINY
    line = refused(command, *words, f"trainer.strategy={strategy}")
    assert line == f"trainer.strategy={strategy}: a run cannot fork or spawn; did you mean 'ddp'?"


def test_a_run_without_a_record_is_said_to_be_unfinished(refused: Refused, run: Path) -> None:
    (run / "result.json").unlink()
    assert refused("evaluate", "a_run") == f"{run} has no record yet: the run is not done"
    (run / "config.yaml").unlink()
    assert refused("evaluate", "a_run") == "a_run is not a run; there is none"


def test_the_nearest_run_is_offered(refused: Refused, run: Path) -> None:
    assert refused("evaluate", "a_rnu") == "a_rnu is not a run; did you mean 'a_run'?"


# ---------------------------------------------------------------- weights


def record_hash(run: Path) -> None:
    digest = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    rewrite(run, put("checkpoint.weights_sha256", digest))


def test_weights_that_are_missing_are_refused(refused: Refused, run: Path) -> None:
    (run / "model.safetensors").unlink()
    assert refused("evaluate", str(run)) == f"{run}/model.safetensors cannot be read: No such file or directory"


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 100, pickle.dumps({"a": 1}), b"PK\x03\x04"])
def test_weights_that_are_no_safetensors_are_refused(refused: Refused, run: Path, content: bytes) -> None:
    (run / "model.safetensors").write_bytes(content)
    record_hash(run)
    assert refused("evaluate", str(run)).startswith(f"{run}/model.safetensors is not a file of weights: ")


def test_weights_that_were_cut_short_are_refused(refused: Refused, run: Path) -> None:
    content = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(content[:-1])
    assert refused("evaluate", str(run)).startswith(f"{run}/model.safetensors is not a file of weights: ")


def test_weights_that_were_not_recorded_are_refused(refused: Refused, run: Path) -> None:
    place = run / "model.safetensors"
    state = safetensors.torch.load_file(place)
    place.write_bytes(safetensors.torch.save({name: value + 1e-3 for name, value in state.items()}))
    digest = hashlib.sha256(place.read_bytes()).hexdigest()[:16]
    assert refused("evaluate", str(run)) == f"{place} is not the file that was recorded: its sha256 is {digest}..."


@pytest.mark.parametrize("change", ["shape", "missing", "unexpected"])
def test_weights_of_another_model_are_refused(refused: Refused, run: Path, change: str) -> None:
    place = run / "model.safetensors"
    state = safetensors.torch.load_file(place)
    first = min(state)
    if change == "unexpected":
        state["another"] = torch.zeros(1)
    elif change == "missing":
        del state[first]
    else:
        state[first] = torch.zeros(3, 3, 3)
    place.write_bytes(safetensors.torch.save(state))
    record_hash(run)
    line = refused("evaluate", str(run))
    assert line.startswith(f"{place} does not fit the recorded model: ")
    assert ("another" if change == "unexpected" else first) in line


class Malicious:
    """What a checkpoint may hold that is no tensor: unpickling it makes a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.place,)


def test_a_checkpoint_that_holds_code_does_not_run_it(refused: Refused, run: Path, tmp_path: Path) -> None:
    place = run / "checkpoints" / "last.ckpt"
    good = torch.load(place, weights_only=True)
    torch.save({**good, "callbacks": Malicious(tmp_path / "it_ran")}, place)
    line = refused("evaluate", str(place))
    assert line.startswith(f"checkpoint {place} cannot be read: ")
    assert not (tmp_path / "it_ran").exists()
    place.write_bytes(pickle.dumps(Malicious(tmp_path / "it_ran")))
    assert refused("evaluate", str(place)).startswith(f"checkpoint {place} cannot be read: ")
    assert not (tmp_path / "it_ran").exists()
    pickle.loads(place.read_bytes())
    assert (tmp_path / "it_ran").exists(), "this test's own trap does not work"


OWN = {"elbo_bench_run": ...}  # the name of the run itself


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read: "),
        (b"not a checkpoint", "cannot be read: "),
        ({"state_dict": 3}, "is not a checkpoint: it has no state_dict"),
        ([1, 2], "is not a checkpoint: it has no state_dict"),
        ({}, "is not a checkpoint: it has no state_dict"),
        ({"state_dict": {}}, "was written by an unknown run, not by "),
        ({"state_dict": {}, "elbo_bench_run": "another"}, "was written by the run another, not by "),
        ({"state_dict": {}, **OWN}, "does not fit the recorded model: "),
        ({"state_dict": {5: torch.zeros(1)}, **OWN}, "does not fit the recorded model: "),
        ({"state_dict": {"model.encoder.head.loc.bias": 5}, **OWN}, "does not fit the recorded model: "),
        ({"state_dict": {"model.other": torch.zeros(1)}, **OWN}, "does not fit the recorded model: "),
    ],
    ids=ascii,
)
def test_a_checkpoint_that_is_none_is_refused(refused: Refused, run: Path, content: Any, said: str) -> None:
    place = run / "checkpoints" / "last.ckpt"
    if isinstance(content, bytes):
        place.write_bytes(content)
    else:
        if isinstance(content, dict) and content.get("elbo_bench_run") is ...:
            content = {**content, "elbo_bench_run": read_result(run)["run_id"]}
        torch.save(content, place)
    line = refused("evaluate", str(place))
    assert said in line
    assert line.startswith((f"checkpoint {place} ", f"{place} "))


def test_a_checkpoint_whose_counters_are_no_numbers_is_refused(refused: Refused, run: Path) -> None:
    place = run / "checkpoints" / "last.ckpt"
    good = torch.load(place, weights_only=True)
    torch.save({**good, "epoch": torch.zeros(3)}, place)
    assert (
        refused("evaluate", str(place)) == f"checkpoint {place} is not a checkpoint: its epoch or step is not a number"
    )


def test_a_checkpoint_outside_of_a_run_is_refused(refused: Refused, run: Path, folders: list[Path]) -> None:
    place = Path(shutil.copy(run / "checkpoints" / "last.ckpt", folders[0] / "alone.ckpt"))
    assert refused("evaluate", str(place)) == f"{place} is not a run; valid: a_run"


# ---------------------------------------------------------------- what stands already


def test_a_spoiled_record_is_not_taken_for_a_finished_run(
    refused: Refused, folders: list[Path], trained: Path, run: Path
) -> None:
    run.rename(run.with_name(trained.name))
    rewrite(folders[1] / trained.name, drop("metrics"))
    line = refused("train", *TINY)
    assert line == f"{folders[1] / trained.name}/result.json is not a result: it has no metrics"


def test_a_spoiled_evaluation_is_refused_too(refused: Refused, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--json"]) == 0
    folder = Path(json.loads(capsys.readouterr().out)["folder"])
    rewrite(folder, put("metrics.log_px.value", "many"))
    assert refused("evaluate", str(run)) == (
        f"{folder}/result.json is not a result: metrics.log_px.value: should be a valid number"
    )


def test_the_rows_of_these_tables_are_distinct() -> None:
    rows = [tuple(words) for words, _ in [*LINES, *HOLDING]]
    assert len(rows) == len(set(rows)) >= 60
    assert copy.deepcopy(rows) == rows
