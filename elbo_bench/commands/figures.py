"""`elbo-bench figures`: the plots and the table of a leaderboard as files for a paper."""

import argparse
import json
import re
from pathlib import Path

from elbo_bench.commands.leaderboard import ranked
from elbo_bench.errors import UsageError
from elbo_bench.files import atomic_write, runs_root
from elbo_bench.progress import ProgressLine
from elbo_bench.report.charts import plots
from elbo_bench.report.figures import figure
from elbo_bench.report.formats import latex, to_latex
from elbo_bench.report.shown import Shown


def run(arguments: argparse.Namespace) -> None:
    """Write SVG, PDF and PNG of every plot, and `leaderboard.tex`, into a folder. Create the folder if needed.

    Raises:
        UsageError: There is no record, or the folder cannot be written.
    """
    if not 1 <= arguments.width <= 20:
        raise UsageError(f"--width {arguments.width:g}: should be the width of a column, 1 to 20 inches")
    parts = ranked([Path(folder) for folder in arguments.runs] or [runs_root()])
    out = Path(arguments.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be made: {error.strerror or error}") from None
    drawn = [
        (f"{prefix}{plot.name}", plot)
        for prefix, rows in zip(_prefixes([rows[0].data for rows in parts]), parts, strict=True)
        for plot in plots(Shown.of(rows))
    ]
    written = []
    with ProgressLine("drawing figures", len(drawn)) as line:
        for done, (name, plot) in enumerate(drawn, 1):
            for form, content in figure(plot, arguments.width).items():
                written.append(out / f"{name}.{form}")
                _write(written[-1], content)
            line.update(done)
    captions = "".join(f"\\newcommand{{\\caption{_command(name)}}}{{{latex(plot.caption)}}}\n" for name, plot in drawn)
    for path, text in ((out / "leaderboard.tex", to_latex(parts)), (out / "captions.tex", captions)):
        written.append(path)
        _write(path, text.encode())
    if arguments.json:
        print(json.dumps([str(path) for path in written], indent=2))  # noqa: T201
    else:
        for path in written:
            print(path)  # noqa: T201


def _prefixes(names: list[str]) -> list[str]:
    """Return the prefix of the files of each data contract: empty if there is one, else its number and name."""
    if len(names) == 1:
        return [""]
    return [f"{number}-{re.sub(r'[^A-Za-z0-9_]', '-', name)[:60]}-" for number, name in enumerate(names, 1)]


def _command(name: str) -> str:
    """Return a name as the letters of a TeX command: `k-curve` becomes `KCurve`."""
    digits = dict(zip("0123456789", "ABCDEFGHIJ", strict=True))
    words = re.findall(r"[A-Za-z0-9]+", name)
    return "".join("".join(digits.get(sign, sign) for sign in word.capitalize()) for word in words)


def _write(path: Path, content: bytes) -> None:
    try:
        with atomic_write(path) as new:
            new.write_bytes(content)
    except OSError as error:
        raise UsageError(f"--out {path}: cannot be written: {error.strerror or error}") from None
