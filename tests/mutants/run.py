"""How many mistakes the law tests catch: `python tests/mutants/run.py`.

Each mistake is put into a copy of the repository, one at a time, and the tests must fail on it. Those in
`planted/*.toml` someone has thought of; the others are made by rule from the arithmetic of `numerics.py`, `draws.py`
and `objectives/`. The working tree is never written to.
"""

import argparse
import collections
import dataclasses
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from explained import Explained, explained
from generate import generated
from law_tests import stages
from mutant import MisplacedError, Mutant, planted
from trial import Outcome, Run, copy_of, forget_compiled, load_libraries

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WELL_WITHIN = 0.8
"""Share of the limit that the tests of a mutant may take without it: only then is a timeout the mutant's doing."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a mutant: `caught`, `survived`, `timeout`, or `unusable` if the tests could not be collected."""

    mutant: Mutant
    status: str
    by: str
    seconds: float


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--planted", action="store_true", help="only the mistakes that someone has thought of")
    parser.add_argument("--generated", action="store_true", help="only those made by rule")
    parser.add_argument("--sample", type=int, metavar="N", help="N of them, chosen by --seed")
    parser.add_argument("--seed", default="", metavar="TEXT", help="what the sample goes by, such as a commit's hash")
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose name or file contains a text")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many at a time (2)")
    parser.add_argument("--limit", type=float, default=45.0, metavar="S", help="seconds of CPU time for each (45)")
    parser.add_argument("--known", type=Path, default=HERE / "equivalent.toml", help="survivors that are explained")
    parser.add_argument("--list", action="store_true", help="print their names and run nothing")
    return parser.parse_args(words)


def chosen(asked: argparse.Namespace, root: Path) -> list[Mutant]:
    """Return the mutants that were asked for."""
    both = asked.planted == asked.generated
    found = list(planted(root, sorted((root / "tests/mutants/planted").glob("*.toml"))))
    found = found if both or asked.planted else []
    if both or asked.generated:
        found += generated(root, arithmetic(root))
    found = [each for each in found if asked.only in each.name or asked.only in each.file]
    if asked.sample is not None and asked.sample < len(found):
        places = random.Random(asked.seed).sample(range(len(found)), asked.sample)
        found = [found[place] for place in sorted(places)]
    return found


def arithmetic(root: Path) -> list[str]:
    """Return the files that mutants are generated for."""
    objectives = sorted((root / "elbo_bench/objectives").glob("*.py"))
    return ["elbo_bench/numerics.py", "elbo_bench/draws.py", *(str(place.relative_to(root)) for place in objectives)]


@dataclasses.dataclass(frozen=True)
class Unmutated:
    """What the tests do without a mistake.

    Attributes:
        seconds: CPU time by test.
        longest: What the tests of the mutant with the most of them take.
    """

    seconds: dict[str, float]
    longest: float

    def single(self, tests: Sequence[str]) -> list[str]:
        """Return tests in which a beginning, which ends in a star, is all the tests that begin so."""
        return [each for test in tests for each in (self._begun(test[:-1]) if test.endswith("*") else [test])]

    def _begun(self, start: str) -> list[str]:
        return [test for test in self.seconds if test.startswith(start)]


def check_unmutated(tree: Path, mutants: Sequence[Mutant], limit: float) -> Unmutated:
    """Run all the tests on a copy without a mistake.

    Raises:
        SystemExit: They fail, or take so long that a timeout would say nothing.
    """
    wanted = {each: [test for stage in stages(tree, each) for test in stage] for each in mutants}
    every = {test.partition("[")[0] if test.endswith("*") else test for tests in wanted.values() for test in tests}
    tests = sorted(test for test in every if "::" not in test or test.partition("::")[0] not in every)
    run = Run(tree, tests, limit=30 * limit, keep=True, first=False)
    _, status, usage = os.wait4(run.pid, 0)
    outcome = run.outcome(status, usage.ru_utime + usage.ru_stime)
    if outcome.status != "passed":
        sys.exit(f"the tests fail without any mistake: {outcome.by or outcome.status}\n{run.output[-3000:]}")
    seconds = {node.removeprefix("tests/"): spent for node, spent in outcome.durations.items()}
    found = Unmutated(seconds, 0.0)
    # A mutant's tests run in two processes, each of which imports the program and collects.
    overhead = 2 * min(5.0, max(0.0, outcome.seconds - sum(seconds.values())))
    cost = {each: _cost(found, tests) + overhead for each, tests in wanted.items()}
    worst = max(mutants, key=lambda each: cost[each])
    if cost[worst] > WELL_WITHIN * limit:
        each = {test: round(_cost(found, [test]), 1) for test in wanted[worst]}
        sys.exit(f"the tests for '{worst.name}' take {cost[worst]:.0f} s: too close to {limit:.0f} s; {each}")
    return dataclasses.replace(found, longest=cost[worst])


def _cost(unmutated: Unmutated, tests: Sequence[str]) -> float:
    """Return what tests take, each counted once."""
    starts = tuple(test.removesuffix("*") for test in tests)
    return sum(spent for node, spent in unmutated.seconds.items() if node.startswith(starts))


@dataclasses.dataclass
class _Trial:
    """A mutant that is being tried in one of the copies."""

    mutant: Mutant
    tree: Path
    left: list[list[str]]
    run: Run
    spent: float = 0.0


def verdicts(mutants: Sequence[Mutant], trees: Sequence[Path], unmutated: Unmutated, limit: float) -> Iterator[Verdict]:
    """Yield what becomes of each mutant, as many at a time as there are copies, in the order in which they end."""
    waiting, free = collections.deque(mutants), list(trees)
    running: dict[int, _Trial] = {}
    try:
        while waiting or running:
            while waiting and free:
                trial = _begin(waiting.popleft(), free.pop(), unmutated, limit)
                running[trial.run.pid] = trial
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if not pid:
                for trial in running.values():
                    trial.run.overdue()
                time.sleep(0.01)
                continue
            trial = running.pop(pid)
            outcome = trial.run.outcome(status, usage.ru_utime + usage.ru_stime)
            trial.spent += outcome.seconds
            if outcome.status == "passed" and trial.left:
                rest = max(1.0, limit - trial.spent)
                trial.run = Run(trial.tree, trial.left.pop(0), limit=rest, file=trial.mutant.file)
                running[trial.run.pid] = trial
                continue
            _restore(trial)
            free.append(trial.tree)
            yield _verdict(trial, outcome)
    finally:
        for trial in running.values():
            trial.run.end()


def _begin(mutant: Mutant, tree: Path, unmutated: Unmutated, limit: float) -> _Trial:
    place = tree / mutant.file
    place.write_text(mutant.applied(place.read_text(encoding="utf-8")), encoding="utf-8")
    forget_compiled(place)
    first, *left = (unmutated.single(stage) for stage in stages(tree, mutant))
    return _Trial(mutant, tree, left, Run(tree, first, limit=limit, file=mutant.file))


def _restore(trial: _Trial) -> None:
    place, mutant = trial.tree / trial.mutant.file, trial.mutant
    back = dataclasses.replace(mutant, old=mutant.new, new=mutant.old)
    place.write_text(back.applied(place.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.rmtree(f"{trial.tree}.tmp", ignore_errors=True)


def _verdict(trial: _Trial, outcome: Outcome) -> Verdict:
    status = {"passed": "survived", "failed": "caught"}.get(outcome.status, outcome.status)
    by = outcome.by if outcome.imported or status != "survived" else "no test imports the file"
    return Verdict(trial.mutant, status, by.removeprefix("tests/"), trial.spent)


def main(words: Sequence[str] | None = None) -> int:
    """Print what becomes of each mutant; return 1 if a planted one is not caught."""
    asked = arguments(words)
    try:
        mutants = chosen(asked, ROOT)
    except MisplacedError as error:
        sys.exit(str(error))
    if asked.list or not mutants:
        print("\n".join(mutant.name for mutant in mutants) or "no mutant has such a name")
        return 0
    if stray := [mutant for mutant in mutants if not stages(ROOT, mutant)]:
        sys.exit(f"no test is named for '{stray[0].name}'")
    begin = time.monotonic()
    load_libraries()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees = [copy_of(ROOT, Path(folder) / "tree-0")]
        unmutated = check_unmutated(trees[0], mutants, asked.limit)
        trees += [copy_of(trees[0], Path(folder) / f"tree-{number}") for number in range(1, asked.jobs)]
        print(
            f"without a mistake all tests pass, in {unmutated.longest:.0f} s at most; {len(mutants)} mutants",
            flush=True,
        )
        found = []
        for verdict in verdicts(mutants, trees, unmutated, asked.limit):
            found.append(verdict)
            count = f"[{len(found):>{len(str(len(mutants)))}}/{len(mutants)}]"
            print(
                f"{count} {verdict.status:8} {verdict.seconds:4.0f} s  {verdict.mutant.name}  {verdict.by}", flush=True
            )
    return report(found, explained(asked.known), whole=not (asked.sample or asked.only), clock=time.monotonic() - begin)


def report(found: Sequence[Verdict], known: Sequence[Explained], *, whole: bool, clock: float) -> int:
    """Print the totals and the survivors, and return the exit code."""
    code = 0
    for kind, noun in (("planted", "planted mistakes"), ("generated", "generated mutants")):
        mine = [verdict for verdict in found if verdict.mutant.kind == kind]
        if not mine:
            continue
        count = collections.Counter(verdict.status for verdict in mine)
        accepted = ("caught",) if kind == "planted" else ("caught", "unusable")
        caught = sum(count[status] for status in accepted)
        print(f"\n{caught} of {len(mine)} {noun} caught", end="")
        print(f" ({caught / len(mine):.1%}; {count['unusable']} before a test began)" if kind == "generated" else "")
        rest = [verdict for verdict in mine if verdict.status not in accepted]
        for verdict in sorted(rest, key=lambda each: (each.mutant.file, each.mutant.at)):
            reason = next((each.reason for each in known if each.fits(verdict.mutant)), None)
            label = "explained" if reason and verdict.status == "survived" else verdict.status
            print(f"  {label}: {verdict.mutant.name}  {reason or verdict.by}")
        if kind == "planted" and rest:
            code = 1
    for each in known:
        fitting = [verdict for verdict in found if each.fits(verdict.mutant)]
        if fitting and not any(verdict.status == "survived" for verdict in fitting):
            print(f"  no longer survives: {each}")
        elif whole and not fitting and any(verdict.mutant.kind == "generated" for verdict in found):
            print(f"  explained, and there is no such mutant: {each}")
    seconds = sum(verdict.seconds for verdict in found) / len(found)
    print(f"\n{clock:.0f} s on the clock, {seconds:.1f} s of CPU time a mutant")
    return code


if __name__ == "__main__":
    sys.exit(main())
