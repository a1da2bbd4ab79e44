"""Which tests a mutant is put to, and in which order: those that name the mutated module first."""

import functools
from pathlib import Path

from mutant import Mutant

_BOUNDS = (
    "test_bounds.py::test_a_bound_is_its_formula",
    "test_estimators*",
    "test_batch_objectives*",
    "test_bounds*",
    "test_objectives*",
    "test_conformance*",
)
_DEFAULTS = "test_build.py::test_a_yaml_has_the_defaults_of_its_target"
LAWS = {
    "elbo_bench/numerics.py": ("test_numerics*", *_BOUNDS, "test_distributions*", "test_streaming*"),
    "elbo_bench/draws.py": ("test_draws*", *_BOUNDS, "test_distributions*", "test_models*"),
    "elbo_bench/objectives/": (*_BOUNDS, _DEFAULTS),
}
"""The fast tests of laws, quickest first, by what is mutated.

For any other file a mistake says itself which tests should notice it.
"""


def stages(tree: Path, mutant: Mutant) -> list[list[str]]:
    """Return what a mutant is put to: first the tests most likely to fail, then, in a process anew, the others."""
    patterns = next((tests for start, tests in LAWS.items() if mutant.file.startswith(start)), ())
    laws = _found(tree, patterns)
    dotted = mutant.file.removesuffix(".py").replace("/", ".")
    named = [name for name in laws if dotted in _text(tree / "tests" / name.partition("::")[0])]
    first = list(mutant.tests) or named
    rest = [name for name in [*named, *(name for name in laws if name not in named)] if name not in first]
    return [stage for stage in (first, rest) if stage]


@functools.cache
def _found(tree: Path, patterns: tuple[str, ...]) -> list[str]:
    """Return the files, from the folder `tests`, and the single tests that stand in one that is there."""
    tests = tree / "tests"
    found = [
        [pattern]
        if "::" in pattern and (tests / pattern.partition("::")[0]).is_file()
        else [place.name for place in sorted(tests.glob(f"{pattern}.py"))]
        for pattern in patterns
    ]
    return list(dict.fromkeys(name for names in found for name in names))


@functools.cache
def _text(place: Path) -> str:
    return place.read_text(encoding="utf-8")
