"""A bound, a model and a training from outside the package take their place by a folder of YAML alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elbo_bench import config
from elbo_bench.cli import main
from elbo_bench.config.catalogue import Catalogue
from elbo_bench.data_info import DataInfo
from elbo_bench.draws import Draws, draw
from elbo_bench.noise import Noise
from elbo_bench.objectives.elbo_mc import ELBOMC
from elbo_bench.objectives.iwae import IWAE
from elbo_bench.results.record import read_result

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "tests" / "plugin"
CONF = PLUGIN / "conf"
CHOICE = ["objective=renyi", "objective.num_samples=4", "model=logistic_factors", "module=two_rates"]
TINY = ["trainer.max_epochs=1", "evaluation.num_samples=20", "evaluation.num_examples=10"]
TRAIN = ["train", "--conf", str(CONF), *CHOICE, *TINY]
INFO = DataInfo(shape=(2, 3), train_mean=torch.full((2, 3), 0.5), num_train=9, observation="discrete", num_levels=2)


def forget() -> None:
    """Forget the plug-in, so that an import of it is seen."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        del sys.modules[name]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the plug-in on the path, as `pip install` would."""
    forget()  # other tests import another package of this name
    monkeypatch.syspath_prepend(PLUGIN)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with the plug-in's bound, model and module."""
    runs = tmp_path_factory.mktemp("plugin")
    with pytest.MonkeyPatch.context() as patch:
        forget()
        patch.syspath_prepend(PLUGIN)
        patch.setenv("ELBO_BENCH_RUNS", str(runs))
        assert main(TRAIN) == 0
    (folder,) = runs.iterdir()
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the run."""
    return Path(shutil.copytree(trained, tmp_path / trained.name))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    code = main(list(words))
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1), err
    return err.removeprefix("elbo-bench: ").removesuffix("\n")


# ---------------------------------------------------------------- the plug-in itself


def test_a_plugin_is_small() -> None:
    text = (PLUGIN / "my_lab" / "bounds.py").read_text(encoding="utf-8")
    body = text[text.index("@dataclasses") :]
    documentation = body[body.index('r"""') : body.index('"""\n', body.index('r"""') + 4)]
    assert len([line for line in body.replace(documentation, "").splitlines() if line.strip()]) <= 15


def test_a_plugin_builds_by_name_in_python(installed: None) -> None:
    bound = config.build("objective", "renyi", conf=[CONF], num_samples=3, alpha=0)
    assert (type(bound).__module__, bound.num_samples, bound.alpha) == ("my_lab.bounds", 3, 0.0)
    assert isinstance(bound.alpha, float)
    model = config.build("model", "logistic_factors", conf=[CONF], info=INFO, num_factors=2)
    assert model.decoder.in_features == 2


def draws() -> Draws:
    model = config.build("model", "logistic_factors", conf=[CONF], info=INFO).double()
    x = Noise(1, "x").uniform((5, 2, 3)).round().double()
    return draw(model, x, 4, Noise(0, "plugin"))


def test_the_plugins_bound_is_the_iwae_at_0_and_tends_to_the_elbo_at_1(installed: None) -> None:
    drawn = draws()

    def value(alpha: float) -> Tensor:
        return config.build("objective", "renyi", conf=[CONF], num_samples=4, alpha=alpha)(drawn)

    torch.testing.assert_close(value(0.0), IWAE(num_samples=4)(drawn))
    torch.testing.assert_close(value(1 - 1e-6), ELBOMC(num_samples=4)(drawn), rtol=0, atol=1e-3)
    assert (value(0.0) > value(0.5)).all()
    assert (value(0.5) > value(0.9)).all()


# ---------------------------------------------------------------- training


def test_a_record_says_which_code_from_outside_it_used(trained: Path) -> None:
    result = read_result(trained)
    assert trained.name.startswith("digits-logistic_factors-renyi-k4-s0-")
    assert result["cfg"]["objective"] == {
        "name": "renyi",
        "target": "my_lab.bounds:Renyi",
        "num_samples": 4,
        "alpha": 0.5,
    }
    assert result["cfg"]["model"]["target"] == "my_lab.models:LogisticFactors"
    assert result["cfg"]["module"]["target"] == "my_lab.modules:TwoRates"
    assert all("target" not in result["cfg"][group] for group in ("data", "optimizer", "trainer", "evaluation"))
    assert result["objective"] == {
        "name": "renyi",
        "num_samples": 4,
        "alpha": 0.5,
        "samples_required": 4,
        "direction": "lower",
    }
    assert result["checkpoint"]["step"] == 13
    assert "target: my_lab.bounds:Renyi" in (trained / "config.yaml").read_text(encoding="utf-8")


def test_the_plugins_module_trains_the_plugins_model_at_its_own_rates(
    run: Path, installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELBO_BENCH_RUNS", str(tmp_path / "runs"))
    assert main([*TRAIN, "module.decoder_lr=1e-30"]) == 0
    assert main([*TRAIN, "module.encoder_lr=1e-30"]) == 0
    weights = {}
    for folder in (tmp_path / "runs").iterdir():
        state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        weights[read_result(folder)["cfg"]["module"]["decoder_lr"]] = state
    frozen_decoder, frozen_encoder = weights[1e-30], weights[1e-3]
    moved = {name for name in frozen_decoder if not torch.equal(frozen_decoder[name], frozen_encoder[name])}
    assert moved == {f"model.{part}.{kind}" for part in ("encoder", "decoder") for kind in ("weight", "bias")}
    initial = config_initial(frozen_decoder)
    torch.testing.assert_close(frozen_decoder["model.decoder.weight"], initial["decoder.weight"], rtol=0, atol=0)
    torch.testing.assert_close(frozen_encoder["model.encoder.weight"], initial["encoder.weight"], rtol=0, atol=0)


def config_initial(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that seed 0 begins with."""
    shape, factors = (8, 8), state["model.decoder.weight"].shape[1]
    info = DataInfo(shape=shape, train_mean=torch.zeros(shape), num_train=1, observation="discrete", num_levels=2)
    with torch.random.fork_rng():
        torch.manual_seed(Noise(0, "init").torch_seed())
        model: torch.nn.Module = config.build("model", "logistic_factors", conf=[CONF], info=info, num_factors=factors)
    return model.state_dict()


def test_a_plugin_run_is_idempotent_and_its_code_is_part_of_its_name(
    run: Path, installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ELBO_BENCH_RUNS", str(run.parent))
    before = (run / "result.json").read_bytes()
    assert main(TRAIN) == 0
    out, err = capsys.readouterr()
    assert "recorded already, nothing was computed" in out
    assert err == ""
    assert (run / "result.json").read_bytes() == before
    other = shutil.copytree(CONF, tmp_path / "other")
    yaml = other / "objective" / "renyi.yaml"
    yaml.write_text(yaml.read_text(encoding="utf-8").replace("my_lab.bounds:", "my_lab.bounds :"), encoding="utf-8")
    names = [config.run_id(config.resolve(CHOICE, Catalogue.of([conf]))) for conf in (CONF, other)]
    assert names[0] != names[1]


def test_a_plugin_trains_from_a_shell_in_another_folder(tmp_path: Path, trained: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(PLUGIN)])}
    words = [sys.executable, "-W", "ignore", "-m", "elbo_bench", *TRAIN, "--json"]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == trained.name
    assert {**result, "folder": None} == {**read_result(folder), "folder": None}
    assert result["metrics"] == read_result(trained)["metrics"]


def test_without_its_folder_a_plugin_is_no_name_and_without_its_path_no_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    forget()
    assert refused(capsys, "train", *CHOICE[:1]).startswith("objective=renyi: no such objective; ")
    said = refused(capsys, *TRAIN)
    assert said == (
        "model=logistic_factors: cannot import my_lab.models:LogisticFactors "
        "(ModuleNotFoundError: No module named 'my_lab'); is it installed, or on PYTHONPATH?"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["objective.alpha=1"], "objective.alpha=1: should be less than 1"),
        (["objective.alpha=-0.1"], "objective.alpha=-0.1: should be greater than or equal to 0"),
        (["objective.alpha=.nan"], "objective.alpha=NaN: should be a finite number"),
        (["objective.alfa=0.1"], "objective.alfa: objective renyi has no such key; did you mean 'alpha'?"),
        (["model.num_factors=0"], "model.num_factors=0: should be greater than or equal to 1"),
        (["model.num_factors=2.0"], "model.num_factors=2.0: should be a valid integer"),
        (["module.encoder_lr=fast"], "module.encoder_lr=fast: should be a valid number"),
        (["module.encoder_rl=1"], "module.encoder_rl: module two_rates has no such key; did you mean 'encoder_lr'?"),
        (["data=linear_gaussian_data"], "model=logistic_factors: logistic factors need binary data"),
    ],
)
def test_a_plugins_type_hints_are_its_schema(
    installed: None, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], said: str
) -> None:
    assert refused(capsys, *TRAIN, *words) == said
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------- evaluating


def test_evaluate_refuses_a_plugins_run_without_consent_and_imports_nothing(
    run: Path, installed: None, capsys: pytest.CaptureFixture[str]
) -> None:
    forget()
    said = refused(capsys, "evaluate", str(run))
    assert said.startswith(
        "the run used model logistic_factors from outside elbo_bench (my_lab.models:LogisticFactors)"
    )
    assert said.endswith(": give its folder by --conf DIR, or --trust the record")
    assert not any(name.startswith("my_lab") for name in sys.modules)
    assert not (run / "evaluations").exists()


@pytest.mark.parametrize("consent", [["--conf", str(CONF)], ["--trust"]], ids=["--conf", "--trust"])
def test_evaluate_accepts_a_plugins_run_with_consent(
    run: Path, installed: None, capsys: pytest.CaptureFixture[str], consent: list[str]
) -> None:
    assert main(["evaluate", str(run), *consent, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    before = read_result(run)
    assert again["metrics"] == before["metrics"]
    assert again["cfg"] == before["cfg"]
    assert again["cfg"]["objective"]["target"] == "my_lab.bounds:Renyi"
    assert main(["evaluate", str(run), *consent, "--json", "evaluation.seed=1"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert other["metrics"]["log_px"]["value"] != before["metrics"]["log_px"]["value"]


def test_a_folder_whose_name_means_other_code_is_no_consent(
    run: Path, installed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(CONF, tmp_path / "other")
    text = (other / "objective" / "renyi.yaml").read_text(encoding="utf-8")
    changed = text.replace("my_lab.bounds:Renyi", "my_lab.other_bounds:Renyi")
    (other / "objective" / "renyi.yaml").write_text(changed, encoding="utf-8")
    said = refused(capsys, "evaluate", str(run), "--conf", str(other))
    assert said.startswith("the run used objective renyi from outside elbo_bench (my_lab.bounds:Renyi)")


# ---------------------------------------------------------------- plug-ins that are wrong

BROKEN = """
import dataclasses
import lightning.pytorch as pl
from torch import nn
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoDirection(Objective):
    def __call__(self, draws):
        return draws.log_w.mean(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lower(Objective):
    @property
    def direction(self):
        return "lower"

    def __call__(self, draws):
        return draws.log_w.mean(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scalar(Lower):
    def __call__(self, draws):
        return draws.log_w.mean()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picky(Lower):
    size: int

    def __post_init__(self):
        super().__post_init__()
        if self.size % 2:
            raise ValueError("size must be even,\\nand it is odd")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dangling(Lower):
    size: "NoSuchType" = 1


class NoModel(pl.LightningModule):
    def __init__(self, objective):
        super().__init__()


class AnotherModel(pl.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model = nn.Linear(1, 1)


class NoModule:
    def __init__(self, model):
        self.model = model


class Untyped(nn.Linear):
    def __init__(self, info, width=3):
        super().__init__(1, 1)
"""


@pytest.mark.parametrize(
    ("group", "yaml", "said"),
    [
        (
            "objective",
            "target: broken_lab:Lower\nnum_samples: 1\nalpha: 2\n",
            "objective.alpha: Lower has no such parameter; valid: num_samples",
        ),
        (
            "objective",
            "target: broken_lab:Lower\nnum_sample: 1\n",
            "objective.num_sample: Lower has no such parameter; did you mean 'num_samples'?",
        ),
        (
            "objective",
            "target: broken_lab:Lower\nnum_samples: one\n",
            "objective.num_samples=one: should be a valid integer",
        ),
        (
            "objective",
            "target: broken_lab:Picky\nnum_samples: 1\n",
            "objective=mine: its YAML does not fit Picky: missing a required argument: 'size'",
        ),
        (
            "objective",
            "target: broken_lab:Picky\nsize: 3\n",
            "objective=mine: size must be even, and it is odd",
        ),
        (
            "objective",
            "target: broken_lab:NoDirection\n",
            "objective=mine: broken_lab:NoDirection is abstract: it does not define direction",
        ),
        (
            "objective",
            "target: broken_lab:Dangling\nsize: 1\n",
            "objective=mine: its parameters cannot be read (NameError: name 'NoSuchType' is not defined)",
        ),
        (
            "objective",
            "target: broken_lab:Scalar\nnum_samples: 1\n",
            "objective mine on model mlp: its value for 2 examples has the shape ()",
        ),
        (
            "objective",
            "target: broken_lab:AnotherModel\n",
            "objective=mine: its YAML does not fit AnotherModel: missing a required argument: 'model'",
        ),
        (
            "objective",
            "target: syntax_error_lab:Bound\n",
            "objective=mine: cannot import syntax_error_lab:Bound "
            "(SyntaxError: '(' was never closed (syntax_error_lab.py, line 1)); is it installed, or on PYTHONPATH?",
        ),
        (
            "objective",
            "target: raising_lab:Bound\n",
            "objective=mine: cannot import raising_lab:Bound (ZeroDivisionError: division by zero); "
            "is it installed, or on PYTHONPATH?",
        ),
        (
            "module",
            "target: broken_lab:NoModel\n",
            "module=mine: it must be a LightningModule with an attribute `model`",
        ),
        (
            "module",
            "target: broken_lab:NoModule\n",
            "module=mine: it must be a LightningModule with an attribute `model`",
        ),
        ("module", "target: broken_lab:AnotherModel\n", "module=mine: its `model` must be the one that it is given"),
        ("model", "target: broken_lab:Untyped\nwidth: .nan\n", "model.width=NaN: should be a finite number"),
        (
            "model",
            "target: broken_lab:Lower\nnum_samples: 1\n",
            "model=mine: it is no torch.nn.modules.module.Module",
        ),
    ],
)
def test_a_plugin_that_is_wrong_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    group: str,
    yaml: str,
    said: str,
) -> None:
    lab = tmp_path / "lab"
    (lab / "conf" / group).mkdir(parents=True)
    (lab / "conf" / group / "mine.yaml").write_text(yaml, encoding="utf-8")
    (lab / "broken_lab.py").write_text(BROKEN, encoding="utf-8")
    (lab / "syntax_error_lab.py").write_text("(\n", encoding="utf-8")
    (lab / "raising_lab.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(lab)
    for name in ("broken_lab", "syntax_error_lab", "raising_lab"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert refused(capsys, "train", "--conf", str(lab / "conf"), f"{group}=mine", *TINY) == said
    assert not (tmp_path / "runs").exists()


def test_a_wrong_data_set_of_ones_own_is_one_line_for_the_data_command_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "conf" / "data" / "mine.yaml"
    place.parent.mkdir(parents=True)
    rows: list[tuple[str, str]] = [
        ("target: elbo_bench.data.sets.digits:Digits\nbatch_size: 0\n", "data.batch_size=0: should be greater than 0"),
        (
            "target: elbo_bench.data.sets.digits:Digits\nbatch: 1\n",
            "data.batch: Digits has no such parameter; did you mean 'batch_size'?",
        ),
        ("target: collections:Counter\n", "data=mine: it is no elbo_bench.data.dataset.DataSource"),
    ]
    for yaml, said in rows:
        place.write_text(yaml, encoding="utf-8")
        for words in (["list"], ["list", "mine"], ["verify", "mine"]):
            assert refused(capsys, "data", *words, "--conf", str(tmp_path / "conf")) == said


def test_names_are_looked_up_without_importing_the_plugin(installed: None) -> None:
    forget()
    resolved: dict[str, Any] = config.resolve(CHOICE, Catalogue.of([CONF]))
    assert resolved["objective"]["alpha"] == 0.5
    assert not any(name.startswith("my_lab") for name in sys.modules)
