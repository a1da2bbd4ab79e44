"""`elbo-bench data`: which data sets there are, whether their files are the official ones, and how they look."""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich import box
from rich.table import Table
from rich.text import Text

from elbo_bench import config
from elbo_bench.config.catalogue import Catalogue, Config
from elbo_bench.config.overrides import parse_overrides
from elbo_bench.data.dataset import Dataset, DataSource
from elbo_bench.data.reading.fetch import fetch
from elbo_bench.data.reading.files import DataFile, data_root, suggest_fetch
from elbo_bench.errors import ElboBenchError, RunFailedError, UsageError, printable
from elbo_bench.progress import ProgressLine
from elbo_bench.report.console import console
from elbo_bench.results.pictures import is_image, write_sheet

_SPLITS = ("train", "validation", "test")
_ROWS, _COLUMNS = 4, 20  # of a sheet, for each split
_TILE = 112  # pixels along an edge of an image on a sheet, at most
_MOST_VALUES = 20_000_000  # of the images of a split that are looked at, beyond a row
_WIDTH = 110


def run(arguments: argparse.Namespace) -> None:
    """List the data sets, fetch or verify the files of some of them, or draw one.

    Raises:
        UsageError: A name does not exist, or a file is missing or not the official one.
        RunFailedError: A file could not be fetched, or official files give another test split than expected.
    """
    action, words = arguments.action, arguments.names
    for option, given, owner in (("--force", arguments.force, "fetch"), ("--out", arguments.out, "show")):
        if given and action != owner:
            raise UsageError(f"{option} goes with `elbo-bench data {owner}`, not with `data {action}`")
    catalogue, root = Catalogue.of(arguments.conf), data_root()
    if action == "show":
        _show(words, arguments.out, catalogue, root, as_json=arguments.json)
        return
    if pair := next((word for word in words if "=" in word), None):
        raise UsageError(f"'{pair}' is no name of a data set; key=value goes with `elbo-bench data show`")
    sources = {name: _source(name, catalogue) for name in words or catalogue.names("data")}
    if action == "list":
        _list(sources, root, as_json=arguments.json)
    elif action == "fetch":
        _fetch(sources, root, force=arguments.force, as_json=arguments.json)
    else:
        _verify(sources, catalogue, root, as_json=arguments.json)


def _source(name: str, catalogue: Catalogue, keys: Config | None = None) -> DataSource:
    node = config.resolve_group("data", "data", [{"name": name}, keys or {}], catalogue)
    source = config.make("data", config.check({"data": node}, catalogue)["data"], catalogue)
    if not isinstance(source, DataSource):
        raise UsageError(f"data={name}: it is no elbo_bench.data.dataset.DataSource")
    return source


def _without_files(source: DataSource) -> str | None:
    """Return where the data come from if no file is fetched for them: "built in", or "yours" behind a `path`."""
    if source.files:
        return None
    return "yours" if hasattr(source, "path") else "built in"


def _print(
    rows: list[dict[str, Any]], title: str, table: Table, cells: Iterable[Sequence[str]], *, as_json: bool
) -> None:
    """Print rows as JSON, or cells as a table below its title."""
    if as_json:
        print(json.dumps(rows, indent=2))  # noqa: T201
        return
    for row in cells:
        table.add_row(*(Text(printable(cell)) for cell in row))
    shown = console(_WIDTH)
    shown.print(Text(printable(title)), soft_wrap=True)
    shown.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


# ---------------------------------------------------------------- list


def _list(sources: dict[str, DataSource], root: Path, *, as_json: bool) -> None:
    rows = [_listed(name, source, root) for name, source in sources.items()]
    columns = ("name", "observation", "here", "protocol", "licence")
    table = _table(*columns)
    table.leading = 1
    for column in table.columns[:3]:
        column.no_wrap = True
    table.columns[3].ratio, table.columns[4].max_width = 1, 20
    cells = ([row[column] for column in columns] for row in rows)
    _print(rows, f"data sets; files are looked for in {root}", table, cells, as_json=as_json)


def _listed(name: str, source: DataSource, root: Path) -> dict[str, Any]:
    here = all(file.path_in(root).is_file() for file in source.files)
    return {
        "name": name,
        "observation": "by values" if getattr(source, "values", "") is None else source.observation,
        "here": _without_files(source) or ("yes" if here else "no"),
        "protocol": source.protocol,
        "licence": source.licence,
        "citation": source.citation,
        "homepage": source.homepage,
        "files": [
            {
                "path": file.path,
                "bytes": file.size,
                "sha256": file.sha256,
                "git_blob": file.git_blob,
                "addresses": list(file.addresses),
            }
            for file in source.files
        ],
    }


# ---------------------------------------------------------------- fetch


def _fetch(sources: dict[str, DataSource], root: Path, *, force: bool, as_json: bool) -> None:
    files = {file for source in sources.values() for file in source.files if file.addresses}
    missing = [file for file in files if not file.path_in(root).is_file()]
    if missing:
        size = sum(file.size or 0 for file in missing) / 1e6
        unknown = sum(file.size is None for file in missing)
        more = f", and {unknown} of unknown size" if unknown else ""
        print(  # noqa: T201
            f"elbo-bench: to be fetched into {root}: {len(missing)} of {len(files)} files, {size:.1f} MB{more}",
            file=sys.stderr,
            flush=True,
        )
    outcomes: dict[DataFile, str | ElboBenchError] = {}  # data sets share files: each is tried once
    rows = [_fetched(name, source, outcomes, root=root, force=force) for name, source in sources.items()]
    errors = [error for error in outcomes.values() if isinstance(error, ElboBenchError)]
    addresses = {file.path: file.addresses for file in files}
    cells: list[tuple[str, str, str]] = []
    for row in rows:
        # A single problem is the command's last line; of several that line says but one.
        says = {"failed": row["problems"][0] if row["problems"] and len(errors) > 1 else "failed"}
        for path, state in row["files"].items():
            by_hand = f": put {addresses[path][0]} there" if state == "not tried" else ""
            cells.append((row["name"], path, says.get(state, state) + by_hand))
        if not row["files"]:
            cells.append((row["name"], "", row["is"]))
    _print(rows, f"data sets; files belong in {root}", _table("name", "file", "is"), cells, as_json=as_json)
    if errors:
        kind = RunFailedError if any(isinstance(error, RunFailedError) for error in errors) else UsageError
        raise kind(f"{len(errors)} data files could not be had: {errors[0]}" if len(errors) > 1 else str(errors[0]))


def _fetched(
    name: str, source: DataSource, outcomes: dict[DataFile, str | ElboBenchError], *, root: Path, force: bool
) -> dict[str, Any]:
    """Fetch the files of a data set, up to the first one that cannot be had."""
    states: dict[str, str] = {}
    problems: list[str] = []
    for file in source.files:
        if file not in outcomes:
            try:
                outcomes[file] = fetch(file, root, force=force)
            except (UsageError, RunFailedError) as error:
                outcomes[file] = error
        outcome = outcomes[file]
        states[file.path] = "failed" if isinstance(outcome, ElboBenchError) else outcome
        if isinstance(outcome, ElboBenchError):
            problems.append(str(outcome))
            rest = (other for other in source.files if other.path not in states and other.addresses)
            states |= {other.path: "not tried" for other in rest if not other.path_in(root).is_file()}
            break
    found = set(states.values())
    state = _without_files(source) or next(word for word in ("failed", "fetched", "here", "built in") if word in found)
    return {"name": name, "is": state, "files": states, "problems": problems}


# ---------------------------------------------------------------- verify


def _verify(sources: dict[str, DataSource], catalogue: Catalogue, root: Path, *, as_json: bool) -> None:
    rows = []
    with ProgressLine("verifying data sets", len(sources), enabled=len(sources) > 1) as line:
        for done, (name, source) in enumerate(sources.items()):
            line.update(done, name)
            rows.append(_verified(name, source, catalogue, root))
        line.update(len(sources))
    cells: list[tuple[str, str, str]] = []
    for row in rows:
        cells += [
            (row["name"], path, "official" if state == "ok" else "missing or wrong")
            for path, state in row["files"].items()
        ]
        cells.append((row["name"], "test split", _words(row)))
    _print(rows, f"data sets; files are looked for in {root}", _table("name", "file", "is"), cells, as_json=as_json)
    wrong = [error for row in rows for error in row["files"].values() if error != "ok"]
    if wrong:
        raise UsageError(f"{len(wrong)} data file{'s are' if len(wrong) > 1 else ' is'} missing or wrong: {wrong[0]}")
    if broken := [error for row in rows for error in row["problems"]]:
        raise RunFailedError(broken[0])


def _verified(name: str, source: DataSource, catalogue: Catalogue, root: Path) -> dict[str, Any]:
    """Hold the files of a data set against their hashes and, if all are right, the test split against its own."""
    files: dict[str, str] = {}
    problems: list[str] = []
    found: str | None = None
    expected: str | None = None
    for file in source.files:
        try:
            with suggest_fetch(name):
                file.read(root)
            files[file.path] = "ok"
        except UsageError as error:
            files[file.path] = str(error)
            problems.append(str(error))
    if not problems and _without_files(source) != "yours":
        try:
            dataset = source.load(root)
            found = dataset.test_sha256
        except (UsageError, RunFailedError) as error:
            problems.append(f"data {name} cannot be loaded: {error}")
        else:
            if catalogue.read("data", name)[1]:  # hashes are known for the defaults of our own YAML files
                expected = source.test_sha256.get(dataset.values)
            if expected is not None and found != expected:
                problems.append(
                    f"data {name}: its files are official, but the test split made of them is not what it should be: "
                    f"sha256 {found[:16]}..., expected {expected[:16]}..."
                )
    return {"name": name, "files": files, "test_sha256": found, "expected_sha256": expected, "problems": problems}


def _words(row: dict[str, Any]) -> str:
    """Return what a table says of a test split."""
    if row["test_sha256"] is None:
        return "not loaded" if row["problems"] else "yours"
    said = "no hash known" if row["expected_sha256"] is None else "WRONG" if row["problems"] else "as expected"
    return f"sha256 {row['test_sha256'][:16]}..., {said}"


# ---------------------------------------------------------------- show


def _show(words: Sequence[str], out: str | None, catalogue: Catalogue, root: Path, *, as_json: bool) -> None:
    names = [word for word in words if "=" not in word]
    if len(names) != 1:
        raise UsageError(f"`elbo-bench data show` draws one data set, not {len(names)}: give one NAME")
    (name,) = names
    keys = parse_overrides([word.removeprefix("data.") for word in words if "=" in word], catalogue)
    if "name" in keys:
        raise UsageError(f"name={keys['name']}: the data set already has the name {name}; remove `name`")
    source = _source(name, catalogue, keys)
    path = _picture(out if out is not None else f"{name}.png")
    with suggest_fetch(name):
        dataset = source.load(root)
    shape = dataset.info.shape
    if not is_image(shape) and len(shape) != 1:
        raise UsageError(f"data={name}: an observation of shape {list(shape)} is no picture, and no vector")
    sheet = np.concatenate([_band(dataset, split) for split in _SPLITS])
    try:
        write_sheet(path, sheet)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise UsageError(f"--out {path}: it cannot be written: {getattr(error, 'strerror', None) or error}") from None
    facts: dict[str, Any] = {
        "path": str(path),
        "name": name,
        "splits": {split: len(getattr(dataset, split)) for split in _SPLITS},
        "protocol": dataset.protocol,
        "shape": list(shape),
        "train_mean": float(dataset.info.train_mean.mean()),
        "licence": source.licence,
        "citation": source.citation,
    }
    if as_json:
        print(json.dumps(facts, indent=2))  # noqa: T201
        return
    sizes = ", ".join(f"{split} ({size} examples)" for split, size in facts["splits"].items())
    table = Table.grid(padding=(0, 2))
    for key, value in {
        "written": str(path),
        "from above": f"{_ROWS} rows each of {sizes}",
        "protocol": dataset.protocol,
        "shape": " x ".join(map(str, shape)),
        "mean of train": f"{facts['train_mean']:.4g}",
        "licence": source.licence,
        "citation": source.citation,
    }.items():
        table.add_row(key, Text(printable(value), overflow="fold"))
    console(_WIDTH).print(table)


def _picture(out: str) -> Path:
    """Return where the picture goes; nothing is read before that is known to be possible.

    Raises:
        UsageError: It is no PNG, its folder does not exist, or it cannot be written.
    """
    path = Path(out)
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: the picture is a PNG, so its name ends in .png")
    if not path.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {path.parent}")
    try:
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(f"--out {out}: it is a folder, or lies in one that cannot be written")
    except OSError as error:  # a name that is too long
        raise UsageError(f"--out {out}: {error.strerror or error}") from None
    return path


def _band(dataset: Dataset, split: str) -> Float[np.ndarray, "rows columns *image"]:
    """Return examples of a split as grey values, row by row; empty cells are grey."""
    shape = dataset.info.shape if is_image(dataset.info.shape) else (1, *dataset.info.shape)
    step = -(-max(shape[-2:]) // _TILE)  # of large images every step-th pixel
    height, width = (-(-length // step) for length in shape[-2:])
    band = np.full((_ROWS * _COLUMNS, *shape[:-2], height, width), 0.5, dtype=np.float32)
    some = min(_ROWS * _COLUMNS, max(_COLUMNS, _MOST_VALUES // math.prod(shape)))
    if len(getattr(dataset, split)):
        x, _ = dataset.observations(split, some)
        band[: len(x)] = dataset.grey(x.float()).view(-1, *shape)[..., ::step, ::step].numpy()
    return band.reshape(_ROWS, _COLUMNS, *band.shape[1:])
