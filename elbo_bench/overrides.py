"""The `key=value` words of a command line, read into a nested mapping: names are not looked up, values not checked."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from elbo_bench.catalogue import Catalogue, Config, parse_yaml
from elbo_bench.errors import UsageError


def parse_overrides(tokens: Sequence[str], catalogue: Catalogue) -> Config:
    """Return `key=value` tokens as a nested mapping; `objective=iwae` is sugar for `objective.name=iwae`.

    Raises:
        UsageError: A token is malformed, or a key is given twice.
    """
    groups, nested = catalogue.groups(), {}  # type: set[str], Config
    for token, key, value in itertools.chain.from_iterable(map(_leaves, tokens)):
        path = key.split(".")
        if path[-1] == "target":
            raise UsageError(
                f"{key}: a target cannot be set from the command line; write a YAML and give its folder by --conf DIR"
            )
        if path[-1] in groups and not isinstance(value, dict):
            path.append("name")
        node = nested
        for depth, part in enumerate(path[:-1]):
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UsageError(f"{token}: {'.'.join(path[: depth + 1])} already has the value {node!r}")
        if path[-1] in node:
            raise UsageError(f"{key} is given twice")
        node[path[-1]] = value
    return nested


def _leaves(token: str) -> Iterator[tuple[str, str, Any]]:
    """Yield `key=value` as token, key, value; `key={a: 1, b: 2}` as what `key.a=1 key.b=2` would be."""
    key, equals, text = token.partition("=")
    one_line = len(f"{text}.".splitlines()) == 1  # YAML would read a second line as another key
    value = parse_yaml(f"value: {text}", token)["value"] if equals and one_line else text
    value = _python_null(value)
    if isinstance(value, int | float) and re.match(r"\s*[-+]?(0[0-9_]|.*:)", text):
        raise UsageError(f"{token}: YAML takes this for the number {value}; write that, or a string in quotes")
    below = [(key, value)]
    while below:
        key, value = below.pop()
        if not equals or not all(part.isidentifier() for part in key.split(".")):
            raise UsageError(f"'{token}' is not of the form key=value, such as objective=iwae or optimizer.lr=1e-3")
        if isinstance(value, dict) and value:
            below += [(f"{key}.{inner}", inside) for inner, inside in value.items()]
        else:
            yield token, key, value


def _python_null(value: Any) -> Any:
    """Return a value with Python's `None` as null, also within: W&B's agents write values as Python does."""
    if isinstance(value, dict):
        return {key: _python_null(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_python_null(inner) for inner in value]
    return None if value == "None" else value
