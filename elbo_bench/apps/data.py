"""`elbo-bench data`: which data sets there are, and whether their files are the official ones."""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from elbo_bench import config
from elbo_bench.apps.terminal import console
from elbo_bench.catalogue import Catalogue
from elbo_bench.data.dataset import DataSource
from elbo_bench.data.files import data_root
from elbo_bench.errors import UsageError


def run(arguments: argparse.Namespace) -> None:
    """List the data sets, or verify the files of some of them.

    Raises:
        UsageError: A name does not exist, or a file is missing or not the official one.
    """
    catalogue, root = Catalogue.of(arguments.conf), data_root()
    names = arguments.names or catalogue.names("data")
    sources = {name: _source(name, catalogue) for name in names}
    describe = _verified if arguments.action == "verify" else _listed
    rows = [describe(name, source, root) for name, source in sources.items()]
    _show(rows, root, as_json=arguments.json)
    bad = [file for row in rows for file in row.get("problems", [])]
    if bad:
        raise UsageError(f"{len(bad)} data file{'s are' if len(bad) > 1 else ' is'} missing or wrong: {bad[0]}")


def _source(name: str, catalogue: Catalogue) -> DataSource:
    node = config.resolve_group("data", "data", [{"name": name}], catalogue)
    source = config.make("data", config.check({"data": node}, catalogue)["data"], catalogue)
    if not isinstance(source, DataSource):
        raise UsageError(f"data={name}: it is no elbo_bench.data.dataset.DataSource")
    return source


def _listed(name: str, source: DataSource, root: Path) -> dict[str, Any]:
    present = all((root / file.path).is_file() for file in source.files)
    return {
        "name": name,
        "observation": source.observation,
        "here": "built in" if not source.files else "yes" if present else "no",
        "protocol": source.protocol,
        "licence": source.licence,
        "citation": source.citation,
        "files": [{"path": file.path, "sha256": file.sha256} for file in source.files],
    }


def _verified(name: str, source: DataSource, root: Path) -> dict[str, Any]:
    problems: list[str] = []
    checked: dict[str, str] = {}
    for file in source.files:
        try:
            file.read(root)
            checked[file.path] = "ok"
        except UsageError as error:
            checked[file.path] = str(error)
            problems.append(str(error))
    return {"name": name, "files": checked, "problems": problems}


def _show(rows: list[dict[str, Any]], root: Path, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))  # noqa: T201
        return
    table = Table(title=Text(f"data sets; files are looked for in {root}"), title_justify="left")
    if rows and "problems" in rows[0]:
        for column in ("name", "file", "is"):
            table.add_column(column, overflow="fold")
        for row in rows:
            for path, state in row["files"].items():
                table.add_row(row["name"], path, "official" if state == "ok" else "missing or wrong")
            if not row["files"]:
                table.add_row(row["name"], "built in", "official")
    else:
        for column in ("name", "observation", "here", "protocol", "licence"):
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(
                *(Text(str(row[column])) for column in ("name", "observation", "here", "protocol", "licence"))
            )
    console(110).print(table)
