"""The catalogue: the components that can be chosen by name, and the YAML file of each name."""

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

from elbo_bench.errors import UsageError, in_a_line, nearest, shown

Config = dict[str, Any]


def conf_root() -> Path:
    """Return the folder of YAML files: `conf/` of the checkout, or the copy in the installed wheel."""
    package = Path(__file__).resolve().parents[1]
    # An editable install leaves an old copy inside the package, so the checkout comes first.
    if (package.parent / "pyproject.toml").is_file() and (package.parent / "conf").is_dir():
        return package.parent / "conf"
    return package / "conf"


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The components that can be chosen by name. The file is `<folder>/<group>/<name>.yaml` in the first such folder.

    Attributes:
        folders: The user's `--conf` folders, then the `conf/` folder of the project.
        recorded: YAML of components that a record contains and the user trusts, by (group, name).
    """

    folders: tuple[Path, ...]
    recorded: Mapping[tuple[str, str], Config] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, extra: Sequence[str | Path] = ()) -> "Catalogue":
        """Return the catalogue of `extra` folders, followed by the project's folder.

        Raises:
            UsageError: A folder does not exist.
        """
        for folder in extra:
            if not str(folder) or not Path(folder).is_dir():
                raise UsageError(f"--conf '{folder}' is not a folder")
        return cls((*(Path(folder) for folder in extra), conf_root()))

    def groups(self) -> set[str]:
        """Return the names of all groups."""
        found = {path.name for folder in self.folders for path in folder.iterdir() if path.is_dir()}
        return found - {"experiment", "paper"}

    def names(self, group: str) -> list[str]:
        """Return the names of a group, sorted."""
        found = {path.stem for folder in self.folders for path in (folder / group).glob("*.yaml") if path.is_file()}
        return sorted(found | {name for recorded, name in self.recorded if recorded == group})

    def read(self, group: str, name: object) -> tuple[Config, bool]:
        """Return the YAML of a name of a group, and whether it is a file of the project.

        Raises:
            UsageError: The name does not exist, or the file is not a mapping.
        """
        if isinstance(name, str) and (group, name) in self.recorded:
            return copy.deepcopy(self.recorded[group, name]), False
        if not isinstance(name, str) or name not in self.names(group):
            raise UsageError(f"{group}={shown(name)}: no such {group}; {nearest(name, self.names(group))}")
        for folder in self.folders:
            path = folder / group / f"{name}.yaml"
            if path.is_file():
                return load_yaml(path), folder == conf_root()
        raise AssertionError("a file was deleted after names() had listed it")

    def target(self, group: str, name: str) -> Callable[..., Any]:
        """Import and return the class or function that a name of the catalogue stands for.

        Raises:
            UsageError: It cannot be imported, or a YAML file of the project names code outside the project.
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
            what = in_a_line(error)
            raise UsageError(
                f"{group}={name}: cannot import {path} ({what}); is it installed, or on PYTHONPATH?"
            ) from None
        if not callable(found):
            raise UsageError(f"{group}={name}: {path} is not callable")
        if inspect.isabstract(found):
            missing = ", ".join(sorted(found.__abstractmethods__))
            raise UsageError(f"{group}={name}: {path} is abstract: it does not define {missing}")
        return found  # type: ignore[no-any-return]


def is_own(path: str) -> bool:
    """Return whether a target is part of this package."""
    return path.startswith("elbo_bench.")


def load_yaml(path: Path) -> Config:
    """Read a YAML mapping. `1e-3` is a number, and a repeated key is an error.

    Raises:
        UsageError: The file does not exist or is not a YAML mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Config:
    """Return YAML text as a mapping. `where` is the source of the text in error messages.

    Raises:
        UsageError: The text is not a YAML mapping.
    """
    return copy.deepcopy(_parsed(text, where))


@functools.lru_cache(maxsize=1024)  # a sweep reads the same files for each trial
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
