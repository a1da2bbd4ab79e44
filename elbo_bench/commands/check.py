"""`elbo-bench check`: test objectives and models, the project's or a user's, against the laws."""

import argparse
import contextlib
import dataclasses
import importlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text
from torch import nn

from elbo_bench import config
from elbo_bench.config.catalogue import Catalogue, Config
from elbo_bench.config.overrides import parse_overrides
from elbo_bench.config.typed import parameters
from elbo_bench.conformance import (
    MODEL_LAWS,
    OBJECTIVE_LAWS,
    ModelSubject,
    ObjectiveSubject,
    Verdict,
    judge_all,
)
from elbo_bench.errors import RunFailedError, UsageError, in_a_line, nearest, shown
from elbo_bench.objectives.base import Objective
from elbo_bench.progress import ProgressLine
from elbo_bench.report.console import console

GROUPS = ("objective", "model")
LOG_WEIGHTS = 1_000_000
SAMPLES = 50_000
NUM_TRAIN = 1000
"""Number of training examples that an objective receives if it has such a parameter."""


@dataclasses.dataclass(frozen=True)
class Component:
    """A component to check: a name of the catalogue, or a class of the user.

    Attributes:
        group: `"objective"` or `"model"`.
        name: The name in the catalogue, or the import path `package.module:Class`.
        node: Its checked configuration.
        catalogue: The catalogue that contains it.
    """

    group: str
    name: str
    node: Config
    catalogue: Catalogue

    @property
    def label(self) -> str:
        """The component as the user named it."""
        return self.name if ":" in self.name else f"{self.group}={self.name}"

    @property
    def keys(self) -> set[str]:
        """The names of its parameters."""
        return set(parameters(self.catalogue.target(self.group, self.name)))

    def make(self, given: Mapping[str, Any], **injected: Any) -> Any:
        """Build the component. `given` overrides values of its configuration.

        Raises:
            UsageError: The component rejects a value.
        """
        with _renamed_errors(self.name):
            return config.make(self.group, {**self.node, **given}, self.catalogue, **injected)


def run(arguments: argparse.Namespace) -> None:
    """Print the verdict of each law for each component.

    Raises:
        UsageError: A component does not exist or rejects a value.
        RunFailedError: A law is broken.
    """
    components = _components(arguments.targets, Catalogue.of(arguments.conf))
    reports: list[dict[str, Any]] = []
    for component in components:
        reports += _objective(component) if component.group == "objective" else _model(component)
    _show(reports, as_json=arguments.json)
    broken = [f"{report['component']}: {law['law']}" for report in reports for law in _of(report, "broken")]
    if broken:
        raise RunFailedError(f"broken: {'; '.join(dict.fromkeys(broken))}")


def _components(words: list[str], catalogue: Catalogue) -> list[Component]:
    """Return the components that the words of the command line name.

    Raises:
        UsageError: A word is malformed, or a component does not exist.
    """
    paths = [word for word in words if re.fullmatch(r"[^=]*:[^=]*", word)]
    names = [word.partition("=")[::2] for word in words if word.partition("=")[0] in GROUPS and "=" in word]
    given = parse_overrides(
        [word for word in words if word not in paths and word.partition("=")[0] not in GROUPS], catalogue
    )
    of_group = {group: given.pop(group, {}) for group in GROUPS}
    names += [(group, values.pop("name")) for group, values in of_group.items() if "name" in values]
    if not paths and not names:
        raise UsageError("name what is to be checked, such as objective=iwae, model=mlp or my_lab.bounds:MyBound")
    targets = [(path, _group_of(path)) for path in paths]
    if given and not paths:
        key = next(iter(given))
        raise UsageError(f"{key}: say whose key that is, such as {names[0][0]}.{key}={shown(given[key])}")
    for group, values in of_group.items():
        if values and group not in [*(group for _, group in targets), *(group for group, _ in names)]:
            raise UsageError(f"{group}.{next(iter(values))}: no {group} is checked")
    found = []
    for path, group in targets:
        # A class of the user needs no YAML: the words of the command line are its configuration.
        mine = {"target": path, **given, **of_group[group]}
        own = dataclasses.replace(catalogue, recorded={(group, path): mine})
        with _renamed_errors(path, f"{group}."):
            found.append(_component(group, path, {}, own))
    return [*found, *(_component(group, name, of_group[group], catalogue) for group, name in names)]


def _component(group: str, name: str, given: Config, catalogue: Catalogue) -> Component:
    node = config.resolve_group(group, group, [{"name": name, **given}], catalogue)
    return Component(group, name, config.check({group: node}, catalogue)[group], catalogue)


@contextlib.contextmanager
def _renamed_errors(name: str, prefix: str = "") -> Iterator[None]:
    """Reword errors about a class of the user, which has no YAML."""
    try:
        yield
    except UsageError as error:
        if ":" not in name:
            raise
        words = str(error).removeprefix(prefix)
        for group in GROUPS:
            words = words.removeprefix(f"{group}={name}: ")
        raise UsageError(f"{name}: {words.replace('its YAML does not fit', 'what is given does not fit')}") from None


def _group_of(path: str) -> str:
    """Import a class and return its group.

    Raises:
        UsageError: It cannot be imported, or it is neither an objective nor a model.
    """
    module_name, _, attribute = path.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise UsageError(f"{path} is not of the form package.module:Name")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module may raise anything
        what = in_a_line(error)
        raise UsageError(f"cannot import {module_name} ({what}); is it installed, or on PYTHONPATH?") from None
    if not hasattr(module, attribute):
        classes = [name for name, value in vars(module).items() if inspect.isclass(value) and not name.startswith("_")]
        raise UsageError(f"{module_name} has no {attribute}; {nearest(attribute, classes)}")
    found = getattr(module, attribute)
    if inspect.isclass(found) and issubclass(found, Objective):
        return "objective"
    parts = ("posterior", "prior", "likelihood")
    if inspect.isclass(found) and issubclass(found, nn.Module) and all(hasattr(found, part) for part in parts):
        return "model"
    raise UsageError(
        f"{path} is neither an elbo_bench.objectives.base.Objective nor a torch.nn.Module with {', '.join(parts)}"
    )


def _objective(component: Component) -> list[dict[str, Any]]:
    try:
        objective = component.make({}, num_train=NUM_TRAIN)
    except UsageError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise UsageError(f"{component.label}: raises {in_a_line(error)}") from None
    if not isinstance(objective, Objective):
        raise UsageError(f"{component.label}: it is no elbo_bench.objectives.base.Objective")
    variants = [objective]
    if objective.samples_required == 1 and objective.latents == "sampled":
        # With one sample a mean equals a sum, and many mistakes stay hidden: test three samples, too.
        with contextlib.suppress(Exception):  # it accepts one sample only
            variants.append(dataclasses.replace(objective, num_samples=3))
    reports = []
    for variant in variants:
        values = {field.name: getattr(variant, field.name) for field in dataclasses.fields(variant)}
        with ProgressLine(f"checking {component.label}", len(OBJECTIVE_LAWS)) as line:
            verdicts = judge_all(OBJECTIVE_LAWS, ObjectiveSubject(variant, LOG_WEIGHTS), line.update)
        reports.append(_report(component, values, verdicts))
    return reports


def _model(component: Component) -> list[dict[str, Any]]:
    def build(info: object, **given: Any) -> nn.Module:
        model = component.make(given, info=info)
        if not isinstance(model, nn.Module):
            raise UsageError(f"{component.label}: it is no {nn.Module.__module__}.Module")
        return model

    subject = ModelSubject(build, component.keys, SAMPLES)
    with ProgressLine(f"checking {component.label}", len(MODEL_LAWS)) as line:
        try:
            kind = subject.kind
        except UsageError as error:
            raise UsageError(f"{component.label}: {error}") from None
        except Exception as error:  # a user's code may raise anything
            problem = f"raises {in_a_line(error)}"
            verdicts = [Verdict("it can be built for some data", "DataInfo, data_info.py", "broken", problem)]
            return [_report(component, {}, verdicts)]
        verdicts = judge_all(MODEL_LAWS, subject, line.update)
    values = {key: value for key, value in component.node.items() if key not in ("name", "target")}
    return [_report(component, {**values, "data": str(kind)}, verdicts)]


def _report(component: Component, values: dict[str, Any], verdicts: list[Verdict]) -> dict[str, Any]:
    return {
        "component": component.label,
        "group": component.group,
        "parameters": values,
        "laws": [dataclasses.asdict(verdict) for verdict in verdicts],
    }


def _of(report: dict[str, Any], status: str) -> list[dict[str, str]]:
    return [law for law in report["laws"] if law["status"] == status]


def _show(reports: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(reports, indent=2, default=str))  # noqa: T201
        return
    out = console(140)
    for report in reports:
        values = " ".join(f"{key}={_plain(value)}" for key, value in report["parameters"].items())
        table = Table(title=Text(f"{report['component']}  {values}".rstrip()), title_justify="left")
        table.add_column("law")
        table.add_column("verdict")
        table.add_column("what was found", overflow="fold")
        for law in report["laws"]:
            style = {"holds": "green", "broken": "bold red", "skipped": "dim"}[law["status"]]
            table.add_row(Text(law["law"]), Text(law["status"], style=style), Text(law["seen"]))
        out.print(table)
    counts = {status: sum(len(_of(report, status)) for report in reports) for status in ("holds", "broken", "skipped")}
    out.print(Text(f"{counts['holds']} laws hold, {counts['broken']} are broken, {counts['skipped']} do not apply"))


def _plain(value: object) -> str:
    return str(value["name"]) if isinstance(value, dict) and "name" in value else shown(value)
