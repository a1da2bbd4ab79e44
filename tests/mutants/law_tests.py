"""Which tests a mutant is put to, and in which order: those that name the mutated module first."""

import functools
from pathlib import Path

from mutant import Mutant, located

_CONFORMANCE = "test_conformance.py::test_an_objective_keeps_the_law[{}-*"
_BOUNDS = (
    "test_objectives*",
    "test_bounds.py::test_a_bound_is_its_formula",
    "test_estimators*",
    "test_batch_objectives*",
    _CONFORMANCE,
)
_DEFAULTS = "test_build.py::test_a_yaml_has_the_defaults_of_its_target"
LAWS = {
    "elbo_bench/numerics.py": ("test_numerics*", *_BOUNDS, "test_distributions*", "test_bounds*"),
    "elbo_bench/draws.py": ("test_draws*", "test_mutation_gaps*", *_BOUNDS, "test_distributions*"),
    "elbo_bench/objectives/": (_DEFAULTS, *_BOUNDS, "test_bounds*"),
}
"""The fast tests of laws, quickest first, by what is mutated.

For any other file a mistake says itself which tests should notice it.
"""
OF_ALL = ("dreg", "elbo_analytic", "free_bits", "iwae", "piwae", "sumo")
"""Objectives that are held to all the laws where what is mutated is used by many; else the mutated one is."""


def stages(tree: Path, mutant: Mutant) -> list[list[str]]:
    """Return what a mutant is put to: first the tests most likely to fail, then, in a process anew, the others.

    They are files of the folder `tests`, single tests, or beginnings of single tests, which end in a star.
    """
    patterns = next((tests for start, tests in LAWS.items() if mutant.file.startswith(start)), ())
    stem = Path(mutant.file).stem
    objectives = (stem,) if (tree / f"conf/objective/{stem}.yaml").is_file() else OF_ALL
    laws = _found(tree, patterns, objectives)
    dotted = mutant.file.removesuffix(".py").replace("/", ".")
    named = [name for name in laws if dotted in _text(tree / "tests" / name.partition("::")[0])]
    first = list(mutant.tests) or named
    rest = [name for name in [*named, *(name for name in laws if name not in named)] if name not in first]
    return [stage for stage in (first, rest) if stage]


@functools.cache
def _found(tree: Path, patterns: tuple[str, ...], objectives: tuple[str, ...]) -> list[str]:
    """Return what some patterns stand for, as far as the files are there."""
    tests, found = tree / "tests", list[str]()
    for pattern in patterns:
        if "::" not in pattern:
            found += [path.relative_to(tests).as_posix() for path in sorted(tests.rglob(f"{pattern}.py"))]
        elif path := located(tree, pattern):
            found += [path.format(name) for name in objectives] if "{}" in path else [path]
    return list(dict.fromkeys(found))


@functools.cache
def _text(place: Path) -> str:
    return place.read_text(encoding="utf-8")
