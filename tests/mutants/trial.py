"""Runs tests on a copy of the repository, in a fork of this process that finds the heavy libraries already imported.

Nothing of `elbo_bench` is imported here: each fork imports it from its copy, and so with the mistake in it.
"""

import collections
import dataclasses
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

HEAVY = (
    "numpy",
    "torch",
    "torch.distributions",
    "lightning.pytorch",
    "hypothesis.extra.numpy",
    "scipy.special",
    "scipy.stats",
    "sklearn.datasets",
    "omegaconf",
    "pydantic",
    "safetensors.torch",
    "jaxtyping",
    "beartype",
)
"""What every test imports, or nearly: seconds that are spent once."""

_SKIPPED = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "runs", "wandb", "build")
_MEMORY = 16 * 2**30  # bytes of addresses: a mutant that asks for more than there is must not bring the machine down

Status = Literal["passed", "failed", "unusable", "timeout"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run of tests came to.

    Attributes:
        status: `unusable` if the tests could not even be collected.
        by: The first test that failed, or why there is none.
        seconds: Of CPU time.
        imported: Whether the file in question was imported from the copy.
        durations: Seconds of CPU time by test.
    """

    status: Status
    by: str
    seconds: float
    imported: bool
    durations: dict[str, float]


def copy_of(root: Path, tree: Path) -> Path:
    """Return a copy of a repository: its files, and what it has of compiled modules if it is a copy itself."""
    compiled = (tree.parent / "tree-0") == root
    shutil.copytree(root, tree, ignore=None if compiled else _SKIPPED, symlinks=True)
    return tree


def forget_compiled(place: Path) -> None:
    """Remove what Python has compiled of a file: it is told from a new one only by its size and its second."""
    for compiled in (place.parent / "__pycache__").glob(f"{place.stem}.*.pyc"):
        compiled.unlink()


def load_libraries() -> None:
    """Import what the forks are to find in memory; no operator runs, so no thread is started that a fork would lose."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    for name in HEAVY:
        importlib.import_module(name)


class _Recorder:
    """Notes which test failed first, and how long each took."""

    def __init__(self) -> None:
        self.failed = ""
        self.durations: dict[str, float] = collections.defaultdict(float)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        before = sum(os.times()[:4])  # not by the clock: others may use the machine
        result = yield
        self.durations[item.nodeid] += sum(os.times()[:4]) - before
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.failed:
            self.failed = f"{report.nodeid} (collection)"


class Run:
    """Tests that run in a process of their own.

    Args:
        tree: The copy.
        tests: Arguments of pytest, from the copy's folder `tests`.
        limit: Seconds of CPU time; three times as many on the clock, as others may use the machine.
        file: The file that should be imported.
        first: Whether to stop at the first failure.
        keep: Whether compiled modules are kept for later runs.
    """

    def __init__(
        self, tree: Path, tests: Sequence[str], *, limit: float, file: str = "", first: bool = True, keep: bool = False
    ) -> None:
        self._place = tree.parent / f"{tree.name}.json"
        self._place.unlink(missing_ok=True)
        self._output = tree.parent / f"{tree.name}.txt"
        self._limit, self._begin = limit, time.monotonic()
        self.seconds = 0.0
        self.pid = os.fork()
        if self.pid == 0:
            _in_child(lambda: _run(tree, tests, file, first, keep, self._place), tree, self._output, limit)

    def overdue(self) -> bool:
        """Return whether it has taken too long on the clock, and end it if so."""
        if time.monotonic() - self._begin < 3 * self._limit:
            return False
        self.end()
        return True

    def end(self) -> None:
        """Stop it, with whatever it started."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(self.pid, signal.SIGKILL)

    def outcome(self, status: int, seconds: float) -> Outcome:
        """Return what came of it.

        Raises:
            RuntimeError: pytest did not run.
        """
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
            return Outcome("timeout", "", seconds, True, {})
        said: dict[str, Any] = json.loads(self._place.read_text()) if self._place.exists() else {}
        imported, by = said.get("imported", True), said.get("failed", "")
        durations = said.get("durations", {})
        if os.WIFSIGNALED(status):
            return Outcome("failed", f"signal {os.WTERMSIG(status)}", seconds, True, {})
        code = os.WEXITSTATUS(status)
        if code in (0, 1):
            return Outcome("failed" if code else "passed", by, seconds, imported, durations)
        if code == 2 and by:
            return Outcome("unusable", by, seconds, imported, durations)
        raise RuntimeError(f"pytest ended with {code}:\n{self._output.read_text(errors='replace')[-3000:]}")

    @property
    def output(self) -> str:
        """What it printed."""
        return self._output.read_text(errors="replace")


def _in_child(body: Callable[[], int], tree: Path, output: Path, limit: float) -> None:
    """Never return: run `body` cut off from the parent, and leave with its code."""
    code = 70
    try:
        os.setsid()
        with output.open("wb") as sink:
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        os.chdir(tree)
        code = body()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:
        output.open("a").write(f"\n{type(error).__name__}: {error}\n")
    finally:
        os._exit(code)


def _run(tree: Path, tests: Sequence[str], file: str, first: bool, keep: bool, place: Path) -> int:
    assert not any(name.partition(".")[0] == "elbo_bench" for name in sys.modules), "imported before the mutant"
    sys.path.insert(0, str(tree))
    os.environ["PYTHONPATH"] = str(tree)
    if not keep:
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    recorder = _Recorder()
    options = ["-q", "--tb=short", "--no-header", "-p", "no:cacheprovider", f"--basetemp={tree}.tmp"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # the parent has imported a plugin
    options += [f"--rootdir={tree}", "-c", str(tree / "pyproject.toml"), *(["-x"] if first else [])]
    code = int(pytest.main([*options, *(str(tree / "tests" / test) for test in tests)], plugins=[recorder]))
    module = sys.modules.get(file.removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
    imported = module is not None and Path(module.__file__ or "").resolve() == (tree / file).resolve()
    said = {"failed": recorder.failed, "imported": imported, "durations": recorder.durations}
    place.write_text(json.dumps(said))
    return code
