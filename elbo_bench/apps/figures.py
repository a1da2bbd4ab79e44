"""`elbo-bench figures`: the plots of a leaderboard, and its table, as files for a paper."""

import argparse
import json
import re
from pathlib import Path

from elbo_bench.apps.leaderboard import ranked
from elbo_bench.apps.paths import runs_root
from elbo_bench.errors import UsageError
from elbo_bench.progress import ProgressLine
from elbo_bench.report.charts import plots
from elbo_bench.report.figures import figure
from elbo_bench.report.formats import latex, to_latex
from elbo_bench.report.shown import Shown
from elbo_bench.results.record import replace_bytes


def run(arguments: argparse.Namespace) -> None:
    """Write SVG, PDF and PNG of every plot, and `leaderboard.tex`, into a folder, which is made if need be.

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
        for prefix, rows in zip(_prefixes([rows[0]["data"] for rows in parts]), parts, strict=True)
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
    for place, text in ((out / "leaderboard.tex", to_latex(parts)), (out / "captions.tex", captions)):
        written.append(place)
        _write(place, text.encode())
    if arguments.json:
        print(json.dumps([str(place) for place in written], indent=2))  # noqa: T201
    else:
        for place in written:
            print(place)  # noqa: T201


def _prefixes(names: list[str]) -> list[str]:
    """Return what the files of each data contract begin with: nothing if there is one, else its number and name."""
    if len(names) == 1:
        return [""]
    return [f"{number}-{re.sub(r'[^A-Za-z0-9_]', '-', name)[:60]}-" for number, name in enumerate(names, 1)]


def _command(name: str) -> str:
    """Return a name as letters only, of which TeX's commands are made: `k-curve` is `KCurve`."""
    digits = dict(zip("0123456789", "ABCDEFGHIJ", strict=True))
    words = re.findall(r"[A-Za-z0-9]+", name)
    return "".join("".join(digits.get(sign, sign) for sign in word.capitalize()) for word in words)


def _write(place: Path, content: bytes) -> None:
    try:
        replace_bytes(place, content)
    except OSError as error:
        raise UsageError(f"--out {place}: cannot be written: {error.strerror or error}") from None
