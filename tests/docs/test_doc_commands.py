"""Every command line of README, CONTRIBUTING, docs and the sweep files' comments, with small sizes."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elbo_bench.cli import _parse, main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

NOT_RUN = {
    "python3 -m venv": "downloads the dependencies; `.ci/run` runs it",
    ".venv/bin/pytest": "runs the tests; `.ci/run` runs it",
    ".venv/bin/ruff": "`.ci/run` runs it",
    ".venv/bin/mypy": "`.ci/run` runs it",
    ".venv/bin/lint-imports": "`.ci/run` runs it",
    ".venv/bin/python tests/mutants/run.py": "takes minutes; `.ci/run` runs it",
    ".ci/run": "is the runner of all checks",
    "wandb": "needs an account",
}
"""Beginnings of command lines that no test runs, with the reason."""

SMALL = {
    "objective.num_samples": "3",
    "trainer.max_epochs": "1",
    "trainer.budget.decoder_evaluations": "400",
    "trainer.devices": "2",
    "data.readers": "1",
    "module.warmup.epochs": "1",
    "evaluation.num_samples": "60",
    "evaluation.target_se": "1.0",
    "then_evaluate": "[{name: latents, num_examples: 5}, {name: gradients, num_examples: 4, num_samples: [1, 2], "
    "num_replicates: 20, oracle_samples: 4, oracle_replicates: 20}]",
    "--nproc-per-node": "2",
}
"""Values that replace those of a command line."""

SMALL_TRAINING = {"trainer.max_steps": "2", "trainer.checkpoint": "last", "tracking": "none"}
"""Values that are added to a training."""

SMALL_EVALUATION = {
    "importance": {"num_samples": 60, "num_examples": 5},
    "ais": {"num_temperatures": 3, "num_examples": 3},
    "bdmc": {"num_temperatures": 3, "num_examples": 4},
    "gaps": {"num_samples": 60, "num_examples": 3, "max_steps": 3},
    "gradients": {
        "num_samples": [1, 2],
        "num_examples": 4,
        "num_replicates": 20,
        "oracle_samples": 4,
        "oracle_replicates": 20,
    },
    "latents": {"num_examples": 6},
}

SLOW = ("torchrun", "trainer.strategy=ddp", "data verify", "reproduce", "speed", "check", "sweep", "model=resnet")
"""Words of command lines that take more than about two seconds."""


def command_lines(text: str) -> Iterator[str]:
    """Yield the commands of the fenced blocks of a page."""
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield shlex.join(words).replace("'&&'", "&&")


def inline_commands(path: Path) -> Iterator[str]:
    """Yield the commands within the sentences of a page, or of the comments of a YAML file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        text = " ".join(line.strip("# ") for line in text.splitlines() if line.startswith("#"))
    for found in re.findall(r"`(elbo-bench [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
        yield " ".join(found.split())


def small(words: list[str], *, trains: bool = True) -> list[str]:
    """Return the words with small sizes."""
    kept = [f"{key}={SMALL[key]}" if (key := word.partition("=")[0]) in SMALL else word for word in words]
    given = dict(word.split("=", 1) for word in kept if "=" in word)
    sizes = SMALL_EVALUATION.get(given.get("evaluation", "importance"), {"num_examples": 5})
    more = {f"evaluation.{key}": value for key, value in sizes.items()} | (SMALL_TRAINING if trains else {})
    if "tracking.mode" in given:
        del more["tracking"]
    return kept + [f"{key}={value}" for key, value in more.items() if key not in given]


def write_files(text: str, folder: Path) -> None:
    """Write the files that a page shows: a block of code that follows a path such as `my_lab/bounds.py`."""
    for path, content in re.findall(r"`(my_\w+/[\w/]+\.(?:py|yaml))`[^`]*?\n\n```\w+\n(.*?)^```", text, re.S | re.M):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")


def outside(*words: str) -> None:
    """Run a command in a process of its own."""
    done = subprocess.run(
        words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small run."""
    runs = tmp_path_factory.mktemp("trained") / "runs"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ELBO_BENCH_RUNS", str(runs))
        assert main(["train", *small(["objective=iwae", "objective.num_samples=3"])]) == 0
    return runs


CASES = [
    pytest.param(
        page,
        line,
        id=f"{page.name}: {line[:90]}",
        marks=[pytest.mark.slow] if any(word in line for word in SLOW) else [],
    )
    for page in PAGES
    for line in command_lines(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "line"), CASES)
def test_a_command_line_runs(page: Path, line: str, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := next((NOT_RUN[start] for start in NOT_RUN if line.startswith(start)), None):
        pytest.skip(reason)
    if re.search("mnist|freyfaces|sweeps/|reproduce burda|data verify", line) and not os.environ.get("ELBO_BENCH_DATA"):
        pytest.skip("its data are missing: set ELBO_BENCH_DATA")
    folder = Path.cwd()
    write_files(page.read_text(encoding="utf-8"), folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(folder)]))  # for trials of a sweep
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    shutil.copytree(trained, "runs")
    (run,) = [path.name for path in trained.iterdir() if (path / "result.json").exists()]
    shutil.copytree(ROOT / "sweeps", "sweeps")
    if "photos/" in line:
        (photos := folder / "photos").mkdir()
        for number in range(60):
            Image.new("L", (28, 28), 4 * number).save(photos / f"{number}.png")
    np.save("my.npy", np.random.default_rng(0).normal(size=(60, 12)).astype("float32"))
    np.save("images.npy", np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype="uint8"))
    words = [run if word == "RUN" else word for word in shlex.split(line)]
    if words[0] == "torchrun":
        words = [word.replace("devices=8", "devices=2") for word in small(words)]
        outside(sys.executable, "-m", "torch.distributed.run", *words[1:])
        return
    assert words[0] == "elbo-bench", f"{line}: run it here, or name it in NOT_RUN"
    command = words[1]
    if command in ("train", "evaluate"):
        words = small(words, trains=command == "train")
    if words[1:] == ["data", "verify"]:
        words.append("mnist_dynamic")  # fails if the files of some set are missing
    if "tracking.mode=online" in words:
        words.append("--print-config")
    if command == "sweep":
        words += ["--trials", "1"]
        if {"ray", "slurm"} & {*words}:
            words.append("--dry-run")  # needs a cluster
        elif "--dry-run" not in words:
            words = [*small(words), "then_evaluate=[]"]
    if "trainer.strategy=ddp" in words:
        outside(sys.executable, "-m", "elbo_bench", *words[1:])
        return
    assert main(words[1:]) == 0


@pytest.mark.parametrize(
    ("path", "line"),
    [
        pytest.param(path, line, id=f"{path.name}: {line}")
        for path in [*PAGES, *sorted((ROOT / "sweeps").glob("*.yaml"))]
        for line in inline_commands(path)
    ],
)
def test_a_command_within_a_sentence_can_be_parsed(path: Path, line: str) -> None:
    words = shlex.split(line)
    if len(words) > 2:
        _parse(words[1:])
    else:  # a command's bare name
        with pytest.raises(SystemExit):
            _parse([words[1], "--help"])
    for word in words:
        assert not word.startswith("sweeps/") or (ROOT / word).is_file()
