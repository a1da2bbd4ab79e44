"""The mutants themselves: that each is put where it belongs, tried on a copy, and reported for what it is."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent / "mutants"
ROOT = HERE.parents[1]

PROGRAM = '''"""A module."""

import math


def mean(values: list[float], scale: float = 1.0) -> float:
    """Return the mean times 1 + 1."""
    if not values:
        raise ValueError(f"no value in {1 + 1}")
    total = 0.0
    while values:
        total += values[0]
        values = values[1:]
    return math.fabs(total) * scale
'''
TESTS = """from elbo_bench.numerics import mean


def test_mean():
    assert mean([1.0, 2.0], scale=2.0) == 6.0


def test_scale():
    assert mean([1.0], 3.0) == 3.0
"""
MISTAKES = """
[[mistake]]
name = "scale lost"
file = 'elbo_bench/numerics.py'
old = ' * scale'
new = ''

[[mistake]]
name = "another name"
file = 'elbo_bench/numerics.py'
old = 'total = 0.0'
new = 'total = -0.0'

[[mistake]]
name = "goes on for ever"
file = 'elbo_bench/numerics.py'
old = 'values = values[1:]'
new = 'values = values[0:]'
tests = ['test_numerics.py::test_scale']
"""


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(HERE))
    yield
    for name in ("generate", "mutant", "explained"):
        sys.modules.pop(name, None)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A tiny one, with the runner in it."""
    root = tmp_path / "repository"
    files = {
        "elbo_bench/__init__.py": "",
        "elbo_bench/numerics.py": PROGRAM,
        "elbo_bench/draws.py": "",
        "tests/test_numerics.py": TESTS,
        "pyproject.toml": "[tool.pytest.ini_options]\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    shutil.copytree(HERE, root / "tests/mutants", ignore=shutil.ignore_patterns("*.toml", "__pycache__"))
    (root / "tests/mutants/planted").mkdir(exist_ok=True)
    (root / "tests/mutants/planted/some.toml").write_text(MISTAKES)
    entry = "within = 'mean'\nfile = 'elbo_bench/numerics.py'\nreason = 'Zero has no sign.'\n"
    known = f"[[survivor]]\nold = '1.0'\nnew = '2.0'\n{entry}[[survivor]]\nold = 'gone'\nnew = ''\n{entry}"
    (root / "tests/mutants/equivalent.toml").write_text(known)
    return root


def run(root: Path, *words: str) -> tuple[int, str]:
    command = [sys.executable, str(root / "tests/mutants/run.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_mistakes_are_caught_survive_or_never_end(repository: Path) -> None:
    code, said = run(repository, "--limit", "6")
    assert "1 of 3 planted mistakes caught" in said, said
    assert "  survived: another name" in said
    assert "  timeout: goes on for ever" in said
    assert code == 1
    # Neither of these is seen by any test; the first is explained.
    assert "  explained: numerics.py:6 1.0 -> 2.0  Zero has no sign." in said
    assert "  explained, and there is no such mutant: elbo_bench/numerics.py mean: gone -> " in said
    assert "  survived: numerics.py:14 math.fabs(total)" not in said  # no rule makes it
    assert (repository / "elbo_bench/numerics.py").read_text() == PROGRAM
    assert not [place for place in repository.rglob("*.pyc") if "mutants" not in place.parts]


def test_nothing_is_tried_where_the_tests_fail_by_themselves(repository: Path) -> None:
    (repository / "tests/test_numerics.py").write_text(TESTS.replace("== 3.0", "== 4.0"))
    code, said = run(repository, "--planted")
    assert code == 1
    assert "the tests fail without any mistake: tests/test_numerics.py::test_scale" in said


def test_a_mistake_that_fits_nowhere_is_an_error(repository: Path) -> None:
    (repository / "elbo_bench/numerics.py").write_text(PROGRAM.replace("total = 0.0", "total = 0"))
    code, said = run(repository, "--planted")
    assert code == 1
    assert "what 'another name' replaces stands 0 times in elbo_bench/numerics.py, not once" in said


def test_every_planted_mistake_fits_once_and_there_are_enough() -> None:
    from mutant import planted

    found = list(planted(ROOT, sorted((HERE / "planted").glob("*.toml"))))
    assert len(found) >= 70
    assert all(compile(each.applied((ROOT / each.file).read_text()), each.file, "exec") for each in found)


def generated_from(text: str, tmp_path: Path) -> dict[str, str]:
    from generate import generated

    (tmp_path / "some.py").write_text(text)
    return {mutant.name: mutant.applied(text) for mutant in generated(tmp_path, ["some.py"])}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("a + b * c", {"a - b * c", "a + b / c"}),
        ("(a + b) ** c", {"(a - b) ** c", "(a + b) * c"}),
        ("-x", {"x"}),
        ("f(0, 1.5, True)", {"f(1, 1.5, True)", "f(0, 2.5, True)", "f(0, 1.5, False)"}),
        ("n == 1", {"n != 1", "n == 2", "n == 0"}),
        ("a < b", {"a <= b", "a >= b"}),
        ("(a - b).square().mean(0)", {"(a - b)", "(a + b)", ".sum(0)", ".mean(1)"}),
        ("torch.exp(a + b)", {"(a + b)", "torch.exp(a - b)"}),
        ("x.detach()", {"x"}),
        ("x[i:]", {"x[(i) + 1:]", "x[i:-1]"}),
        ("x[:, :3]", {"x[:, 1:3]", "x[:, :(3) - 1]", "x[:, :4]"}),
        ("x.clamp(min=y)", {"x.clamp()", "x.clamp(max=y)"}),
        ("a if p else b", {"a", "b"}),
        ("min(a, b)", {"max(a, b)"}),
        ("torch.logsumexp(x, 2)", {"torch.sum(x, 2)", "torch.logsumexp(x, 3)"}),
    ],
)
def test_what_is_made_of_an_expression(code: str, expected: set[str], tmp_path: Path) -> None:
    found = {text.removeprefix("y = ").rstrip() for text in generated_from(f"y = {code}\n", tmp_path).values()}
    for each in expected:
        assert any(each in text for text in found), f"{each} is not among {found}"
    assert code not in found


def test_what_is_no_arithmetic_is_left_alone(tmp_path: Path) -> None:
    text = '''"""1 + 1."""

__all__ = ["a" + "b"]


def f(x: Literal[1, 2], y: "Float[Tensor, '1 2']") -> tuple[int, 3]:
    """2 * 2."""
    assert x > 1
    if isinstance(x, int | str):
        raise ValueError(f"{x + 1}" + "!")
    return x
'''
    assert generated_from(text, tmp_path) == {}


def test_a_mutant_s_name_says_where_and_what(tmp_path: Path) -> None:
    assert set(generated_from("\n\nπ = '√' * (2 +\n  3)\n", tmp_path)) == {
        "some.py:3 '√' * (2 + 3) -> '√' / (2 + 3)",
        "some.py:3 2 -> 3",
        "some.py:3 2 + 3 -> 2 - 3",
        "some.py:4 3 -> 4",
    }


@pytest.mark.slow
def test_a_few_planted_mistakes_are_caught_in_the_program_itself() -> None:
    code, said = run(ROOT, "--planted", "--sample", "6", "--seed", "a few", "--limit", "90")
    assert code == 0, said
    assert "6 of 6 planted mistakes caught" in said
