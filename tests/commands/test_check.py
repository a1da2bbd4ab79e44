"""`elbo-bench check`: which laws a component keeps, ours or a third party's, from outside the package."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from elbo_bench.cli import main

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "tests" / "plugin"


@pytest.fixture(autouse=True)
def _fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elbo_bench.commands.check.LOG_WEIGHTS", 60_000, raising=False)
    monkeypatch.setattr("elbo_bench.commands.check.SAMPLES", 5_000, raising=False)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PLUGIN)
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        del sys.modules[name]


def check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, Any]], str]:
    """Return the exit code, the report, and the last line of stderr."""
    capsys.readouterr()
    code = main(["check", "--json", *words])
    out, err = capsys.readouterr()
    return code, json.loads(out), err.splitlines()[-1]


def verdicts(report: dict[str, Any], status: str) -> list[str]:
    return [law["law"] for law in report["laws"] if law["status"] == status]


# ---------------------------------------------------------------- what holds


def test_a_bound_of_the_catalogue_keeps_its_laws(capsys: pytest.CaptureFixture[str]) -> None:
    code, (report,), said = check(capsys, "objective=beta", "objective.num_samples=2", "objective.beta=1.5")
    assert (code, verdicts(report, "broken")) == (0, [])
    assert report["component"] == "objective=beta"
    assert report["group"] == "objective"
    assert report["parameters"] == {"num_samples": 2, "beta": 1.5, "kl": "analytic"}
    assert len(report["laws"]) == 22
    assert re.fullmatch(r"checking objective=beta: 22/22, \d+ s", said)
    assert all(law["seen"] for law in report["laws"] if law["status"] == "skipped")
    seen = {law["law"]: law["seen"] for law in report["laws"]}
    assert re.match(r"detects 0\.\d+ nats", seen["the mean agrees with the declared direction"])


def test_a_bound_of_one_sample_is_held_to_the_laws_with_three_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, (one, three), _ = check(capsys, "objective.name=elbo_mc")
    assert code == 0
    assert [one["parameters"], three["parameters"]] == [{"num_samples": 1}, {"num_samples": 3}]


def test_a_model_keeps_its_laws(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["model=mlp", "model.hidden=[5]", "model.latent_dim=3", "model.posterior=full_covariance"]
    code, (report,), said = check(capsys, *words)
    assert (code, verdicts(report, "broken")) == (0, [])
    assert report["parameters"]["posterior"] == {"name": "full_covariance"}
    assert report["parameters"]["data"] == "6 values of 2 levels"
    assert said.startswith("checking model=mlp: 17/17, ")


def test_several_are_checked_in_one_go_and_printed_as_tables(
    capsys: pytest.CaptureFixture[str], installed: None
) -> None:
    assert main(["check", "my_lab.bounds:Renyi", "my_lab.models:LogisticFactors", "objective.num_samples=2"]) == 0
    out, err = capsys.readouterr()
    assert "my_lab.bounds:Renyi  num_samples=2 alpha=0.5" in out
    assert "my_lab.models:LogisticFactors  data=6 values of 2 levels" in out
    assert "adding c to log p(x|z) adds c to the value" in out
    assert "its latent has more than two dimensions" in out
    assert re.fullmatch(r"\d+ laws hold, 0 are broken, \d+ do not apply", out.splitlines()[-1])
    assert len(err.splitlines()) == 2


def test_keys_are_a_targets_own(capsys: pytest.CaptureFixture[str], installed: None) -> None:
    code, (report,), _ = check(capsys, "num_samples=2", "my_lab.bounds:Renyi", "alpha=0")
    assert (code, report["parameters"]) == (0, {"num_samples": 2, "alpha": 0.0})
    code, (report,), _ = check(capsys, "my_lab.models:LogisticFactors", "num_factors=2")
    assert (code, report["parameters"]["num_factors"]) == (0, 2)
    # With two dimensions the latent is small enough to be integrated over.
    assert "q(z|x) and p(z) integrate to one" in verdicts(report, "holds")


def test_a_folder_of_ones_own_names_what_is_checked(capsys: pytest.CaptureFixture[str], installed: None) -> None:
    words = ["objective=renyi", "--conf", str(PLUGIN / "conf"), "objective.num_samples=3"]
    code, (report,), _ = check(capsys, *words)
    assert (code, report["component"], report["parameters"]["alpha"]) == (0, "objective=renyi", 0.5)


# ---------------------------------------------------------------- what is broken


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("NoLogK", "the mean agrees with the declared direction"),
        ("WrongSign", "adding c to log p(x|z) adds c to the value"),
        ("RaisesAtOnce", "one finite value for each example"),
    ],
)
def test_a_broken_bound_is_called_broken(
    capsys: pytest.CaptureFixture[str], installed: None, name: str, broken: str
) -> None:
    code, (report,), said = check(capsys, f"my_lab.broken_bounds:{name}")
    assert code == 3
    assert broken in verdicts(report, "broken")
    assert said.startswith(f"elbo-bench: broken: my_lab.broken_bounds:{name}: ")
    assert broken in said
    assert main(["check", f"my_lab.broken_bounds:{name}"]) == 3
    out, err = capsys.readouterr()
    assert re.search(r"│ broken  │ \S", out)
    assert re.search(r"^\d+ laws hold, [1-9]\d* are broken, \d+ do not apply$", out, re.MULTILINE)
    assert "Traceback" not in out + err


def test_a_broken_model_is_called_broken(capsys: pytest.CaptureFixture[str], installed: None) -> None:
    code, (report,), said = check(capsys, "my_lab.broken_models:Idle")
    assert (code, verdicts(report, "broken")) == (3, ["every parameter has a gradient"])
    assert said == "elbo-bench: broken: my_lab.broken_models:Idle: every parameter has a gradient"
    seen = {law["law"]: law["seen"] for law in report["laws"]}
    assert seen["every parameter has a gradient"] == "log w has no gradient in unused"


def test_a_model_that_cannot_be_built_is_broken(capsys: pytest.CaptureFixture[str], installed: None) -> None:
    code, (report,), _ = check(capsys, "my_lab.broken_models:FailsToBuild")
    assert code == 3
    assert [law["seen"] for law in report["laws"]] == ["raises ZeroDivisionError: no model of (6,)"]


# ---------------------------------------------------------------- bad input

NO_TARGET = "name what is to be checked, such as objective=iwae, model=mlp or my_lab.bounds:MyBound"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the following arguments are required: TARGET (see elbo-bench check --help)"),
        (["seed=1"], NO_TARGET),
        (["objective.alpha=1"], NO_TARGET),
        (["iwae"], "'iwae' is not of the form key=value, such as objective=iwae or optimizer.lr=1e-3"),
        (["objective=iwea"], "objective=iwea: no such objective; did you mean 'iwae'?"),
        (["model=mpl"], "model=mpl: no such model; did you mean 'mlp'?"),
        (["objective=iwae", "objective.num_samples=0"], "objective.num_samples=0: should be greater than 0"),
        (
            ["objective=iwae", "objective.num_sample=2"],
            "objective.num_sample: objective iwae has no such key; did you mean 'num_samples'?",
        ),
        (["objective=iwae", "num_samples=2"], "num_samples: say whose key that is, such as objective.num_samples=2"),
        (["objective=iwae", "model.latent_dim=2"], "model.latent_dim: no model is checked"),
        (["objective=iwae", "--conf", "nowhere"], "--conf 'nowhere' is not a folder"),
        (["objective=iwae", "--jsn"], "--jsn: no such option; did you mean '--json'?"),
        (["my_lab.bounds:Reny"], "my_lab.bounds has no Reny; did you mean 'Renyi'?"),
        (
            ["my_lab.bound:Renyi"],
            "cannot import my_lab.bound (ModuleNotFoundError: No module named 'my_lab.bound'); "
            "is it installed, or on PYTHONPATH?",
        ),
        (["a b:C"], "a b:C is not of the form package.module:Name"),
        (["my_lab:bounds:Renyi"], "my_lab:bounds:Renyi is not of the form package.module:Name"),
        (["my_lab.bounds:Renyi", "alpha=1"], "my_lab.bounds:Renyi: alpha=1: should be less than 1"),
        (
            ["my_lab.bounds:Renyi", "alpa=0.5"],
            "my_lab.bounds:Renyi: alpa: Renyi has no such parameter; did you mean 'alpha'?",
        ),
        (
            ["my_lab.modules:TwoRates"],
            "my_lab.modules:TwoRates is neither an elbo_bench.objectives.base.Objective nor a torch.nn.Module with "
            "posterior, prior, likelihood",
        ),
        (
            ["elbo_bench.objectives.jackknife:Jackknife", "order=5"],
            "elbo_bench.objectives.jackknife:Jackknife: order=5: should be less than or equal to 2",
        ),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], installed: None, words: list[str], said: str
) -> None:
    capsys.readouterr()
    code = main(["check", *words])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err == f"elbo-bench: {said}\n"


def test_a_target_that_is_on_no_path_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    forget()
    assert main(["check", "my_lab.bounds:Renyi"]) == 2
    assert capsys.readouterr().err == (
        "elbo-bench: cannot import my_lab.bounds (ModuleNotFoundError: No module named 'my_lab'); "
        "is it installed, or on PYTHONPATH?\n"
    )


def test_a_model_for_no_kind_of_data_says_why(capsys: pytest.CaptureFixture[str], installed: None) -> None:
    capsys.readouterr()
    assert main(["check", "my_lab.broken_models:NoData"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == (
        "",
        "elbo-bench: my_lab.broken_models:NoData: it accepts no kind of data: 6 values of 2 levels: "
        "my_lab.broken_models:NoData: sounds are needed\n",
    )


# ---------------------------------------------------------------- from outside


def shell(folder: Path, *words: str, path: tuple[Path, ...]) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *path))), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "elbo_bench", *words],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def readme_example(folder: Path) -> list[str]:
    """Write the README's bound and its YAML as they are printed; return the words of its command."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("\n## A bound of your own\n")[1].split("\n## ")[0]
    places = re.findall(r"`(my_\w+/[\w/]+\.(?:py|yaml))`", section)
    blocks = [re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL) for kind in ("python", "yaml", "bash")]
    code, yaml, command = (block[1] for block in blocks if block)
    for place, content in zip(places, (code, yaml), strict=True):
        (folder / place).parent.mkdir(parents=True)
        (folder / place).write_text(content, encoding="utf-8")
    first = command.splitlines()[0].partition("#")[0].split()
    assert first[:2] == ["elbo-bench", "train"]
    return first[1:]


def test_the_readme_s_bound_is_fifteen_lines_long(tmp_path: Path) -> None:
    readme_example(tmp_path)
    lines = (tmp_path / "my_lab" / "bounds.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) <= 15


def test_the_readme_s_bound_trains_as_it_is_printed(tmp_path: Path) -> None:
    words = readme_example(tmp_path)
    tiny = ["trainer.max_epochs=1", "evaluation.num_samples=40", "evaluation.num_examples=10", "model.latent_dim=3"]
    done = shell(tmp_path, *words, *tiny, "--json", path=(tmp_path,))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["objective"]["name"] == "halfway"
    assert result["objective"]["samples_required"] == 16
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "result.json").is_file()


def test_the_readme_s_bound_keeps_every_law(tmp_path: Path) -> None:
    readme_example(tmp_path)
    done = shell(tmp_path, "check", "my_lab.bounds:Halfway", "--json", path=(tmp_path,))
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)
    assert report["parameters"] == {"num_samples": 8}
    assert verdicts(report, "broken") == []
    by_name = shell(tmp_path, "check", "--conf", "my_conf", "objective=halfway", "--json", path=(tmp_path,))
    assert by_name.returncode == 0, by_name.stderr
    assert json.loads(by_name.stdout)[0]["laws"] == report["laws"]


def test_a_plugin_that_is_installed_is_checked_from_another_folder(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    source = shutil.copytree(PLUGIN, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    site = tmp_path / "site"
    made = subprocess.run(
        [*pip, "--target", str(site), str(source)], capture_output=True, text=True, timeout=120, check=False
    )
    assert made.returncode == 0, made.stderr
    shutil.rmtree(source)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = shell(elsewhere, "check", "my_lab.bounds:Renyi", "num_samples=2", path=(site,))
    assert done.returncode == 0, done.stderr
    assert " 0 are broken, " in done.stdout
    assert list(elsewhere.iterdir()) == []


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from elbo_bench.cli import main\n"
        "try: main(['check', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'elbo_bench.conformance'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "elbo-bench check my_lab.bounds:MyBound num_samples=8" in done.stdout
