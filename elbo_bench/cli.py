"""The command line. Each command is a module of `commands`, which is imported when the command is called."""

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
How tight is a bound on log p(x), and how reliable is its value?

The same evaluator scores every run: log p(x) by importance sampling, the bounds and their gaps, with error bars."""

_KEYS = """\
key=value sets a key of the configuration. group=name chooses a component:
  objective=iwae objective.num_samples=50 data=mnist_dynamic optimizer.lr=3e-4 seed=1
`elbo-bench train --print-config` prints all keys."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    """Return the main parser, and the parsers of the commands by name."""
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
        f"A run that is already recorded is not computed again.\n\n{_KEYS}",
    )
    train.add_argument(
        "overrides", nargs="*", metavar="key=value", help="a key of the configuration, or the name of a group"
    )
    train.add_argument("--print-config", action="store_true", help="print the full configuration as YAML and exit")
    train.add_argument("--force", action="store_true", help="compute again, even if a result is recorded")
    _add_conf(train)
    _add_json(train)

    evaluate = command(
        "evaluate",
        "evaluate a recorded run again, without training",
        "elbo-bench evaluate runs/digits-mlp-iwae-k5-s0-0123456789 evaluation.num_samples=50000",
        "The result is written to evaluations/<hash>/ in the folder of the run.",
    )
    evaluate.add_argument("run", metavar="RUN", help="the folder or name of a run, or a checkpoint in it")
    evaluate.add_argument(
        "overrides",
        nargs="*",
        default=[],  # otherwise argparse requires one
        metavar="key=value",
        help="a key of evaluation, or of trainer (where to compute)",
    )
    evaluate.add_argument("--force", action="store_true", help="compute again, even if a result is recorded")
    evaluate.add_argument("--trust", action="store_true", help="import code outside elbo_bench that the record names")
    _add_conf(evaluate)
    _add_json(evaluate)

    sweep = command(
        "sweep",
        "run every trial of a sweep file that is not recorded yet, and print a leaderboard",
        "elbo-bench sweep sweeps/quickstart.yaml",
        "The file has the format of W&B: `wandb sweep` accepts it, too. Call the command again\n"
        "to continue a sweep that was stopped or killed. key=value words are added to each trial and override\n"
        "the file. engine.key=value sets a key of the engine (conf/engine).\n\n"
        "  local   processes on this machine\n"
        "  ray     a Ray cluster: engine.address=auto engine.num_gpus=0.25; pip install 'elbo-bench[ray]'\n"
        "  slurm   a job array: engine.partition=gpu engine.minutes=120; pip install 'elbo-bench[slurm]'",
    )
    sweep.add_argument("sweep", metavar="FILE", help="a sweep file with method: grid or random")
    sweep.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="a key for every trial")
    _add_launch(sweep)
    sweep.add_argument("--dry-run", action="store_true", help="print the trials and their cost, and exit")
    sweep.add_argument(
        "--trials", type=_positive, metavar="N", help="number of trials of a random sweep; the first N trials of a grid"
    )
    sweep.add_argument("--search-seed", type=_natural, default=0, metavar="N", help="seed of a random sweep (0)")
    _add_conf(sweep)
    _add_format(sweep)

    leaderboard = command(
        "leaderboard",
        "rank recorded runs by test log p(x), separately for each data contract",
        "elbo-bench leaderboard runs --html leaderboard.html",
        "Runs that differ only in their seed are\n"
        "one row. Rows share a rank if their difference is not significant in a paired test on the same examples.",
    )
    leaderboard.add_argument(
        "runs", nargs="*", default=[], metavar="RUNS", help="runs, or folders of runs; ELBO_BENCH_RUNS by default"
    )
    leaderboard.add_argument(
        "--each-run", action="store_true", help="one row for each run, instead of one row for all seeds"
    )
    leaderboard.add_argument("--html", metavar="FILE", help="also write an HTML page with the table and plots")
    _add_format(leaderboard)

    reproduce = command(
        "reproduce",
        "run a table of a paper, and print the published and the new values",
        "elbo-bench reproduce lucas2019",
        "Runs that are already recorded are not computed\nagain. The papers are in conf/paper; --conf DIR adds yours.",
    )
    reproduce.add_argument("paper", metavar="PAPER", help="a name in conf/paper: burda2016, rainforth2018, lucas2019")
    reproduce.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="a key for every run")
    reproduce.add_argument(
        "--tier",
        default="cpu",
        metavar="TIER",
        help="cpu: orderings with a reduced budget; gpu: the full protocol (cpu)",
    )
    _add_launch(reproduce)
    reproduce.add_argument("--dry-run", action="store_true", help="print the runs and their cost, and exit")
    reproduce.add_argument("--format", choices=["table", "markdown"], default="table", help="output format (table)")
    _add_conf(reproduce)
    _add_json(reproduce)

    figures = command(
        "figures",
        "write the plots of a leaderboard as SVG, PDF and PNG, and its table in LaTeX",
        "elbo-bench figures runs --out figures --width 3.25",
        "Each plot has the width of a\ncolumn of a paper. leaderboard.tex needs \\usepackage{booktabs,textcomp}.",
    )
    figures.add_argument(
        "runs", nargs="*", default=[], metavar="RUNS", help="runs, or folders of runs; ELBO_BENCH_RUNS by default"
    )
    figures.add_argument("--out", required=True, metavar="DIR", help="output folder")
    figures.add_argument(
        "--width", type=float, default=3.25, metavar="INCHES", help="width of the column (3.25, as in ICML)"
    )
    _add_json(figures)

    data = command(
        "data",
        "list, download, verify or show data sets",
        "elbo-bench data list\n"
        "  elbo-bench data fetch mnist_dynamic fashion_mnist\n"
        "  elbo-bench data verify mnist_dynamic\n"
        "  elbo-bench data show fashion_mnist values=levels --out fashion.png",
        "The files are in the folder ELBO_BENCH_DATA.\n\n"
        "  list    print the data sets with protocol and licence, and whether their files exist\n"
        "  fetch   download missing files; concurrent processes share one download\n"
        "  verify  compare the files and the test split with their hashes\n"
        "  show    write examples of the three splits of one data set to a PNG; key=value sets a key of it",
    )
    data.add_argument("action", choices=["list", "fetch", "verify", "show"], help="see above")
    data.add_argument("names", nargs="*", default=[], metavar="NAME", help="data sets; all by default")
    data.add_argument("--force", action="store_true", help="fetch: replace files that differ from the official files")
    data.add_argument("--out", metavar="FILE", help="show: the PNG file; NAME.png in the current folder by default")
    _add_conf(data)
    _add_json(data)

    check = command(
        "check",
        "test whether a bound or a model, built-in or your own, keeps its laws",
        "elbo-bench check my_lab.bounds:MyBound num_samples=8",
        "The class attributes direction,\n"
        "gradient, scope, ... (elbo_bench/objectives/base.py) determine the laws. Exit code 3 if one is broken.\n\n"
        "TARGET is one of\n"
        "  my_lab.bounds:MyBound      a class of your own, which is imported; key=value sets its parameters\n"
        "  objective=iwae, model=mlp  a name; objective.num_samples=8, model.latent_dim=3 set its keys",
    )
    check.add_argument("targets", nargs="+", metavar="TARGET", help="a component, or key=value")
    _add_conf(check)
    _add_json(check)

    speed = command(
        "speed",
        "measure the speed of training and evaluation relative to matrix products on this machine",
        "elbo-bench speed data=mnist_dynamic objective=iwae objective.num_samples=50",
        f"It uses one CPU thread for about half a minute. Nothing is written.\n\n{_KEYS}",
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
        help="a folder of your own YAML files, searched first; may be repeated",
    )


def _add_launch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine", default="local", metavar="NAME", help="where trials run: local, ray or slurm (local)"
    )
    parser.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="number of parallel trials; by default one for each GPU or core, if the memory suffices",
    )
    parser.add_argument(
        "--retries",
        type=_natural,
        default=2,
        metavar="N",
        help="number of retries of a failed trial (2); a killed trial continues from its checkpoint",
    )


def _add_format(parser: argparse.ArgumentParser) -> None:
    forms = ["table", "json", "csv", "markdown", "latex"]
    parser.add_argument("--format", choices=forms, default="table", help="format of the leaderboard (table)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 0")
    return int(text)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _parse(words: list[str]) -> argparse.Namespace:
    """Parse the words of the command line. Keys and options may be in any order.

    Raises:
        UsageError: A command or an option does not exist.
    """
    parser, commands = _parser()
    if words and not words[0].startswith("-") and words[0] not in commands:
        raise UsageError(f"{words[0]}: no such command; {nearest(words[0], commands)}")
    parsed, rest = parser.parse_known_args(words)
    for word in rest:
        if word.startswith("-"):
            usage = commands.get(parsed.command, parser).format_usage()
            raise UsageError(f"{word}: no such option; {nearest(word, re.findall(r'--[a-z-]+', usage))}")
    if rest:  # argparse fills a list once, and leaves the words after an option
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
    """Run one command and return its exit code: 0 success, 2 invalid input, 3 failed, 75 stopped or busy."""
    # Threads that wait actively make small matrix products many times slower on a busy machine.
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
        importlib.import_module(f"elbo_bench.commands.{parsed.command}").run(parsed)
    except ElboBenchError as error:
        say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        say("stopped; the same command continues from the saved state")
        return 75
    except (MemoryError, RuntimeError) as error:
        if problem := memory_problem(error):
            say(f"out of memory: {problem}")
        elif peer_problem(error):
            say("another process of this run ended; the same command continues from the saved state")
        else:
            raise
        return 3
    except OSError as error:  # a full disk, or a folder without write permission
        say(f"{error.filename or 'system'}: {error.strerror or error}")
        return 3
    return 0
