"""The catalogue: which components can be named, and the YAML that each name stands for."""

import copy
import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from elbo_bench.errors import UsageError, nearest, shown

Config = dict[str, Any]


def conf_root() -> Path:
    """Return the folder of YAML files: the checkout's own, else the one that travels in the wheel."""
    package = Path(__file__).resolve().parent
    # An editable install leaves a stale copy inside the package: the repository's own comes first.
    if (package.parent / "pyproject.toml").is_file() and (package.parent / "conf").is_dir():
        return package.parent / "conf"
    return package / "conf"


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The components that can be named: `<folder>/<group>/<name>.yaml` for each folder, the first one found wins.

    Attributes:
        folders: The user's `--conf` folders, then the project's own.
        recorded: Components of a record that the user trusts, by (group, name).
    """

    folders: tuple[Path, ...]
    recorded: Mapping[tuple[str, str], Config] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, extra: Sequence[str | Path] = ()) -> "Catalogue":
        """Return the catalogue of `extra` folders in front of the project's own.

        Raises:
            UsageError: A folder does not exist.
        """
        for folder in extra:
            if not str(folder) or not Path(folder).is_dir():
                raise UsageError(f"--conf '{folder}' is not a folder")
        return cls((*(Path(folder) for folder in extra), conf_root()))

    def groups(self) -> set[str]:
        """Return the names of all groups."""
        found = {place.name for folder in self.folders for place in folder.iterdir() if place.is_dir()}
        return found - {"experiment", "paper"}

    def names(self, group: str) -> list[str]:
        """Return the names within a group, sorted."""
        found = {place.stem for folder in self.folders for place in (folder / group).glob("*.yaml") if place.is_file()}
        return sorted(found | {name for recorded, name in self.recorded if recorded == group})

    def read(self, group: str, name: object) -> tuple[Config, bool]:
        """Return the YAML of a name within a group, and whether it is the project's own.

        Raises:
            UsageError: There is no such name, or the file is not a mapping.
        """
        if isinstance(name, str) and (group, name) in self.recorded:
            return copy.deepcopy(self.recorded[group, name]), False
        if not isinstance(name, str) or name not in self.names(group):
            raise UsageError(f"{group}={shown(name)}: no such {group}; {nearest(name, self.names(group))}")
        for folder in self.folders:
            place = folder / group / f"{name}.yaml"
            if place.is_file():
                return load_yaml(place), folder == conf_root()
        raise AssertionError("names() listed a file that is gone")

    def target(self, group: str, name: str) -> Callable[..., Any]:
        """Import and return what a name stands for.

        Raises:
            UsageError: It cannot be imported, or a file of the project names code from outside of it.
        """
        written, own = self.read(group, name)
        path = written.get("target")
        if not isinstance(path, str) or path.count(":") != 1:
            raise UsageError(f"{group}={name}: its YAML must say `target: package.module:Name`, not {path!r}")
        module, _, attribute = path.partition(":")
        if own and not is_own(path):
            raise UsageError(
                f"{group}={name}: {path} is not part of elbo_bench; name it from a folder of your own, --conf DIR"
            )
        try:
            found = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # a module may raise anything
            what = f"{type(error).__name__}: {error}"
            raise UsageError(
                f"{group}={name}: cannot import {path} ({what}); is it installed, or on PYTHONPATH?"
            ) from None
        if not callable(found):
            raise UsageError(f"{group}={name}: {path} is not callable")
        if inspect.isabstract(found):
            lacking = ", ".join(sorted(found.__abstractmethods__))
            raise UsageError(f"{group}={name}: {path} is abstract, it lacks {lacking}")
        return found  # type: ignore[no-any-return]


def is_own(path: str) -> bool:
    """Return whether a target is part of this package."""
    return path.startswith("elbo_bench.")


def load_yaml(place: Path) -> Config:
    """Read a YAML mapping; `1e-3` is a number and a key that stands twice is an error.

    Raises:
        UsageError: The file is missing or is not a YAML mapping.
    """
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{place} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse_yaml(text, str(place))


def parse_yaml(text: str, where: str) -> Config:
    """Return YAML text as a mapping; `where` is what an error names.

    Raises:
        UsageError: It is not a YAML mapping.
    """
    return copy.deepcopy(_parsed(text, where))


@functools.lru_cache(maxsize=1024)  # a sweep reads the same files for each of its trials
def _parsed(text: str, where: str) -> Config:
    try:
        loaded = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, AssertionError, RecursionError, ValueError) as error:
        problem = getattr(error, "problem", None) or str(error).split("\n")[0] or "not a mapping"
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None and "\n" in text else ""
        raise UsageError(f"{where}{line}: not valid YAML: {problem}") from None
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise UsageError(f"{where}: must be a mapping of names to values")
    return loaded  # type: ignore[return-value]
