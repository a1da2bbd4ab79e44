"""The command line: what a user can say. Each command is a module of `apps`, imported when it is called."""

import argparse
import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from elbo_bench import __version__
from elbo_bench.errors import ElboBenchError, UsageError, memory_problem, nearest, peer_problem
from elbo_bench.output import output_problem, safe_output, say

_DESCRIPTION = """\
How tight is a bound on log p(x), and how far can the number be trusted?

Every run, however it was trained, is scored by one and the same evaluator: log p(x) by importance sampling,
every bound, and their gaps, with error bars."""

_KEYS = """\
key=value sets a key of the configuration; group=name picks a component:
  objective=iwae objective.num_samples=50 data=mnist_dynamic optimizer.lr=3e-4 seed=1
`elbo-bench train --print-config` prints them all."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    """Return the parser of everything, and those of the commands by name."""
    parser = _Parser(
        prog="elbo-bench",
        description=_DESCRIPTION,
        epilog="example:\n  elbo-bench train objective=iwae objective.num_samples=50",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"elbo-bench {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, summary: str, example: str, description: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}. {description}".rstrip(),
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    train = command(
        "train",
        "train one model, evaluate it on the test split and record the result",
        "elbo-bench train data=digits objective=iwae objective.num_samples=5 trainer.max_epochs=50",
        f"A configuration that is recorded already is not computed again.\n\n{_KEYS}",
    )
    train.add_argument(
        "overrides", nargs="*", metavar="key=value", help="a key of the configuration, or a group's name"
    )
    train.add_argument("--print-config", action="store_true", help="print the whole configuration as YAML, and stop")
    train.add_argument("--force", action="store_true", help="compute again what is recorded already")
    _add_conf(train)
    _add_json(train)

    evaluate = command(
        "evaluate",
        "score a recorded run again, without training",
        "elbo-bench evaluate runs/digits-mlp-iwae-k5-s0-0123456789 evaluation.num_samples=50000",
        "The result is written below the run, in evaluations/<hash>/.",
    )
    evaluate.add_argument("run", metavar="RUN", help="a run's folder or name, or a checkpoint inside of one")
    evaluate.add_argument(
        "overrides",
        nargs="*",
        default=[],  # without it argparse would call them required
        metavar="key=value",
        help="a key of evaluation, or of trainer: where to compute",
    )
    evaluate.add_argument("--force", action="store_true", help="compute again what is recorded already")
    evaluate.add_argument(
        "--trust", action="store_true", help="import code from outside elbo_bench that the record names"
    )
    _add_conf(evaluate)
    _add_json(evaluate)

    sweep = command(
        "sweep",
        "run every trial of a sweep file that is not recorded yet, and rank them",
        "elbo-bench sweep sweeps/quickstart.yaml",
        "The file is one of W&B's: `wandb sweep` takes it too. A sweep that was stopped, or killed,\n"
        "goes on when it is called again. key=value words are added to each trial, and go before the file's own;\n"
        "engine.key=value sets a key of the engine (conf/engine).\n\n"
        "  local   processes on this machine\n"
        "  ray     a Ray cluster: engine.address=auto engine.num_gpus=0.25; pip install 'elbo-bench[ray]'\n"
        "  slurm   an array of jobs: engine.partition=gpu engine.minutes=120; pip install 'elbo-bench[slurm]'",
    )
    sweep.add_argument("sweep", metavar="FILE", help="a sweep file with method: grid or random")
    sweep.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="a key for every trial")
    _add_launch(sweep)
    sweep.add_argument("--dry-run", action="store_true", help="print the trials and what they will cost, and stop")
    sweep.add_argument(
        "--trials", type=_positive, metavar="N", help="how many a random sweep draws; of a grid the first N"
    )
    sweep.add_argument(
        "--search-seed", type=_natural, default=0, metavar="N", help="seed of what a random sweep draws (0)"
    )
    _add_conf(sweep)
    _add_format(sweep)

    leaderboard = command(
        "leaderboard",
        "rank what was recorded by test log p(x), within each data contract",
        "elbo-bench leaderboard runs --html leaderboard.html",
        "Runs that differ in their seed alone are one\n"
        "row. Rows whose difference may be noise share a rank: paired tests on identical examples, over seeds.",
    )
    leaderboard.add_argument(
        "runs", nargs="*", default=[], metavar="RUNS", help="folders of runs, or runs; ELBO_BENCH_RUNS if none is named"
    )
    leaderboard.add_argument(
        "--each-run", action="store_true", help="a row for each run, also of those that differ in their seed alone"
    )
    leaderboard.add_argument("--html", metavar="FILE", help="write a page of it, too: one file with table and plots")
    _add_format(leaderboard)

    reproduce = command(
        "reproduce",
        "run a paper's table and print ours beside theirs",
        "elbo-bench reproduce lucas2019",
        "What is recorded already is not computed again;\nconf/paper names the papers, and --conf DIR adds yours.",
    )
    reproduce.add_argument("paper", metavar="PAPER", help="a name of conf/paper: burda2016, rainforth2018, lucas2019")
    reproduce.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="a key for every run")
    reproduce.add_argument(
        "--tier",
        default="cpu",
        metavar="TIER",
        help="cpu: orderings, on a reduced budget; gpu: the full protocol (cpu)",
    )
    _add_launch(reproduce)
    reproduce.add_argument("--dry-run", action="store_true", help="print the runs and what they will cost, and stop")
    reproduce.add_argument("--format", choices=["table", "markdown"], default="table", help="how it is printed")
    _add_conf(reproduce)
    _add_json(reproduce)

    figures = command(
        "figures",
        "draw the plots of a leaderboard as SVG, PDF and PNG, and its table in LaTeX",
        "elbo-bench figures runs --out figures --width 3.25",
        "Each plot is as wide as the column\nof a paper. leaderboard.tex needs \\usepackage{booktabs,textcomp}.",
    )
    figures.add_argument(
        "runs", nargs="*", default=[], metavar="RUNS", help="folders of runs, or runs; ELBO_BENCH_RUNS if none is named"
    )
    figures.add_argument("--out", required=True, metavar="DIR", help="the folder that they are written into")
    figures.add_argument(
        "--width", type=float, default=3.25, metavar="INCHES", help="width of the column (3.25; ICML's)"
    )
    _add_json(figures)

    data = command(
        "data",
        "list, fetch, verify or draw the data sets",
        "elbo-bench data list\n"
        "  elbo-bench data fetch mnist_dynamic fashion_mnist\n"
        "  elbo-bench data verify mnist_dynamic\n"
        "  elbo-bench data show fashion_mnist values=levels --out fashion.png",
        "Their files lie in the folder ELBO_BENCH_DATA.\n\n"
        "  list    what there is, under which protocol and licence, and whether the files are here\n"
        "  fetch   download the files that are not here; processes that ask at the same time share one download\n"
        "  verify  hold files, and the test split that is made of them, against their hashes\n"
        "  show    draw examples of the three splits of one data set into a PNG; key=value sets a key of it",
    )
    data.add_argument("action", choices=["list", "fetch", "verify", "show"], help="what to do, see above")
    data.add_argument("names", nargs="*", default=[], metavar="NAME", help="data sets; all of them if none is named")
    data.add_argument("--force", action="store_true", help="fetch: replace files that are not the official ones")
    data.add_argument("--out", metavar="FILE", help="show: the picture; NAME.png in the current folder if not given")
    _add_conf(data)
    _add_json(data)

    check = command(
        "check",
        "hold a bound or a model, ours or yours, against the laws that bind it",
        "elbo-bench check my_lab.bounds:MyBound num_samples=8",
        "Which laws bind it, it says itself:\n"
        "direction, gradient, scope, ... (elbo_bench/objectives/base.py). Exit code 3 if one is broken.\n\n"
        "TARGET is one of\n"
        "  my_lab.bounds:MyBound      a class of your own, which this imports; key=value sets its parameters\n"
        "  objective=iwae, model=mlp  a name; objective.num_samples=8, model.latent_dim=3 set its keys",
    )
    check.add_argument("targets", nargs="+", metavar="TARGET", help="what is checked, or key=value")
    _add_conf(check)
    _add_json(check)

    speed = command(
        "speed",
        "measure training and evaluation on this machine against its products of matrices",
        "elbo-bench speed data=mnist_dynamic objective=iwae objective.num_samples=50",
        f"One CPU thread, about half a minute; nothing is written.\n\n{_KEYS}",
    )
    speed.add_argument("overrides", nargs="*", metavar="key=value", help="a key of the configuration of a run")
    _add_conf(speed)
    _add_json(speed)
    return parser, commands.choices


def _add_conf(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--conf",
        action="append",
        default=[],
        metavar="DIR",
        help="a folder of your own YAML, looked at first; may be repeated",
    )


def _add_launch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", default="local", metavar="NAME", help="where trials run: local, ray or slurm")
    parser.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="trials side by side; if not given one a GPU or core, or what fits",
    )
    parser.add_argument(
        "--retries",
        type=_natural,
        default=2,
        metavar="N",
        help="how often a trial that failed is tried again (2); one that was killed goes on from what it had saved",
    )


def _add_format(parser: argparse.ArgumentParser) -> None:
    forms = ["table", "json", "csv", "markdown", "latex"]
    parser.add_argument("--format", choices=forms, default="table", help="how the leaderboard is printed")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number, 1 or more")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no whole number, 0 or more")
    return int(text)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def _parse(words: list[str]) -> argparse.Namespace:
    """Return what the words say; keys and options may come in any order.

    Raises:
        UsageError: There is no such command or option.
    """
    parser, commands = _parser()
    if words and not words[0].startswith("-") and words[0] not in commands:
        raise UsageError(f"{words[0]}: no such command; {nearest(words[0], commands)}")
    parsed, rest = parser.parse_known_args(words)
    for word in rest:
        if word.startswith("-"):
            usage = commands.get(parsed.command, parser).format_usage()
            raise UsageError(f"{word}: no such option; {nearest(word, re.findall(r'--[a-z-]+', usage))}")
    if rest:  # argparse fills a list of words once, and leaves those that follow an option
        trailing = {"check": "targets", "data": "names", "leaderboard": "runs", "figures": "runs"}.get(
            parsed.command, "overrides"
        )
        setattr(parsed, trailing, [*getattr(parsed, trailing), *rest])
    if parsed.command is None:
        parser.print_help()
    return parsed


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 bad input, 3 the run failed, 75 stopped by a signal."""
    # Threads that spin while they wait make small products of matrices tens of times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with safe_output():
        code = _run(arguments)
        if code == 0 and (problem := output_problem()):
            say(f"standard output: {problem}")
            code = 3
        return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        parsed = _parse(list(sys.argv[1:] if arguments is None else arguments))
        if parsed.command is None:
            return 0
        if arguments is None:
            signal.signal(signal.SIGTERM, _interrupt)
        importlib.import_module(f"elbo_bench.apps.{parsed.command}").run(parsed)
    except ElboBenchError as error:
        say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        say("stopped; the same command goes on from what is saved")
        return 75
    except (MemoryError, RuntimeError) as error:
        if problem := memory_problem(error):
            say(f"out of memory: {problem}")
        elif peer_problem(error):
            say("another process of this run ended; the same command goes on from what is saved")
        else:
            raise
        return 3
    except OSError as error:  # a full disk, a folder that may not be written
        say(f"{error.filename or 'system'}: {error.strerror or error}")
        return 3
    return 0
