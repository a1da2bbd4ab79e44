"""The composer: from `key=value` words to a checked configuration, and from a configuration to objects.

A group is a mapping. Its `name` chooses `conf/<group>/<name>.yaml`, and its other keys override the values in that
file. Names of groups and keys are checked without an import of the components. Types and ranges are the type hints of
the component's parameters; the YAML names the component as its `target`.
"""

import copy
import dataclasses
import hashlib
import inspect
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from elbo_bench.config.catalogue import Catalogue, Config, conf_root, is_own, load_yaml
from elbo_bench.config.overrides import parse_overrides
from elbo_bench.config.typed import check_value, parameters
from elbo_bench.errors import UsageError, nearest, shown

# Keys that say where a run is computed and how it is logged. They do not change its results. The path of the user's
# data is one of them: `data.sha256`, which is filled in before a run has a name, identifies the data.
PLACEMENT = (
    "data.in_memory",
    "data.path",
    "data.readers",
    "then_evaluate",
    "tracking",
    "trainer.accelerator",
    "trainer.checkpoint_seconds",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "evaluation.workers",
)


def resolve(tokens: Sequence[str] = (), catalogue: Catalogue | None = None) -> Config:
    """Return the full configuration: `config.yaml`, overridden by the experiment, overridden by the command line.

    It checks names and keys only. See `check` for values.

    Raises:
        UsageError: A name or key does not exist. The message suggests a valid one.
    """
    catalogue = catalogue or Catalogue.of()
    base = load_yaml(conf_root() / "config.yaml")
    given = parse_overrides(tokens, catalogue)
    layers = [base]
    if "experiment" in given:
        layers.append(catalogue.read("experiment", given.pop("experiment"))[0])
    layers.append(given)
    for layer in layers[1:]:
        for key in layer:
            if key not in base:
                raise UsageError(f"{key}: no such key; {nearest(key, [*base, 'experiment'])}")
    merged = {key: _merge(key, [layer[key] for layer in layers if key in layer], catalogue) for key in base}
    return _interpolate(merged)


def _merge(key: str, layers: list[Any], catalogue: Catalogue) -> Any:
    if isinstance(layers[0], dict):
        return resolve_group(key, key, layers, catalogue)
    if key == "then_evaluate":
        return _evaluations(layers[-1], catalogue)
    if isinstance(layers[-1], dict):
        raise UsageError(f"{key}={shown(layers[-1])}: {key} is a plain value, not a group")
    return layers[-1]


def _evaluations(wanted: Any, catalogue: Catalogue) -> list[Config]:
    if not isinstance(wanted, list):
        raise UsageError(f"then_evaluate={shown(wanted)}: should be a list of evaluations, such as [gradients]")
    resolved = []
    for number, each in enumerate(wanted):
        if not isinstance(each, str | dict):
            raise UsageError(f"then_evaluate[{number}]={shown(each)}: should be a name or a mapping with one")
        resolved.append(resolve_group(f"then_evaluate[{number}]", "evaluation", [each], catalogue))
    return resolved


def resolve_group(path: str, group: str, layers: Sequence[Any], catalogue: Catalogue) -> Config:
    """Return one group with all of its keys: the defaults of the name that the last layer chooses, with overrides.

    A layer with another name discards the overrides of earlier layers, because they belong to another component.

    Raises:
        UsageError: A name or key does not exist.
    """
    name: object = None
    overrides: list[Config] = []
    for layer in layers:
        mapping = layer if isinstance(layer, dict) else {"name": layer}
        if "name" in mapping and mapping["name"] != name:
            name, overrides = mapping["name"], []
        overrides.append({key: value for key, value in mapping.items() if key != "name"})
    defaults, own = catalogue.read(group, name)
    target = defaults.pop("target", None)
    resolved: Config = {"name": name}
    if not own and isinstance(target, str) and not is_own(target):
        resolved["target"] = target  # a record must name code outside of the project
    for given in overrides:
        for key in given:
            if key not in defaults:
                raise UsageError(f"{path}.{key}: {group} {name} has no such key; {nearest(key, defaults)}")
    for key, default in defaults.items():
        values = [given[key] for given in overrides if key in given]
        if isinstance(default, dict) and key in catalogue.groups():
            resolved[key] = resolve_group(f"{path}.{key}", key, [default, *values], catalogue)
        elif isinstance(default, dict) and all(isinstance(value, dict) for value in values):
            resolved[key] = _plain_mapping(f"{path}.{key}", default, values)
        else:
            resolved[key] = copy.deepcopy(values[-1] if values else default)
    return resolved


def _plain_mapping(path: str, default: Config, given: Sequence[Config]) -> Config:
    """Return a mapping that is not a group: the defaults with the given values."""
    for key in itertools.chain.from_iterable(given):
        if key not in default:
            raise UsageError(f"{path}.{key}: no such key; {nearest(key, default)}")
    merged = copy.deepcopy(default)
    for mapping in given:
        merged |= copy.deepcopy(mapping)
    return merged


def _interpolate(merged: Config) -> Config:
    try:
        container = OmegaConf.to_container(OmegaConf.create(merged), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(
            f"{getattr(error, 'full_key', None) or 'configuration'}: {str(error).splitlines()[0]}"
        ) from None
    return container  # type: ignore[return-value]


def check(resolved: Config, catalogue: Catalogue | None = None, *, only: Sequence[str] | None = None) -> Config:
    """Import every component and return the configuration with each value converted to the type of its parameter.

    If `only` is given, the other keys are not checked.

    Raises:
        UsageError: A value has the wrong type or is out of range. The message names the key.
    """
    catalogue = catalogue or Catalogue.of()
    checked: Config = {}
    for key, value in resolved.items():
        if only is not None and key not in only:
            checked[key] = value
        elif key in catalogue.groups():
            checked[key] = _check_component(key, key, value, catalogue)
        elif key == "then_evaluate":
            checked[key] = [
                _check_component(f"{key}[{number}]", "evaluation", each, catalogue) for number, each in enumerate(value)
            ]
        else:
            checked[key] = _check(key, value, int, minimum=0)
    return checked


def _check_component(path: str, group: str, node: Config, catalogue: Catalogue) -> Config:
    target, accepted = _accepted(group, node["name"], catalogue)
    checked: Config = {key: node[key] for key in ("name", "target") if key in node}
    for key, value in node.items():
        if key in checked:
            continue
        if key not in accepted:
            raise UsageError(f"{path}.{key}: {target.__qualname__} has no such parameter; {nearest(key, accepted)}")
        if isinstance(value, dict) and key in catalogue.groups():
            checked[key] = _check_component(f"{path}.{key}", key, value, catalogue)
        else:
            checked[key] = _check(f"{path}.{key}", value, accepted[key])
    return checked


def _accepted(group: str, name: str, catalogue: Catalogue) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return a component and the parameters that it accepts by name."""
    target = catalogue.target(group, name)
    try:
        return target, parameters(target)
    except Exception as error:  # a type hint may be any expression
        raise UsageError(f"{group}={name}: its parameters cannot be read ({type(error).__name__}: {error})") from None


def _check(path: str, value: Any, annotation: Any, minimum: int | None = None) -> Any:
    if dataclasses.is_dataclass(annotation) and isinstance(value, dict):
        accepted = parameters(annotation)  # type: ignore[arg-type]
        return {key: _check(f"{path}.{key}", each, accepted.get(key)) for key, each in value.items()}
    problem = _number_problem(value)  # also for parameters without a type hint
    if problem is not None:
        raise UsageError(f"{path}={shown(value)}: {problem}")
    try:
        typed = check_value(value, annotation)
    except ValueError as error:
        raise UsageError(f"{path}={shown(value)}: {error}") from None
    if minimum is not None and typed < minimum:
        raise UsageError(f"{path}={shown(value)}: should be greater than or equal to {minimum}")
    return list(typed) if isinstance(typed, tuple) else typed


def _number_problem(value: Any) -> str | None:
    """Return why a number, or a number inside a value, is not usable; None if there is no problem."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return next(filter(None, map(_number_problem, inner)), None)
    if isinstance(value, float) and not math.isfinite(value):
        return "should be a finite number"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "should fit into 64 bits"
    return None


def make(group: str, node: Config, catalogue: Catalogue | None = None, **injected: Any) -> Any:
    """Build the object of a resolved group.

    Args:
        group: The name of the group.
        node: The resolved configuration of the group, with its `name`.
        catalogue: The catalogue that contains the names.
        injected: Arguments that come from the program and not from the configuration (`info`, `model`, ...). Each
            component receives those that are in its signature.

    Raises:
        UsageError: The component rejects a value.
    """
    catalogue = catalogue or Catalogue.of()
    target, accepted = _accepted(group, node["name"], catalogue)
    arguments = {key: value for key, value in injected.items() if key in accepted}
    for key, value in node.items():
        if key in ("name", "target"):
            continue
        if isinstance(value, dict) and key in catalogue.groups():
            arguments[key] = make(key, value, catalogue, **injected)
        elif isinstance(value, dict) and dataclasses.is_dataclass(accepted[key]):
            arguments[key] = _dataclass(f"{group}.{key}", value, accepted[key])
        else:
            arguments[key] = check_value(value, accepted[key])
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError as error:
        raise UsageError(f"{group}={node['name']}: its YAML does not fit {target.__qualname__}: {error}") from None
    try:
        return target(**arguments)
    except ValueError as error:
        raise UsageError(f"{group}={node['name']}: {error}") from None


def _dataclass(path: str, value: Config, kind: Any) -> Any:
    accepted = parameters(kind)
    if unknown := next((key for key in value if key not in accepted), None):
        raise UsageError(f"{path}.{unknown}: no such key; {nearest(unknown, accepted)}")
    try:
        return kind(**{key: check_value(each, accepted[key]) for key, each in value.items()})
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None


def build(group: str, name: str, *, conf: Sequence[str | Path] = (), **overrides: Any) -> Any:
    """Build a component by name, as the command line does.

    `build("objective", "iwae", num_samples=50)` is `objective=iwae objective.num_samples=50` on the command line.
    Parameters of the component that are not keys of the YAML are passed to it: `build("model", "mlp", info=info)`.

    Raises:
        UsageError: A name or a key does not exist, or a value has the wrong type or is out of range.
    """
    catalogue = Catalogue.of(conf)
    if group not in catalogue.groups():
        raise UsageError(f"{group}: no such group; {nearest(group, catalogue.groups())}")
    keys = set(catalogue.read(group, name)[0]) - {"target"}
    accepted = _accepted(group, name, catalogue)[1]
    injected = {key: value for key, value in overrides.items() if key not in keys and key in accepted}
    configured = {key: value for key, value in overrides.items() if key not in injected}
    node = _interpolate({group: resolve_group(group, group, [{"name": name, **configured}], catalogue)})[group]
    return make(group, _check_component(group, group, node, catalogue), catalogue, **injected)


def load_recorded(recorded: Config, catalogue: Catalogue, *, trust: bool) -> tuple[Config, Catalogue]:
    """Return the configuration of a record, and the catalogue to build it with.

    A record must not run code. Targets outside of `elbo_bench` are imported only if `trust` is true.

    Raises:
        UsageError: The record is not a configuration, or it needs code outside of `elbo_bench` without `trust`.
    """
    base = load_yaml(conf_root() / "config.yaml")
    unknown = next((key for key in recorded if key not in base), None)
    if unknown is not None:
        raise UsageError(f"the recorded configuration has the key {unknown}; {nearest(unknown, base)}")
    trusted: dict[tuple[str, str], Config] = {}

    def strip(group: str, node: Config) -> Config:
        name, target = node.get("name"), node.get("target")
        if not isinstance(name, str):
            raise UsageError(f"the recorded configuration does not say which {group} the run used")
        stripped = {
            key: strip(key, value) if isinstance(value, dict) and key in catalogue.groups() else value
            for key, value in node.items()
            if key != "target"
        }
        if target is not None:
            known = name in catalogue.names(group) and catalogue.read(group, name)[0].get("target") == target
            if not known and not trust:
                raise UsageError(
                    f"the run used {group} {name} from outside elbo_bench ({target}): "
                    "give its folder by --conf DIR, or --trust the record"
                )
            if not known:
                trusted[group, name] = {"target": target, **{key: stripped[key] for key in stripped if key != "name"}}
        return stripped

    try:
        plain = {key: strip(key, value) if isinstance(value, dict) else value for key, value in recorded.items()}
    except RecursionError:
        raise UsageError("the recorded configuration is nested too deeply") from None
    if "${" in json.dumps(plain):
        raise UsageError("the recorded configuration contains an interpolation, which is not allowed in a record")
    catalogue = dataclasses.replace(catalogue, recorded=trusted)
    plain.pop("then_evaluate", None)  # does not belong to the training
    return {
        key: _merge(key, [base[key], *([plain[key]] if key in plain else [])], catalogue) for key in base
    }, catalogue


def identity(checked: Config) -> Config:
    """Return the part of a configuration that determines the results: without placement, tracking and paths."""
    kept = {key: value for key, value in checked.items() if key not in PLACEMENT}
    for path in PLACEMENT:
        group, _, key = path.partition(".")
        if key and isinstance(kept.get(group), dict):
            kept[group] = {name: value for name, value in kept[group].items() if name != key}
    return kept


def digest(configuration: Config) -> str:
    """Return a hash of a configuration, 10 hexadecimal digits. The order of keys does not matter."""
    canonical = json.dumps(configuration, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def run_id(checked: Config) -> str:
    """Return a readable name of a run. Runs with the same results have the same name."""
    objective = checked["objective"]
    parts = [checked["data"]["name"], checked["model"]["name"], objective["name"]]
    if objective.get("num_samples", 1) != 1:
        parts.append(f"k{objective['num_samples']}")
    parts.append(f"s{checked['seed']}")
    return f"{'-'.join(parts)[:200]}-{digest(identity(checked))}"  # a file name has at most 255 bytes


def to_yaml(configuration: Config) -> str:
    """Return a configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(configuration))
